//! The node's interfaces: read, told to the program, and watched.

use std::{io, ops::ControlFlow};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::core::Command;
use crate::{
    config::Config,
    datapath::{DataPath, HopWatch},
    hops::{self, Word},
    interfaces::{Interfaces, Reader, watch},
    netlink::events::Events,
};

/// The kernel's word of interfaces and of their changes, from before the first reading on.
pub(super) struct Watched {
    reader: Reader,
    events: Vec<Events>,
    hops: hops::Watch,
}

impl Watched {
    pub(super) fn open() -> anyhow::Result<Self> {
        const WHAT: &str = "cannot ask the kernel for its network interfaces over netlink";
        let reader = Reader::open().context(WHAT)?;
        if !reader.knows_features() {
            tracing::warn!(
                "the kernel does not tell which interfaces take redirected frames (it is older than 6.3); \
                 it is assumed that hardware does, and frames to an interface that does not are lost"
            );
        }
        let events = reader.subscribe().context(WHAT)?;
        let hops = hops::Watch::open()
            .context("cannot ask the kernel for its neighbours and routes over netlink")?;
        Ok(Self {
            reader,
            events,
            hops,
        })
    }

    pub(super) fn read(&mut self) -> anyhow::Result<Interfaces> {
        self.reader
            .read()
            .context("cannot read the kernel's list of network interfaces")
    }

    /// Tells the core of changes from now on, and the program, past the core, of those that next hops depend on.
    pub(super) fn start(self, core: mpsc::Sender<Command>, hops: HopWatch) -> io::Result<()> {
        self.hops.start(move |word| {
            let told = match word {
                Word::Changed => hops.raise(),
                Word::Watching if cfg!(mutant = "hop-unrenewed") => Ok(()),
                Word::Watching => hops.renew(),
            };
            if let Err(error) = told {
                tracing::error!(%error, "flows keep next hops that may have changed, for a second at most");
            }
        })?;
        watch(self.reader, self.events, move |interfaces| {
            match core.blocking_send(Command::Interfaces(interfaces)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })
    }
}

/// Tells the program what the node's interfaces are now, and the log what has changed since `before`.
pub(super) fn tell(path: &mut DataPath, config: &Config, before: &Interfaces, now: &Interfaces) {
    match path.set_interfaces(now.records()) {
        Ok(beyond) => log_beyond(config, &beyond, before, now),
        Err(error) => tracing::error!(%error, "the program does not know the node's interfaces"),
    }
    match path.set_node_addresses(now.addresses()) {
        Ok(0) => {}
        Ok(beyond) => tracing::warn!(
            beyond,
            "the node has more addresses than the program can be told of; packets with these as a forged source \
             begin flows, and may meet the node's own connections to backends"
        ),
        Err(error) => tracing::error!(%error, "the program does not know the node's addresses"),
    }
    for name in &config.agent.interfaces {
        log_change(
            name,
            before.takes_redirects(name),
            now.takes_redirects(name),
        );
    }
}

fn log_beyond(config: &Config, beyond: &[u32], before: &Interfaces, now: &Interfaces) {
    for &index in beyond {
        let name = now.name(index);
        if before.name(index) != name {
            tracing::warn!(
                interface = name,
                index,
                limit = config.agent.limits.interfaces,
                "the index of this interface is beyond `interfaces` of [agent.limits], so the program takes it for \
                 one without a VLAN that takes redirected frames; raise the limit, then `switcher detach` and start \
                 the agent again"
            );
        }
    }
}

fn log_change(interface: &str, before: Option<bool>, now: Option<bool>) {
    match (before, now) {
        (None | Some(true), Some(false)) => tracing::warn!(
            interface,
            "it takes no redirected frames: what leaves by it goes through the stack, which is slower; \
             the other end of a veth device needs GRO or an XDP program"
        ),
        (Some(false), Some(true)) => {
            tracing::info!(interface, "it takes redirected frames again");
        }
        _ => {}
    }
}
