//! The thread that sees whatever may change a flow's next hop, and has the program forget those that it keeps.
//!
//! It waits for nobody in the agent: what the kernel tells is passed on at once. While it watches, it says so again
//! and again; without that word a hop is a second old at most.

mod neighbours;
mod outages;
mod pace;

use std::{convert::Infallible, io, thread, time::Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::{neighbours::Neighbours, outages::Outages, pace::Pace};
use crate::netlink::{
    Netlink,
    events::{Events, Message},
    neighbour,
};

/// Of `linux/rtnetlink.h`: `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`,
/// `_IPV6_ROUTE`, `_IPV6_RULE`, `_IPV4_NETCONF` and `_IPV6_NETCONF` (whether an interface forwards), `_NEXTHOP`.
const GROUPS: [u32; 11] = [1, 3, 5, 7, 8, 9, 11, 19, 24, 25, 32];
/// Room for what comes during a rest: some thousand messages.
const BUFFER_BYTES: usize = 1 << 20;

/// How often the program hears that somebody watches: four times while it believes one word.
const RENEWAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};

/// What the program is to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Hops may have changed.
    Changed,
    /// All changes until now, but for those of the newest rest, were told of.
    Watching,
}

/// The kernel's word of changes, from before the first hop that the program keeps for this agent.
pub(crate) struct Watch {
    events: Events,
    route: Netlink,
    neighbours: Neighbours,
}

impl Watch {
    /// Subscribes, in the network namespace of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        let events = Events::subscribe(NETLINK_ROUTE, &GROUPS)?;
        events.set_buffer(BUFFER_BYTES)?;
        let mut route = Netlink::open(NETLINK_ROUTE)?;
        let neighbours = Neighbours::of(neighbour::all(&mut route)?);
        Ok(Self {
            events,
            route,
            neighbours,
        })
    }

    /// Starts the thread, which says by `tell` that hops have changed first of all, for what was while no agent ran,
    /// and then after each change.
    pub(crate) fn start(self, mut tell: impl FnMut(Word) + Send + 'static) -> io::Result<()> {
        thread::Builder::new()
            .name("hops".to_owned())
            .spawn(move || keep_watching(self, &mut tell))
            .map(drop)
    }

    /// Tells of a change at once, and as [`Pace`] says after changes, until the kernel's word cannot be had any more.
    fn run(&mut self, tell: &mut impl FnMut(Word)) -> io::Result<Infallible> {
        let mut pace = Pace::default();
        let mut has_news = true;
        loop {
            if pace.take(has_news, Instant::now()) {
                tell(Word::Changed);
            }
            tell(Word::Watching);
            match pace.rest(Instant::now()) {
                // What comes meanwhile waits in the socket.
                Some(rest) => thread::sleep(rest),
                None => self.wait()?,
            }
            has_news = self.has_changed()?;
        }
    }

    /// Waits until something has come, or it is time to say that somebody watches.
    fn wait(&self) -> io::Result<()> {
        match poll(
            &mut [PollFd::new(&self.events, PollFlags::IN)],
            Some(&RENEWAL),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes all that has come; whether it may change a hop.
    fn has_changed(&mut self) -> io::Result<bool> {
        let mut has_changed = false;
        let neighbours = &mut self.neighbours;
        let all_came = self.events.take(|message| {
            has_changed |= match message {
                Message::Read(RouteNetlinkMessage::NewNeighbour(it)) => {
                    neighbour::known(&it).is_some_and(|it| neighbours.take(it))
                }
                Message::Read(RouteNetlinkMessage::DelNeighbour(it)) => {
                    neighbour::forgotten(&it).is_some_and(|it| neighbours.take(it))
                }
                Message::Read(_) | Message::Unreadable => true,
            };
        })?;
        if !all_came {
            self.neighbours = match neighbour::all(&mut self.route) {
                Ok(all) => Neighbours::of(all),
                Err(error) => {
                    tracing::warn!(%error, "neighbours are not read; any word of one counts as a change");
                    Neighbours::default()
                }
            };
        }
        Ok(has_changed || !all_came)
    }
}

/// Watches for good. Where that fails, changes may have gone unseen, as when messages are lost: it raises, and
/// subscribes again.
fn keep_watching(first: Watch, tell: &mut impl FnMut(Word)) {
    let mut outages = Outages::default();
    let mut watch = Ok(first);
    loop {
        let began = Instant::now();
        let Err(error) = watch.and_then(|mut it: Watch| it.run(tell));
        tell(Word::Changed);
        let outage = outages.failed(began.elapsed());
        if outage.is_new {
            tracing::error!(
                %error,
                "changes of routes and neighbours are not seen: packets of established flows may go astray for up to \
                 a second after each; the agent subscribes to them again by itself, and says so here"
            );
        }
        thread::sleep(outage.wait);
        watch = Watch::open();
        if watch.is_ok() && outages.ended() {
            tracing::warn!("changes of routes and neighbours are seen again");
        }
    }
}
