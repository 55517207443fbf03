//! A listener that is configured no more: its flows go on, everything else to it is dropped until its time is
//! over or it is ended, and then its place is nobody's.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use switcher_common::clock::ticks_from_ns;
use switcher_common::cut::Action as Cut;
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{Leaving, Orders, Place, RemovalTerms, Wanted};

use crate::packet::{ACK, PSH, Packet};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};

/// Ticks that no test takes: 17 minutes.
const LONG: u32 = 1_000_000;

/// Two services with a VIP each.
fn setup(lab: &Lab) -> Setup {
    let service = |vip| Kind::ALL.map(|kind| kind.listener(lab, vip)).to_vec();
    Setup::new(vec![service(0), service(1)])
}

/// The second of them alone.
fn without_first(lab: &Lab) -> Setup {
    let mut setup = setup(lab);
    setup.services.remove(0);
    setup.names.remove(0);
    setup
}

fn now() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    ticks_from_ns(part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec))
}

/// What is removed stays known until the tick `until`.
fn leaving(until: u32, cut_at_end: Option<Cut>) -> Leaving {
    Leaving {
        others: Some(RemovalTerms { until, cut_at_end }),
        ..Leaving::default()
    }
}

fn apply(rig: &mut Rig, setup: &Setup, leaving: &Leaving) -> Result<()> {
    let config = setup.config(&rig.config.agent.pin_dir)?;
    let wanted = Wanted {
        config: &config,
        drained: &BTreeSet::new(),
        leaving,
    };
    rig.path.apply(&wanted, &mut rig.scanner, |_, _| Ok(()))?;
    rig.path.set_orders(Orders::default())?;
    Ok(())
}

/// A flow of each kind through the first service.
fn begin(rig: &mut Rig) -> Result<()> {
    for kind in Kind::ALL {
        let packet = first(kind, rig.client(kind.family, 4_000), rig.vip(kind));
        let expected = rig.to_backend(&packet, Color::Blue)?;
        rig.expect("it begins", &packet, &expected)?;
    }
    Ok(())
}

/// The next packets of those flows, in both directions, arrive.
fn goes_on(rig: &mut Rig) -> Result<()> {
    for kind in Kind::ALL {
        let (client, vip) = (rig.client(kind.family, 4_000), rig.vip(kind));
        let again = first(kind, client, vip);
        let expected = rig.to_backend(&again, Color::Blue)?;
        let expected = match kind.protocol {
            Protocol::Tcp => expected.noting(Reason::SynRetransmit),
            Protocol::Udp => expected,
        };
        rig.just_seen(&again)?;
        rig.expect("the flow goes on", &again, &expected)?;
    }
    Ok(())
}

/// What belongs to no flow: what begins one, and TCP in the middle of a stream.
fn flowless(rig: &Rig, port: u16) -> Vec<Packet> {
    let to = |kind: Kind| (rig.client(kind.family, port), rig.vip(kind));
    let mut packets: Vec<Packet> = Kind::ALL
        .map(|kind| first(kind, to(kind).0, to(kind).1))
        .to_vec();
    packets.extend(Kind::TCP.map(|kind| Packet::tcp(to(kind).0, to(kind).1, PSH | ACK, 7, 8)));
    packets
}

fn expect_flowless(rig: &mut Rig, port: u16, reason: Reason) -> Result<()> {
    for packet in flowless(rig, port) {
        rig.expect("without a flow", &packet, &Expected::untouched(reason))?;
    }
    Ok(())
}

#[test]
fn a_removed_listeners_flows_go_on_and_all_else_is_dropped_until_it_is_ended() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        begin(rig)?;
        apply(
            rig,
            &without_first(&lab),
            &leaving(now().wrapping_add(LONG), None),
        )?;
        expect_flowless(rig, 5_000, Reason::ListenerRemoved)?;
        goes_on(rig)?;
        rig.expect_flows("nothing else was recorded", 4)?;
        let removed = rig.path.removed();
        ensure!(
            removed.len() == 4 && removed.iter().all(|it| it.service == "service1"),
            "{removed:?}"
        );
        let busy = rig.scanner.busy(rig.path.highest_service())?;
        let live = rig.path.live_flows(&busy);
        ensure!(
            removed.iter().all(|it| live.get(&it.id) == Some(&1)),
            "a flow of each: {live:?}"
        );
        // Another apply ends nothing by itself, and does not begin its time anew.
        apply(rig, &without_first(&lab), &leaving(now(), None))?;
        ensure!(rig.path.removed() == removed);
        expect_flowless(rig, 5_001, Reason::ListenerRemoved)?;
        let ended = Leaving {
            ended: removed.iter().map(|it| it.place).collect(),
            ..Leaving::default()
        };
        apply(rig, &without_first(&lab), &ended)?;
        ensure!(rig.path.removed().is_empty());
        expect_flowless(rig, 5_002, Reason::NotOurs)?;
        goes_on(rig)
    })
}

#[test]
fn without_an_agent_too_nothing_is_dropped_when_the_time_of_a_removed_listener_is_over()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        begin(rig)?;
        apply(rig, &without_first(&lab), &leaving(now(), None))?;
        ensure!(rig.path.removed().len() == 4, "nobody has ended it");
        expect_flowless(rig, 5_000, Reason::NotOurs)?;
        goes_on(rig)
    })
}

#[test]
fn a_removed_listener_that_is_configured_again_serves_at_once() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        begin(rig)?;
        let names = rig.path.services();
        // Its flows would be cut by now, were it not configured again.
        let cut = leaving(now().wrapping_add(LONG), Some(Cut::Reset));
        apply(rig, &without_first(&lab), &cut)?;
        expect_flowless(rig, 5_000, Reason::ListenerRemoved)?;
        apply(rig, &setup(&lab), Leaving::AT_ONCE)?;
        ensure!(rig.path.removed().is_empty());
        ensure!(rig.path.services() == names, "with the ids of before");
        for kind in Kind::ALL {
            let packet = first(kind, rig.client(kind.family, 5_001), rig.vip(kind));
            let expected = rig.to_backend(&packet, Color::Blue)?;
            rig.expect("it serves", &packet, &expected)?;
        }
        goes_on(rig)
    })
}

#[test]
fn flows_of_a_removed_listener_are_cut_at_its_end_where_its_service_says_so() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for action in [Cut::Reset, Cut::Move] {
        let lab = Lab::builder().build()?;
        Rig::with(&lab, &setup(&lab), |rig| {
            begin(rig)?;
            // The flows have begun in this tick at the latest.
            apply(rig, &without_first(&lab), &leaving(now(), Some(action)))?;
            for kind in Kind::ALL {
                let (client, vip) = (rig.client(kind.family, 4_000), rig.vip(kind));
                let reason = next_of(rig, kind, client, vip)?;
                let expected = match (kind.protocol, action) {
                    (Protocol::Tcp, Cut::Reset | Cut::ResetAnswered) => Reason::ResetSent,
                    (Protocol::Tcp, Cut::Move) => Reason::Redirected,
                    // It selects afresh, and nobody is there.
                    (Protocol::Udp, _) => Reason::NotOurs,
                };
                ensure!(reason == expected, "{action:?} {kind:?}: {reason:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What becomes of a further packet of a flow.
fn next_of(rig: &mut Rig, kind: Kind, client: SocketAddr, vip: SocketAddr) -> Result<Reason> {
    let packet = match kind.protocol {
        Protocol::Tcp => Packet::tcp(client, vip, PSH | ACK, 1_001, 1),
        Protocol::Udp => Packet::udp(client, vip),
    };
    let (_, counted) = rig.run_counted(&packet.bytes()?)?;
    let verdicts: Vec<Reason> = (counted.iter().map(|(reason, _)| *reason))
        .filter(|reason| reason.verdict() != switcher_common::reason::Verdict::Note)
        .collect();
    ensure!(verdicts.len() == 1, "{verdicts:?}");
    Ok(verdicts[0])
}

#[test]
fn a_removed_listener_is_found_by_its_place_alone() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        apply(
            rig,
            &without_first(&lab),
            &leaving(now().wrapping_add(LONG), None),
        )?;
        let removed = rig.path.removed();
        let places: BTreeSet<Place> = removed.iter().map(|it| it.place).collect();
        let expected = Kind::ALL.map(|kind| Place {
            vip: rig.vip(kind),
            protocol: kind.protocol,
        });
        ensure!(places == expected.into(), "{places:?}");
        // Its address is a VIP still; the other service's listeners are as they were.
        for kind in Kind::ALL {
            let packet = first(kind, rig.client(kind.family, 5_000), kind.vip(&lab, 1));
            let expected = rig.to_backend(&packet, Color::Blue)?;
            rig.expect("another service", &packet, &expected)?;
        }
        Ok(())
    })
}
