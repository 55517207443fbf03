//! What the program notes for a drain's receipt: the first flow after a flip, the newest packet of a
//! color, and the flows that end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use switcher_common::cut::{Action, CutOrder};
use switcher_common::reason::Reason;
use switcher_common::service::{
    Color::{self, Blue, Green},
    Protocol, ServiceSwitch,
};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{ColorTraffic, CutCount, Orders};

use crate::cut::{let_the_clock_move, tick};
use crate::packet::{ACK, FIN, PSH, Packet, RST, SYN};
use crate::rig::{Rig, first, states};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

const SERVICE: u16 = 1;

/// Makes `active` the color of fresh flows by the change of `drain_generation`; a later split or pause
/// is of `generation`.
fn switch(rig: &mut Rig, active: Color, drain_generation: u64, generation: u64) -> Result<()> {
    let mut states = states(&[(active, active.other())]);
    states[1] = ServiceSwitch {
        generation,
        drain_generation,
        ..states[1]
    };
    rig.path.switch(&states)?;
    Ok(())
}

fn traffic(rig: &Rig, color: Color) -> Result<ColorTraffic> {
    Ok(rig.counters.traffic(SERVICE, color)?)
}

fn clock_ns(clock: rustix::time::ClockId) -> Result<u64> {
    let now = rustix::time::clock_gettime(clock);
    Ok(u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec)?)
}

fn now_ns() -> Result<u64> {
    clock_ns(rustix::time::ClockId::Monotonic)
}

/// As the program reads the clock for every packet.
fn coarse_ns() -> Result<u64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to a valid place; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    Ok(u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec)?)
}

/// The plain setup, with a preview on VIP 1.
fn with_preview(lab: &Lab) -> Setup {
    let mut setup = Setup::plain(lab);
    let previews = Kind::ALL.map(|kind| {
        let mut listener = kind.listener(lab, 1);
        // Endpoints of its own, so that its replies are told apart.
        for color in [Blue, Green] {
            for (backend, _) in listener.backends.get_mut(color) {
                backend.set_port(9_000);
            }
        }
        listener.preview = true;
        listener
    });
    setup.services[0].extend(previews);
    setup
}

#[test]
fn g10_the_first_fresh_flow_after_each_flip_is_noted_and_no_other_one() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &with_preview(&lab), |rig| {
        let mut generation = 5;
        for kind in Kind::ALL {
            generation += 10;
            switch(rig, Green, generation, generation)?;
            let noted = |rig: &Rig, color, generation| -> Result<Option<u64>> {
                Ok(traffic(rig, color)?.first_flow_ns(generation))
            };
            // What is no fresh flow of the active color: the middle of a stream, and a preview's.
            let (client, vip) = (rig.client(kind.family, 3_999), rig.vip(kind));
            if kind.protocol == Protocol::Tcp {
                for (base, port) in [(Blue, 3_997), (Green, 3_998)] {
                    let mut states = states(&[(Green, base)]);
                    states[1].drain_generation = generation;
                    rig.path.switch(&states)?;
                    let client = rig.client(kind.family, port);
                    let stray = Packet::tcp(client, vip, ACK, 5, 6);
                    let expected = rig.to_backend(&stray, base)?.noting(Reason::Unpinned);
                    rig.expect("a stray packet", &stray, &expected)?;
                }
            }
            rig.run(&first(kind, client, kind.vip(&lab, 1)).bytes()?)?;
            for color in [Blue, Green] {
                ensure!(
                    noted(rig, color, generation)?.is_none(),
                    "{kind:?}: {color:?} had no fresh flow since the flip"
                );
            }
            let before = now_ns()?;
            Talk::open(rig, kind, 4_000, Green)?;
            let at = noted(rig, Green, generation)?.context("the first flow is noted")?;
            ensure!((before..=now_ns()?).contains(&at), "{kind:?}: {at}");
            // A split or a pause raises the service's generation alone.
            switch(rig, Green, generation, generation + 1)?;
            Talk::open(rig, kind, 4_001, Green)?;
            ensure!(
                noted(rig, Green, generation)? == Some(at),
                "{kind:?}: only the first one counts"
            );
            // Flipped back before anything began on blue, then to green once more.
            switch(rig, Blue, generation + 2, generation + 2)?;
            switch(rig, Green, generation + 3, generation + 3)?;
            ensure!(noted(rig, Blue, generation + 2)?.is_none(), "{kind:?}");
            ensure!(noted(rig, Green, generation + 3)?.is_none(), "{kind:?}");
            let before = now_ns()?;
            Talk::open(rig, kind, 4_002, Green)?;
            let again = noted(rig, Green, generation + 3)?.context("of the newer flip")?;
            ensure!((before..=now_ns()?).contains(&again), "{kind:?}: {again}");
        }
        Ok(())
    })
}

#[test]
fn g10_the_newest_packet_of_a_color_is_noted_in_both_directions_but_not_of_previews() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &with_preview(&lab), |rig| {
        for kind in Kind::ALL {
            rig.flip(Blue)?;
            let talk = Talk::open(rig, kind, 4_000, Blue)?;
            rig.flip(Green)?;
            for by_client in [true, false] {
                let_the_clock_move()?;
                let before = coarse_ns()?;
                let data = if by_client {
                    talk.of_client(PSH | ACK)
                } else {
                    talk.of_backend(PSH | ACK)
                };
                rig.run(&data.bytes()?)?;
                let newest = traffic(rig, Blue)?.newest_packet_ns.context("noted")?;
                ensure!(
                    (before..=now_ns()?).contains(&newest),
                    "{kind:?}, by the client: {by_client}: {newest}, not since {before}"
                );
                let_the_clock_move()?;
                Talk::begin(rig, kind, 4_001 + u16::from(by_client), Green)?;
                let preview = first(kind, rig.client(kind.family, 4_100), kind.vip(&lab, 1));
                rig.run(&preview.bytes()?)?;
                ensure!(
                    rig.flow(&preview)?.color == Blue,
                    "a preview is of the standby"
                );
                ensure!(
                    traffic(rig, Blue)?.newest_packet_ns == Some(newest),
                    "{kind:?}: neither green's packets nor a preview's are blue's"
                );
            }
        }
        Ok(())
    })
}

/// Flows of blue that have finished, and that are in flight.
fn balance(rig: &mut Rig) -> Result<(u64, u64)> {
    let in_flight = rig.scanner.scan(SERVICE, true, |_| {})?.in_flight(SERVICE);
    Ok((traffic(rig, Blue)?.finished_flows, in_flight.blue))
}

#[test]
fn g10_a_flow_that_ends_by_itself_is_counted_once_and_one_that_goes_on_is_not() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut finished = 0;
        for (kind, port) in Kind::TCP.into_iter().zip([4_000, 5_000]) {
            let mut closed = Talk::open(rig, kind, port, Blue)?;
            closed.send(rig, "FIN", &closed.of_client(FIN | ACK), &[])?;
            closed.reply(rig, "FIN", &closed.of_backend(FIN | ACK), &[])?;
            ensure!(balance(rig)? == (finished, 1), "the last ACK is missing");
            let last = closed.of_client(ACK);
            closed.send(rig, "the last ACK", &last, &[Reason::Demoted])?;
            closed.send(rig, "again", &last, &[])?;
            finished += 1;
            ensure!(balance(rig)? == (finished, 0), "{kind:?}: closed");

            let mut reset = Talk::open(rig, kind, port + 1, Blue)?;
            for _ in 0..2 {
                let rst = reset.of_client(RST);
                reset.send(rig, "RST", &rst, &[Reason::Demoted])?;
                ensure!(balance(rig)? == (finished + 1, 0), "{kind:?}: reset");
                let restored = [Reason::Restored, Reason::Promoted];
                let challenge = reset.of_backend(ACK);
                reset.reply(rig, "a challenge ACK", &challenge, &restored)?;
                ensure!(balance(rig)? == (finished, 1), "{kind:?}: it goes on");
            }
            let rst = reset.of_client(RST);
            reset.send(rig, "RST", &rst, &[Reason::Demoted])?;
            finished += 1;

            let mut refused = Talk::begin(rig, kind, port + 2, Blue)?;
            let rst = Packet {
                seq: 0,
                ..refused.of_backend(RST | ACK)
            };
            refused.reply(rig, "refused", &rst, &[Reason::SynRefused])?;
            finished += 1;
            ensure!(balance(rig)? == (finished, 0), "{kind:?}: refused");

            let begun = Talk::begin(rig, kind, port + 3, Blue)?;
            let anew = Packet {
                seq: 77_000,
                ..begun.first()
            };
            let expected = rig.to_backend(&anew, Blue)?.noting(Reason::TupleReused);
            rig.expect("a new SYN", &anew, &expected)?;
            finished += 1;
            ensure!(balance(rig)? == (finished, 1), "{kind:?}: begun anew");
            let rst = Packet {
                seq: 0,
                ack: 77_001,
                ..begun.of_backend(RST | ACK)
            };
            let told = rig.to_client(&rst, begun.vip)?;
            rig.expect("refused", &rst, &told.noting(Reason::SynRefused))?;
            finished += 1;

            // Strays are not in flight until their backend has answered.
            let stray = Talk::unsent(rig, kind, port + 4, Blue);
            rig.run(&stray.of_client(ACK).bytes()?)?;
            ensure!(balance(rig)? == (finished, 0), "{kind:?}: a stray");
            rig.run(&stray.of_backend(ACK).bytes()?)?;
            ensure!(balance(rig)? == (finished, 1), "{kind:?}: taken up");
            rig.run(&stray.of_client(RST).bytes()?)?;
            finished += 1;
            ensure!(balance(rig)? == (finished, 0), "{kind:?}: ended");
        }
        for kind in Kind::UDP {
            Talk::open(rig, kind, 4_000, Blue)?;
            Talk::begin(rig, kind, 4_001, Blue)?;
        }
        ensure!(balance(rig)? == (finished, 4), "datagrams");
        let mut service = rig.config.services[0].clone();
        service.idle.unanswered = "1ms".parse()?;
        rig.path.set_idle(SERVICE, &service, [1; 2])?;
        let_the_clock_move()?;
        ensure!(balance(rig)? == (finished + 4, 0), "silent for too long");
        ensure!(balance(rig)? == (finished + 4, 0), "and counted once");
        Ok(())
    })
}

#[test]
fn g10_what_is_over_is_neither_reset_nor_moved_nor_finished_twice() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut over = Vec::new();
        for kind in Kind::TCP {
            for port in [4_000, 4_001] {
                let mut talk = Talk::open(rig, kind, port, Blue)?;
                let rst = talk.of_client(RST);
                talk.send(rig, "RST", &rst, &[Reason::Demoted])?;
                over.push(talk);
            }
        }
        let mut alive = Vec::new();
        for kind in Kind::ALL {
            for port in [4_002, 4_003] {
                alive.push(Talk::open(rig, kind, port, Blue)?);
            }
        }
        rig.flip(Green)?;
        let_the_clock_move()?;
        let orders = [((SERVICE, Blue), CutOrder::new(Action::Reset, tick(0)?))];
        rig.path.set_orders(Orders {
            colors: BTreeMap::from(orders),
            ..Orders::default()
        })?;
        let_the_clock_move()?;
        // The first of each two by a packet, the second one by the scan.
        for talk in over.iter().chain(&alive).step_by(2) {
            rig.run(&talk.of_client(PSH | ACK).bytes()?)?;
        }
        let scan = rig.scanner.scan(SERVICE, true, |_| {})?;
        let stats = traffic(rig, Blue)?;
        ensure!(stats.finished_flows == 4, "{stats:?}");
        ensure!(
            (stats.reset_flows, stats.moved_flows) == (2, 2),
            "{stats:?}"
        );
        let cut = scan.cut(SERVICE).blue;
        ensure!(cut == CutCount { tcp: 2, udp: 2 }, "{cut:?}");
        // A connection that begins on a flow's tuple which an order would cut.
        rig.path.set_orders(Orders::default())?;
        rig.flip(Blue)?;
        let talk = Talk::open(rig, Kind::TCP[0], 4_004, Blue)?;
        let_the_clock_move()?;
        let orders = [((SERVICE, Blue), CutOrder::new(Action::Reset, tick(0)?))];
        rig.path.set_orders(Orders {
            colors: BTreeMap::from(orders),
            ..Orders::default()
        })?;
        let_the_clock_move()?;
        let anew = Packet {
            seq: 77_000,
            ..talk.of_client(SYN)
        };
        rig.run(&anew.bytes()?)?;
        ensure!(
            traffic(rig, Blue)?.finished_flows == 5,
            "its client ended it"
        );
        Ok(())
    })
}
