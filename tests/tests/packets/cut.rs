//! Flows that are cut by an order: what their packets get in answer, and that they stay cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use switcher_common::clock::{has_come, ticks_from_ns};
use switcher_common::cut::{Action, CutOrder};
use switcher_common::flow::FlowState;
use switcher_common::interface::{InterfaceRecord, flags};
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{CutCount, Orders};

use crate::packet::{ACK, Link, PSH, Packet, RST};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// The service of the plain setup.
const SERVICE: u16 = 1;

/// A tick that is `ahead_ms` away from now, with which orders are given.
pub(crate) fn tick(ahead_ms: i64) -> Result<u32> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_ns = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    Ok(ticks_from_ns(u64::try_from(now_ns + ahead_ms * 1_000_000)?))
}

/// Orders `action` for blue, with its deadline `ahead_ms` away from now.
fn order(rig: &mut Rig, action: Action, ahead_ms: i64) -> Result<()> {
    let order = CutOrder::new(action, tick(ahead_ms)?);
    let orders = BTreeMap::from([((SERVICE, Color::Blue), order)]);
    Ok(rig.path.set_orders(Orders {
        colors: orders,
        ..Orders::default()
    })?)
}

/// Waits until the program's clock, which moves every few milliseconds, has passed the present tick.
pub(crate) fn let_the_clock_move() -> Result<()> {
    let passed = tick(25)?;
    while !has_come(passed, tick(0)?) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The RST that answers `packet`, sent back by the way that it came.
fn answer(packet: &Packet) -> Packet {
    let length = u32::try_from(packet.payload.len()).expect("short");
    let end = packet.seq.wrapping_add(length);
    let has_ack = packet.flags & ACK != 0;
    let (flags, seq, ack) = if has_ack {
        (RST, packet.ack, 0)
    } else {
        (RST | ACK, 0, end)
    };
    Packet {
        window: 0,
        link: Link {
            destination: packet.link.source,
            source: packet.link.destination,
        },
        ..Packet::tcp(packet.to, packet.from, flags, seq, ack)
    }
}

/// A RST in answer to `packet`.
fn answered(packet: &Packet) -> Expected {
    Expected::rewritten(Reason::ResetSent, answer(packet))
}

#[test]
fn g10_a_cut_connections_next_packet_is_answered_with_a_rst_on_both_sides() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            for client_first in [true, false] {
                let port = 4_000 + u16::from(client_first);
                rig.path.set_orders(Orders::default())?;
                let talk = Talk::open(rig, kind, port, Color::Blue)?;
                let_the_clock_move()?;
                order(rig, Action::Reset, 0)?;
                let_the_clock_move()?;
                let data = [
                    talk.of_client(PSH | ACK).payload(b"a request"),
                    talk.of_backend(PSH | ACK).payload(b"an answer"),
                ];
                let at = usize::from(!client_first);
                let (first, second) = (&data[at], &data[1 - at]);
                let reset = answered(first).noting(Reason::Demoted);
                rig.expect(&format!("{kind:?}, first"), first, &reset)?;
                let flow = talk.flow(rig)?;
                let over = (FlowState::Cut, Table::Unanswered);
                assert_eq!((flow.state, flow.table), over, "{kind:?}");
                rig.expect("the other side", second, &answered(second))?;
                rig.expect("again", first, &answered(first))?;
                for rst in [talk.of_client(RST), talk.of_backend(RST)] {
                    let dropped = Expected::untouched(Reason::FlowCut);
                    rig.expect("a RST is never answered", &rst, &dropped)?;
                }
                rig.path.set_orders(Orders::default())?;
                rig.expect("without the order", first, &answered(first))?;
            }
        }
        let stats = rig.counters.traffic(SERVICE, Color::Blue)?;
        ensure!(stats.reset_flows == 4, "each flow counts once: {stats:?}");
        Ok(())
    })
}

#[test]
fn g10_the_rst_is_unfinished_where_its_packet_was_and_none_is_made_where_it_would_vanish()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1", "b"];
    Rig::with(&lab, &setup, |rig| {
        let ends = [rig.interface("client")?, rig.interface("blue")?];
        for (kind, port) in Kind::TCP.into_iter().zip(4000..) {
            rig.path.set_orders(Orders::default())?;
            let talk = Talk::open(rig, kind, port, Color::Blue)?;
            let_the_clock_move()?;
            order(rig, Action::Reset, 0)?;
            let_the_clock_move()?;
            let data = [talk.of_client(PSH | ACK), talk.of_backend(PSH | ACK)];
            let mut notes = vec![Reason::Demoted];
            for (flags, is_sent, may_be_unfinished) in [
                (0, true, false),
                (flags::NO_TRANSMIT, false, false),
                (flags::GENERIC, true, true),
                (flags::NO_TRANSMIT | flags::GENERIC, true, true),
            ] {
                let told = InterfaceRecord {
                    flags,
                    ..InterfaceRecord::default()
                };
                rig.path.set_interfaces(ends.map(|index| (index, told)))?;
                for packet in &data {
                    let packet = packet.clone().payload(b"late");
                    let what = format!("{kind:?} from {}, flags {flags:#x}", packet.from);
                    let expected = if is_sent {
                        answered(&packet)
                    } else {
                        Expected::untouched(Reason::FlowCut)
                    };
                    let expected = notes.drain(..).fold(expected, Expected::noting);
                    rig.expect(&what, &packet, &expected)?;
                    if may_be_unfinished {
                        let rst = answer(&packet).unfinished();
                        let expected = Expected::rewritten(Reason::ResetSent, rst);
                        rig.expect(&what, &packet.unfinished(), &expected)?;
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn g10_an_order_that_is_not_due_or_not_for_it_leaves_a_flow_alone() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            rig.path.set_orders(Orders::default())?;
            rig.flip(Color::Blue)?;
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            order(rig, Action::Reset, 60_000)?;
            talk.goes_on(rig, "before the deadline")?;
            order(rig, Action::Reset, -60_000)?;
            talk.goes_on(rig, "it began after the deadline")?;
            rig.flip(Color::Green)?;
            order(rig, Action::Reset, 0)?;
            let mut green = Talk::open(rig, kind, 4001, Color::Green)?;
            let_the_clock_move()?;
            green.goes_on(rig, "a flow of the other color")?;
        }
        for kind in Kind::TCP {
            rig.path.set_orders(Orders::default())?;
            rig.flip(Color::Blue)?;
            let mut talk = Talk::open(rig, kind, 4002, Color::Blue)?;
            let_the_clock_move()?;
            order(rig, Action::Move, 0)?;
            let_the_clock_move()?;
            talk.goes_on(rig, "a connection cannot be moved")?;
        }
        Ok(())
    })
}

#[test]
fn g10_a_new_connection_on_a_cut_ones_tuple_selects_afresh() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            rig.path.set_orders(Orders::default())?;
            rig.flip(Color::Blue)?;
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let_the_clock_move()?;
            rig.flip(Color::Green)?;
            order(rig, Action::Reset, 0)?;
            let_the_clock_move()?;
            let again = Packet {
                seq: 70_000,
                ..talk.first()
            };
            let expected = rig
                .to_backend(&again, Color::Green)?
                .noting(Reason::TupleReused);
            rig.expect(&format!("{kind:?}"), &again, &expected)?;
        }
        Ok(())
    })
}

#[test]
fn g10_a_udp_flow_of_a_cut_color_moves_with_its_clients_next_datagram() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for (kind, action) in Kind::UDP.into_iter().zip([Action::Move, Action::Reset]) {
            rig.path.set_orders(Orders::default())?;
            rig.flip(Color::Blue)?;
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let_the_clock_move()?;
            rig.flip(Color::Green)?;
            order(rig, action, 0)?;
            let_the_clock_move()?;
            let late = talk.of_backend(0).payload(b"on its way");
            let delivered = rig.to_client(&late, talk.vip)?;
            rig.expect("a reply that was on its way", &late, &delivered)?;
            let next = talk.first();
            let moved = rig
                .to_backend(&next, Color::Green)?
                .noting(Reason::FlowMoved);
            rig.expect(&format!("{kind:?}"), &next, &moved)?;
            assert_eq!(talk.flow(rig)?.color, Color::Green, "{kind:?}");
        }
        let stats = rig.counters.traffic(SERVICE, Color::Blue)?;
        ensure!(stats.moved_flows == 2, "{stats:?}");
        Ok(())
    })
}

#[test]
fn g10_a_scan_cuts_what_is_silent_and_hands_it_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut talks = Vec::new();
        for kind in Kind::ALL {
            talks.push(Talk::open(rig, kind, 4000, Color::Blue)?);
        }
        let_the_clock_move()?;
        order(rig, Action::Reset, 0)?;
        let_the_clock_move()?;
        let only_counted = rig.scanner.scan(SERVICE, false, |_| {})?;
        ensure!(
            only_counted.in_flight(SERVICE).blue == 0,
            "{only_counted:?}"
        );
        ensure!(only_counted.cut(SERVICE).blue.tcp == 0, "{only_counted:?}");
        let mut told = Vec::new();
        let scan = rig.scanner.scan(SERVICE, true, |flow| told.push(*flow))?;
        let cut = scan.cut(SERVICE).blue;
        ensure!((cut.tcp, cut.udp) == (2, 2), "{scan:?}");
        rig.path.set_orders(Orders::default())?;
        for talk in &talks {
            let endpoint =
                |ip: std::net::IpAddr, port_be: u16| SocketAddr::new(ip, u16::from_be(port_be));
            let flow = told.iter().find(|flow| {
                endpoint(flow.client.to_ip(), flow.client_port_be) == talk.client
                    && flow.protocol == talk.kind.protocol as u8
            });
            let flow = flow.expect("each flow is handed on");
            assert_eq!(endpoint(flow.vip.to_ip(), flow.vip_port_be), talk.vip);
            assert_eq!(
                endpoint(flow.backend.to_ip(), flow.backend_port_be),
                talk.backend
            );
            assert_eq!(talk.flow(rig)?.state, FlowState::Cut, "{talk:?}");
            if Kind::TCP.contains(&talk.kind) {
                let expected = talk.of_client(ACK);
                assert_eq!(
                    flow.client_next_seq, expected.seq,
                    "what the backend expects"
                );
                assert_eq!(
                    flow.backend_next_seq, expected.ack,
                    "what the client expects"
                );
                let data = talk.of_client(PSH | ACK).payload(b"late");
                let reset = answered(&data).noting(Reason::Demoted);
                rig.expect("the order is taken back, the flow stays cut", &data, &reset)?;
            }
        }
        let again = rig.scanner.scan(SERVICE, true, |_| {})?;
        ensure!(again.cut(SERVICE).blue == CutCount::default(), "{again:?}");
        Ok(())
    })
}

#[test]
fn g10_an_order_that_is_taken_back_cuts_no_more_though_other_services_orders_stay() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let services = [0, 1].map(|vip| Kind::ALL.map(|kind| kind.listener(&lab, vip)).to_vec());
    Rig::with(&lab, &Setup::new(services.to_vec()), |rig| {
        for (service, vip) in [(1, 0), (2, 1)] {
            for kind in Kind::ALL {
                let client = rig.client(kind.family, 4_000 + service);
                rig.run(&first(kind, client, kind.vip(&lab, vip)).bytes()?)?;
            }
        }
        let_the_clock_move()?;
        let reset = CutOrder::new(Action::Reset, tick(0)?);
        let_the_clock_move()?;
        for services in [vec![1, 2], vec![2]] {
            let colors = services.iter().map(|id| ((*id, Color::Blue), reset));
            rig.path.set_orders(Orders {
                colors: colors.collect(),
                ..Orders::default()
            })?;
        }
        let mut cut = Vec::new();
        rig.scanner.scan(2, true, |flow| cut.push(flow.service))?;
        ensure!(cut == [2; Kind::ALL.len()], "flows of services {cut:?}");
        Ok(())
    })
}
