//! An apply becomes visible as a whole: between any two of its bpf(2) calls, packets see all of the
//! configuration of before or all of the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use switcher_common::service::Color::{self, Blue, Green};
use switcher_common::service::{PerColor, ServiceSwitch};
use switcher_tests::bpf::between_bpf_calls;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::config::Config;
use switcher_userspace::datapath::{DrainedBackend, Runner, Wanted};

use crate::flows::Flows;
use crate::rig::{Rig, first};
use crate::setup::{Kind, Listener, Setup};

/// Where a fresh flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    /// To backend 0 or 1 of a color.
    To(Color, usize),
    /// Nowhere: no listener, or no backend whose replies could be told apart.
    Nowhere,
}
use Goes::{Nowhere, To};

/// VIP whose listeners never change: blue's backend 0.
const STAYS: u8 = 0;
const CHANGES_BACKEND: u8 = 1;
const IS_REMOVED: u8 = 2;
const IS_ADDED: u8 = 3;
/// Its other backend goes: reachable along the ring only.
const RING_SHRINKS: u8 = 4;
/// Another backend comes: reachable along the ring only.
const RING_GROWS: u8 = 5;

/// A service for each VIP with listeners of all kinds, and these backends of blue; green is always backend 0.
fn setup(lab: &Lab, vips: &[(u8, &[usize])]) -> Setup {
    let service = |&(vip, blue): &(u8, &[usize])| {
        let listener = |kind: Kind| Listener {
            vip: endpoint(lab, kind, vip),
            backends: PerColor {
                blue: blue
                    .iter()
                    .map(|&at| (kind.backends(lab, Blue)[at], 1))
                    .collect(),
                green: vec![(kind.backends(lab, Green)[0], 1)],
            },
            ..kind.listener(lab, 0)
        };
        Kind::ALL.map(listener).to_vec()
    };
    let mut setup = Setup::new(vips.iter().map(service).collect());
    setup.names = vips.iter().map(|(vip, _)| format!("vip{vip}")).collect();
    setup
}

/// The lab has fewer VIPs than this test: some differ by their port.
fn endpoint(lab: &Lab, kind: Kind, vip: u8) -> SocketAddr {
    let mut endpoint = kind.vip(lab, vip % 3);
    endpoint.set_port(endpoint.port() + 100 * u16::from(vip / 3));
    endpoint
}

/// What packets are sent for, and where they go before and after.
struct Probe {
    vip: u8,
    /// The client's port is in use with [`STAYS`], so that backend 0 of blue is taken.
    with_backend_0_taken: bool,
    before: Goes,
    after: Goes,
}

const fn probe(vip: u8, with_backend_0_taken: bool, before: Goes, after: Goes) -> Probe {
    Probe {
        vip,
        with_backend_0_taken,
        before,
        after,
    }
}

/// Sends packets through the program with handles of its own.
struct Sender<'a> {
    lab: &'a Lab,
    runner: Runner,
    flows: Flows,
    port: u16,
}

impl Sender<'_> {
    /// Where a fresh flow to `vip` goes.
    fn send(&self, kind: Kind, vip: u8) -> Result<Goes> {
        let client = self.lab.topology().links[0].far_addresses(kind.family)[0];
        let client = SocketAddr::new(client, self.port);
        let packet = first(kind, client, endpoint(self.lab, kind, vip));
        self.runner.run(&packet.bytes()?, 0)?;
        let Some(flow) = self.flows.of(&packet)? else {
            return Ok(Nowhere);
        };
        let backends = kind.backends(self.lab, flow.color);
        let at = backends.iter().position(|backend| *backend == flow.backend);
        Ok(To(flow.color, at.context("a backend of the lab")?))
    }

    /// Whether all probes see what is after the change; an error when some do and others do not.
    fn is_after(&mut self, probes: &[Probe]) -> Result<bool> {
        let mut seen = BTreeMap::new();
        for kind in Kind::ALL {
            for probe in probes {
                self.port += 1;
                if probe.with_backend_0_taken {
                    ensure!(self.send(kind, STAYS)? == To(Blue, 0), "{kind:?}: {STAYS}");
                }
                let goes = self.send(kind, probe.vip)?;
                ensure!(
                    goes == probe.before || goes == probe.after,
                    "{kind:?} to VIP {}: {goes:?}, neither as before nor as after",
                    probe.vip
                );
                let what = format!("{kind:?} to VIP {}: {goes:?}", probe.vip);
                seen.insert(what, goes == probe.after);
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
        path.apply(&Wanted { config, drained }, scanner, |path, ids| {
            let states = states(path.switch_states()?, ids);
            path.switch(&states).map(drop)
        })?;
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
        probe(CHANGES_BACKEND, false, To(Blue, 0), To(Blue, 1)),
        probe(IS_REMOVED, false, To(Blue, 1), Nowhere),
        probe(IS_ADDED, false, Nowhere, To(Green, 0)),
        probe(RING_SHRINKS, true, To(Blue, 1), Nowhere),
        probe(RING_GROWS, true, Nowhere, To(Blue, 1)),
    ];
    let back = there.each_ref().map(|there| Probe {
        before: there.after,
        after: there.before,
        ..*there
    });
    Rig::with(&lab, &old, |rig| {
        let pin_dir = rig.config.agent.pin_dir.clone();
        let mut sender = Sender {
            lab: &lab,
            runner: rig.path.runner()?,
            flows: Flows::open(&pin_dir)?,
            port: 2_000,
        };
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
    let setup = setup(&lab, &[(STAYS, &[0]), (RING_SHRINKS, &[0, 1])]);
    Rig::with(&lab, &setup, |rig| {
        let pin_dir = rig.config.agent.pin_dir.clone();
        let config = setup.config(&pin_dir)?;
        let mut sender = Sender {
            lab: &lab,
            runner: rig.path.runner()?,
            flows: Flows::open(&pin_dir)?,
            port: 2_000,
        };
        // The one that is drained is reached along the ring, before.
        let probes = [probe(RING_SHRINKS, true, To(Blue, 1), Nowhere)];
        let back = [probe(RING_SHRINKS, true, Nowhere, To(Blue, 1))];
        let backends = Kind::ALL.map(|kind| DrainedBackend {
            service: format!("vip{RING_SHRINKS}"),
            endpoint: kind.backends(&lab, Blue)[1],
        });
        let (none, drained) = (BTreeSet::new(), BTreeSet::from(backends));
        let pinned = pinned(rig, &lab)?;
        ensure!(
            pinned.values().any(|backend| backend.port() != 0),
            "flows on the backend that is drained"
        );
        watch(rig, &mut sender, &config, &drained, &probes)?;
        for kind in Kind::ALL {
            for _ in 0..200 {
                sender.port += 1;
                let goes = sender.send(kind, RING_SHRINKS)?;
                ensure!(goes == To(Blue, 0), "{kind:?}: a fresh flow goes {goes:?}");
            }
        }
        ensure!(self::pinned(rig, &lab)? == pinned, "pinned flows go on");
        watch(rig, &mut sender, &config, &none, &back)
    })
}

/// The backends of some flows to [`RING_SHRINKS`], each of which gets another packet.
fn pinned(rig: &mut Rig, lab: &Lab) -> Result<BTreeMap<SocketAddr, SocketAddr>> {
    let mut backends = BTreeMap::new();
    for (kind, number) in Kind::ALL.into_iter().zip(0..) {
        for port in 0..20 {
            let client = rig.client(kind.family, 1_000 + 20 * number + port);
            let packet = first(kind, client, endpoint(lab, kind, RING_SHRINKS));
            rig.run(&packet.bytes()?)?;
            backends.insert(client, rig.flow(&packet)?.backend);
        }
    }
    Ok(backends)
}
