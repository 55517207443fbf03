//! An apply becomes visible as a whole: between any two of its bpf(2) calls, packets see all of the
//! configuration of before or all of the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use switcher_common::service::Color::{self, Blue, Green};
use switcher_common::service::{PerColor, Protocol, ServiceSwitch};
use switcher_tests::bpf::between_bpf_calls;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::config::Config;
use switcher_userspace::datapath::{Action, DrainedBackend, Leaving, Runner, Wanted};

use crate::flows::Flows;
use crate::packet::{ACK, PSH, Packet};
use crate::rig::{Rig, first};
use crate::setup::{Kind, Listener, Setup};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    /// A fresh flow goes to backend 0 or 1 of a color.
    To(Color, usize),
    /// No listener, or no backend whose replies could be told apart.
    Nowhere,
    /// It is ours, and dropped.
    Dropped,
    /// It is not ours.
    Passed,
}
use Goes::{Dropped, Nowhere, Passed, To};

/// VIP whose listeners never change: blue's backend 0.
const STAYS: u8 = 0;
const CHANGES_BACKEND: u8 = 1;
const IS_REMOVED: u8 = 2;
const IS_ADDED: u8 = 3;
/// Its other backend goes: reachable along the ring only.
const RING_SHRINKS: u8 = 4;
/// Another backend comes: reachable along the ring only.
const RING_GROWS: u8 = 5;

/// A service for each VIP with listeners of all kinds, and these backends of blue.
fn setup(lab: &Lab, vips: &[(u8, &[usize])]) -> Setup {
    let service = |&(vip, blue): &(u8, &[usize])| {
        let listener = |kind: Kind| Listener {
            vip: endpoint(kind, vip),
            backends: PerColor {
                blue: blue
                    .iter()
                    .map(|&at| (kind.backends(lab, Blue)[at], 1))
                    .collect(),
                green: vec![(own_backend(lab, kind, vip), 1)],
            },
            ..kind.listener(lab, 0)
        };
        Kind::ALL.map(listener).to_vec()
    };
    let mut setup = Setup::new(vips.iter().map(service).collect());
    setup.names = vips.iter().map(|(vip, _)| format!("vip{vip}")).collect();
    setup
}

/// VIPs that no host of the lab has: an address of its own for each number.
fn endpoint(kind: Kind, vip: u8) -> SocketAddr {
    let address: IpAddr = match kind.family {
        Family::V4 => [203, 0, 113, 10 + vip].into(),
        Family::V6 => [0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 10 + u16::from(vip)].into(),
    };
    SocketAddr::new(address, kind.vip_port())
}

/// A VIP's backend of green: no other VIP has it.
fn own_backend(lab: &Lab, kind: Kind, vip: u8) -> SocketAddr {
    let mut backend = kind.backends(lab, Green)[0];
    backend.set_port(backend.port() + 100 * u16::from(vip));
    backend
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
enum Sends {
    /// The first packet of a flow to a VIP.
    First(u8),
    /// The same, from a client's port that is in use with [`STAYS`], so that backend 0 of blue is
    /// taken.
    FirstWithBackend0Taken(u8),
    /// A packet to a VIP without whole ports.
    Broken(u8),
    /// A packet of a VIP's own backend without a flow.
    Reply(u8),
}
use Sends::{Broken, First, FirstWithBackend0Taken, Reply};

/// What is sent, and what becomes of it before and after.
type Probe = (Sends, Goes, Goes);

/// Sends packets through the program with handles of its own.
struct Sender<'a> {
    lab: &'a Lab,
    runner: Runner,
    flows: Flows,
    port: u16,
}

impl<'a> Sender<'a> {
    fn new(lab: &'a Lab, rig: &mut Rig) -> Result<Self> {
        Ok(Self {
            lab,
            runner: rig.path.runner()?,
            flows: Flows::open(&rig.config.agent.pin_dir)?,
            port: 2_000,
        })
    }

    fn send(&self, kind: Kind, what: Sends) -> Result<Goes> {
        let client = self.lab.topology().links[0].far_addresses(kind.family)[0];
        let client = SocketAddr::new(client, self.port);
        let first = |vip| first(kind, client, endpoint(kind, vip));
        match what {
            First(vip) => self.fresh(kind, &first(vip)),
            FirstWithBackend0Taken(vip) => {
                let taken = self.fresh(kind, &first(STAYS))?;
                ensure!(taken == To(Blue, 0), "{kind:?} to VIP {STAYS}: {taken:?}");
                self.fresh(kind, &first(vip))
            }
            Broken(vip) => {
                let mut frame = first(vip).bytes()?;
                let ip_len = match kind.family {
                    Family::V4 => 20,
                    Family::V6 => 40,
                };
                frame.truncate(14 + ip_len + 2);
                self.action(&frame)
            }
            Reply(vip) => {
                let backend = own_backend(self.lab, kind, vip);
                let reply = match kind.protocol {
                    Protocol::Tcp => Packet::tcp(backend, client, PSH | ACK, 7, 8),
                    Protocol::Udp => Packet::udp(backend, client),
                };
                self.action(&reply.bytes()?)
            }
        }
    }

    /// Where a fresh flow goes.
    fn fresh(&self, kind: Kind, packet: &Packet) -> Result<Goes> {
        self.runner.run(&packet.bytes()?, 0)?;
        let Some(flow) = self.flows.of(packet)? else {
            return Ok(Nowhere);
        };
        let backends = match flow.color {
            Blue => kind.backends(self.lab, Blue),
            Green => vec![own_backend(self.lab, kind, IS_ADDED)],
        };
        let at = backends.iter().position(|backend| *backend == flow.backend);
        Ok(To(flow.color, at.context("a backend of the VIP")?))
    }

    fn action(&self, frame: &[u8]) -> Result<Goes> {
        match self.runner.run(frame, 0)?.action {
            Action::Drop => Ok(Dropped),
            Action::Pass => Ok(Passed),
            other => bail!("{other:?}"),
        }
    }

    /// Whether all probes see what is after the change; an error when some do and others do not.
    fn is_after(&mut self, probes: &[Probe]) -> Result<bool> {
        let mut seen = BTreeMap::new();
        for kind in Kind::ALL {
            for &(what, before, after) in probes {
                self.port += 1;
                let goes = self.send(kind, what)?;
                let what = format!("{kind:?} {what:?}: {goes:?}");
                ensure!(
                    goes == before || goes == after,
                    "{what}, neither as before nor as after"
                );
                seen.insert(what, goes == after);
            }
        }
        let after: BTreeSet<bool> = seen.values().copied().collect();
        ensure!(after.len() == 1, "some as before, some as after: {seen:#?}");
        Ok(after.contains(&true))
    }
}

/// Applies `config`, and looks at `probes` before each of its bpf(2) calls.
fn watch(
    rig: &mut Rig,
    sender: &mut Sender<'_>,
    config: &Config,
    drained: &BTreeSet<DrainedBackend>,
    probes: &[Probe],
) -> Result<()> {
    ensure!(!sender.is_after(probes)?, "all as before at first");
    let mut moments = vec![false];
    let (path, scanner) = (&mut rig.path, &mut rig.scanner);
    let apply = || {
        path.apply(
            &Wanted {
                config,
                drained,
                leaving: Leaving::AT_ONCE,
            },
            scanner,
            |path, ids| {
                let states = states(path.switch_states()?, ids);
                path.switch(&states).map(drop)
            },
        )?;
        Ok(())
    };
    let ((), calls) = between_bpf_calls(apply, |call| {
        moments.push(
            sender
                .is_after(probes)
                .with_context(|| format!("before bpf(2) call {call}"))?,
        );
        Ok(())
    })?;
    moments.push(sender.is_after(probes)?);
    ensure!(calls > 5, "an apply of {calls} calls: were they seen?");
    ensure!(moments.ends_with(&[true]), "all as after at last");
    let switches = moments.windows(2).filter(|pair| pair[0] != pair[1]).count();
    ensure!(switches == 1, "visible for a while, then not: {moments:?}");
    Ok(())
}

/// Green is active in the service that is added, blue in all others. Those that are about to be
/// removed keep their state of `before`.
fn states(before: Vec<ServiceSwitch>, ids: &[(u16, String)]) -> Vec<ServiceSwitch> {
    let mut states = before;
    for (id, name) in ids {
        let color = if *name == format!("vip{IS_ADDED}") {
            Green
        } else {
            Blue
        };
        states[usize::from(*id)] = ServiceSwitch {
            active: color as u8,
            base: color as u8,
            ..ServiceSwitch::default()
        };
    }
    states
}

#[test]
fn between_the_calls_of_an_apply_all_packets_see_the_old_or_all_the_new_configuration() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let old = setup(
        &lab,
        &[
            (STAYS, &[0]),
            (CHANGES_BACKEND, &[0]),
            (IS_REMOVED, &[1]),
            (RING_SHRINKS, &[0, 1]),
            (RING_GROWS, &[0]),
        ],
    );
    let new = setup(
        &lab,
        &[
            (IS_ADDED, &[1]),
            (CHANGES_BACKEND, &[1]),
            (RING_GROWS, &[0, 1]),
            (STAYS, &[0]),
            (RING_SHRINKS, &[0]),
        ],
    );
    let there = [
        (First(CHANGES_BACKEND), To(Blue, 0), To(Blue, 1)),
        (First(IS_REMOVED), To(Blue, 1), Nowhere),
        (First(IS_ADDED), Nowhere, To(Green, 0)),
        (FirstWithBackend0Taken(RING_SHRINKS), To(Blue, 1), Nowhere),
        (FirstWithBackend0Taken(RING_GROWS), Nowhere, To(Blue, 1)),
        (Broken(IS_REMOVED), Dropped, Passed),
        (Broken(IS_ADDED), Passed, Dropped),
        (Reply(IS_REMOVED), Dropped, Passed),
        (Reply(IS_ADDED), Passed, Dropped),
    ];
    let back = there.map(|(what, before, after)| (what, after, before));
    Rig::with(&lab, &old, |rig| {
        let pin_dir = rig.config.agent.pin_dir.clone();
        let mut sender = Sender::new(&lab, rig)?;
        let (old, new) = (old.config(&pin_dir)?, new.config(&pin_dir)?);
        let none = BTreeSet::new();
        for (config, probes) in [(&new, &there), (&old, &back), (&new, &there)] {
            watch(rig, &mut sender, config, &none, probes)?;
        }
        Ok(())
    })
}

#[test]
fn a_drained_backend_takes_no_fresh_flow_from_one_call_on_and_its_flows_go_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = setup(&lab, &[(STAYS, &[0]), (RING_SHRINKS, &[0, 1])]);
    // SYNs are sent again here, and are to go where they went.
    setup.second_chance = false;
    Rig::with(&lab, &setup, |rig| {
        let config = setup.config(&rig.config.agent.pin_dir)?;
        let mut sender = Sender::new(&lab, rig)?;
        // The one that is drained is reached along the ring, before.
        let ring = FirstWithBackend0Taken(RING_SHRINKS);
        let (probes, back) = (
            [(ring, To(Blue, 1), Nowhere)],
            [(ring, Nowhere, To(Blue, 1))],
        );
        let backends = Kind::ALL.map(|kind| DrainedBackend {
            service: format!("vip{RING_SHRINKS}"),
            endpoint: kind.backends(&lab, Blue)[1],
            list: None,
        });
        let (none, drained) = (BTreeSet::new(), BTreeSet::from(backends));
        let pinned = pinned(rig)?;
        ensure!(
            pinned.values().any(|backend| backend.port() != 0),
            "flows on the backend that is drained"
        );
        watch(rig, &mut sender, &config, &drained, &probes)?;
        for kind in Kind::ALL {
            for _ in 0..200 {
                sender.port += 1;
                let goes = sender.send(kind, First(RING_SHRINKS))?;
                ensure!(goes == To(Blue, 0), "{kind:?}: a fresh flow goes {goes:?}");
            }
        }
        ensure!(self::pinned(rig)? == pinned, "pinned flows go on");
        watch(rig, &mut sender, &config, &none, &back)
    })
}

/// The backends of some flows to [`RING_SHRINKS`], each of which gets another packet.
fn pinned(rig: &mut Rig) -> Result<BTreeMap<SocketAddr, SocketAddr>> {
    let mut backends = BTreeMap::new();
    for (kind, number) in Kind::ALL.into_iter().zip(0..) {
        for port in 0..20 {
            let client = rig.client(kind.family, 1_000 + 20 * number + port);
            let packet = first(kind, client, endpoint(kind, RING_SHRINKS));
            rig.run(&packet.bytes()?)?;
            backends.insert(client, rig.flow(&packet)?.backend);
        }
    }
    Ok(backends)
}
