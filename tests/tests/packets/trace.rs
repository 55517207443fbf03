//! What the program tells of single packets, and to whom.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aya::maps::Array;
use switcher_common::address::WideAddress;
use switcher_common::flow::{FLAG_ALONE, FLAG_UNPINNED, FlowState, Side};
use switcher_common::reason::Reason;
use switcher_common::service::Color::{self, Blue, Green};
use switcher_common::service::Protocol;
use switcher_common::trace::{Known, Stage, TraceControl, TraceEvent, TraceFilter};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::Tracer;

use crate::listeners::open;
use crate::message::Message;
use crate::packet::{ACK, PSH, Packet, RST};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// All packets that are ours.
const ALL: TraceFilter = TraceFilter::new(None, None);

/// Packets from and to `client`.
fn of_client(client: IpAddr, service: Option<u16>) -> TraceFilter {
    TraceFilter::new(Some(WideAddress::from_ip(client)), service)
}

/// What was told since the last call.
fn told(tracer: &mut Tracer) -> Vec<TraceEvent> {
    let mut events = Vec::new();
    tracer.take(usize::MAX, |event| events.push(*event));
    events
}

/// The one event that was told.
fn only(tracer: &mut Tracer) -> Result<TraceEvent> {
    let events = told(tracer);
    ensure!(events.len() == 1, "told {events:?}, expected one event");
    events.first().copied().context("one event")
}

fn endpoint(address: WideAddress, port_be: u16) -> SocketAddr {
    SocketAddr::new(address.to_ip(), u16::from_be(port_be))
}

/// What an event says that follows from the packet alone.
fn is_about(event: &TraceEvent, packet: &Packet, reason: Reason) -> Result<()> {
    let said = (
        endpoint(event.src, event.src_port_be),
        endpoint(event.dst, event.dst_port_be),
        event.protocol,
        event.reason(),
        event.tcp_flags,
    );
    let is = (
        packet.from,
        packet.to,
        packet.protocol as u8,
        reason,
        packet.flags,
    );
    ensure!(said == is, "the event says {said:?}, the packet is {is:?}");
    let ip_len = packet.bytes()?.len() - 14;
    ensure!(
        usize::from(event.ip_len) == ip_len,
        "of {} bytes, not {ip_len}",
        event.ip_len
    );
    ensure!(event.time_ns > 0 && event.reserved == 0, "{event:?}");
    Ok(())
}

/// An event about a translated packet: its flow, and what was counted beside.
fn is_translated(
    event: &TraceEvent,
    packet: &Packet,
    flow: (Side, FlowState, Color, SocketAddr),
    known: Known,
    notes: &[Reason],
) -> Result<()> {
    is_about(event, packet, Reason::Redirected)?;
    let said = (
        event.side,
        FlowState::from_byte(event.state),
        event.color(),
        endpoint(event.rewrite_addr, event.rewrite_port_be),
    );
    let (side, state, color, rewritten) = flow;
    let is = (side as u8, state, Some(color), rewritten);
    ensure!(said == is, "the event says {said:?}, it is {is:?}");
    ensure!(
        event.known() == known && event.stage() == Stage::Forward,
        "{event:?}"
    );
    ensure!(event.service == 1 && event.backend != 0, "{event:?}");
    let told: Vec<_> = event.notes().collect();
    ensure!(told == notes, "noted {told:?}, expected {notes:?}");
    Ok(())
}

#[test]
fn each_packet_of_a_flow_is_told_with_its_decision() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut tracer = rig.path.tracer()?;
        tracer.trace(&[ALL])?;
        for kind in Kind::ALL {
            let mut talk = Talk::begin(rig, kind, 4000, Blue)?;
            let (backend, vip) = (talk.backend, talk.vip);
            let forward = |state| (Side::Forward, state, Blue, backend);
            let reverse = |state| (Side::Reverse, state, Blue, vip);
            let unanswered = forward(FlowState::Unanswered);
            is_translated(
                &only(&mut tracer)?,
                &talk.first(),
                unanswered,
                Known::Fresh,
                &[],
            )?;
            let answer = talk.answer();
            if kind.protocol == Protocol::Udp {
                talk.reply(rig, "the answer", &answer, &[Reason::Promoted])?;
                let established = reverse(FlowState::Established);
                let notes = [Reason::Promoted];
                is_translated(
                    &only(&mut tracer)?,
                    &answer,
                    established,
                    Known::Flow,
                    &notes,
                )?;
                continue;
            }
            let again = [Reason::SynRetransmit];
            rig.just_seen(&talk.first())?;
            talk.send(rig, "the SYN again", &talk.first(), &again)?;
            is_translated(
                &only(&mut tracer)?,
                &talk.first(),
                unanswered,
                Known::Flow,
                &again,
            )?;
            let expected = rig.to_client(&answer, vip)?;
            rig.expect("the SYN-ACK", &answer, &expected)?;
            let answered = reverse(FlowState::Answered);
            is_translated(&only(&mut tracer)?, &answer, answered, Known::Flow, &[])?;
            let ack = talk.acknowledgement();
            talk.send(rig, "the ACK", &ack, &[Reason::Promoted])?;
            let established = forward(FlowState::Established);
            let notes = [Reason::Promoted];
            is_translated(&only(&mut tracer)?, &ack, established, Known::Flow, &notes)?;
            // Notes are of one packet.
            let data = talk.of_client(PSH | ACK).payload(b"more?");
            talk.send(rig, "data", &data, &[])?;
            is_translated(&only(&mut tracer)?, &data, established, Known::Flow, &[])?;
        }
        ensure!(tracer.newly_lost()? == 0, "nothing was lost");
        Ok(())
    })
}

#[test]
fn a_packet_without_a_pin_is_told_as_such() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut tracer = rig.path.tracer()?;
        tracer.trace(&[ALL])?;
        rig.switch(&[(Green, Blue)])?;
        for kind in Kind::TCP {
            let client = rig.client(kind.family, 4000);
            let stray = Packet::tcp(client, rig.vip(kind), PSH | ACK, 7, 8);
            rig.run(&stray.bytes()?)?;
            let event = only(&mut tracer)?;
            let flow = (
                Side::Forward,
                FlowState::Unanswered,
                Blue,
                rig.backend(kind, Blue),
            );
            is_translated(&event, &stray, flow, Known::Fresh, &[Reason::Unpinned])?;
            ensure!(event.flags == FLAG_UNPINNED | FLAG_ALONE, "{event:?}");
        }
        Ok(())
    })
}

#[test]
fn packets_that_end_early_are_told_with_the_stage_that_ended_them() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    for listener in &mut setup.services[0] {
        listener.backends.green.clear();
    }
    Rig::with(&lab, &setup, |rig| {
        let mut tracer = rig.path.tracer()?;
        for kind in Kind::ALL {
            rig.flip(Blue)?;
            let talk = Talk::open(rig, kind, 4000, Blue)?;
            rig.flip(Green)?;
            tracer.trace(&[ALL])?;
            let fresh = first(kind, rig.client(kind.family, 4001), rig.vip(kind));
            let martian = Packet {
                from: SocketAddr::new(lab.vip(kind.family, 0), 9),
                ..fresh.clone()
            };
            let rows = [
                (
                    fresh.clone(),
                    Reason::NoBackend,
                    Stage::Select,
                    Known::Color,
                    1,
                ),
                (
                    martian,
                    Reason::MartianSource,
                    Stage::Select,
                    Known::Tuple,
                    1,
                ),
                (
                    talk.of_client(ACK).ttl(1),
                    Reason::TimeExceededSent,
                    Stage::Answer,
                    Known::Flow,
                    1,
                ),
            ];
            for (packet, reason, stage, known, service) in rows {
                rig.run(&packet.bytes()?)?;
                let event = only(&mut tracer).with_context(|| format!("{kind:?} {reason:?}"))?;
                is_about(&event, &packet, reason)?;
                ensure!(
                    (event.stage(), event.known(), event.service) == (stage, known, service),
                    "{kind:?} {reason:?}: {event:?}"
                );
            }
            // Cut off in the middle of its transport header: no ports are known.
            let cut = &fresh.bytes()?[..fresh.transport_offset() + 6];
            rig.run(cut)?;
            let event = only(&mut tracer)?;
            ensure!(
                (event.reason(), event.stage()) == (Reason::Truncated, Stage::Parse),
                "{event:?}"
            );
            ensure!(
                event.src.to_ip() == fresh.from.ip()
                    && event.dst.to_ip() == fresh.to.ip()
                    && (event.src_port_be, event.dst_port_be, event.service) == (0, 0, 0),
                "{event:?}"
            );
            tracer.trace(&[])?;
        }
        Ok(())
    })
}

#[test]
fn icmp_is_told_without_ports_and_an_error_with_the_flow_that_it_is_about() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut tracer = rig.path.tracer()?;
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Blue)?;
            tracer.trace(&[ALL])?;
            let echo = Message::echo_request(talk.client.ip(), talk.vip.ip(), b"there?");
            rig.run(&echo.bytes()?)?;
            let event = only(&mut tracer)?;
            ensure!(
                (event.reason(), event.stage(), event.known())
                    == (Reason::EchoAnswered, Stage::Answer, Known::Message),
                "{event:?}"
            );
            ensure!(
                event.src.to_ip() == echo.from && event.dst.to_ip() == echo.to,
                "as it came in: {event:?}"
            );
            let unreachable = match kind.family {
                Family::V4 => [3, 1],
                Family::V6 => [1, 3],
            };
            // About a packet of the client, as its backend's router saw it.
            let sent = talk.of_client(ACK).sent_to(talk.backend, rig.link("blue")?);
            let error = Message {
                body: sent.packet()?,
                ..Message::new(talk.backend.ip(), talk.client.ip(), unreachable)
            };
            rig.run(&error.bytes()?)?;
            let event = only(&mut tracer)?;
            ensure!(
                (event.reason(), event.stage(), event.service, event.color())
                    == (Reason::Redirected, Stage::Forward, 1, Some(Blue)),
                "{event:?}"
            );
            ensure!(event.notes().eq([Reason::IcmpTranslated]), "{event:?}");
            let ports = (event.src_port_be, event.dst_port_be, event.tcp_flags);
            ensure!(
                ports == (0, 0, 0)
                    && event.src.to_ip() == talk.backend.ip()
                    && event.rewrite_addr.to_ip() == talk.vip.ip(),
                "{event:?}"
            );
            tracer.trace(&[])?;
        }
        Ok(())
    })
}

#[test]
fn what_is_not_ours_is_told_to_those_who_ask_for_its_client() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut tracer = rig.path.tracer()?;
        for kind in Kind::ALL {
            let client = rig.client(kind.family, 4000);
            let foreign: SocketAddr = match kind.family {
                Family::V4 => "198.51.100.7:80",
                Family::V6 => "[2001:db8:7::1]:80",
            }
            .parse()?;
            // The filter of addresses lets one of them pass, the tables the other one.
            let to_nobody = first(kind, client, foreign);
            let mut no_listener = first(kind, client, rig.vip(kind));
            no_listener.to.set_port(81);
            tracer.trace(&[ALL, of_client(client.ip(), None)])?;
            let no_header = &to_nobody.bytes()?[..30];
            rig.expect_frame(
                "no whole header",
                no_header,
                &Expected::untouched(Reason::NotIp),
            )?;
            ensure!(told(&mut tracer).is_empty(), "{kind:?}: of nobody");
            for packet in [to_nobody, no_listener] {
                let not_ours = Expected::untouched(Reason::NotOurs);
                tracer.trace(&[ALL])?;
                rig.expect("asked by nobody", &packet, &not_ours)?;
                ensure!(told(&mut tracer).is_empty(), "{kind:?}: told to all");
                tracer.trace(&[of_client(client.ip(), None)])?;
                rig.expect("asked for its client", &packet, &not_ours)?;
                let event = only(&mut tracer)?;
                is_about(&event, &packet, Reason::NotOurs)?;
                ensure!(
                    event.stage() == Stage::Ours && event.service == 0,
                    "{event:?}"
                );
                let back = Packet {
                    from: packet.to,
                    to: packet.from,
                    ..packet.clone()
                };
                rig.run(&back.bytes()?)?;
                is_about(&only(&mut tracer)?, &back, Reason::NotOurs)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_reader_is_told_of_its_client_in_both_directions_and_of_its_service() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let setup = Setup::new(vec![
        Kind::ALL.map(|kind| kind.listener(&lab, 0)).to_vec(),
        Kind::ALL.map(|kind| kind.listener(&lab, 1)).to_vec(),
    ]);
    Rig::with(&lab, &setup, |rig| {
        let mut tracer = rig.path.tracer()?;
        for kind in Kind::ALL {
            let client = rig.client(kind.family, 4000);
            let packets = [0, 1].map(|vip| {
                let to_vip = first(
                    kind,
                    SocketAddr::new(client.ip(), 4000 + u16::from(vip)),
                    kind.vip(&lab, vip),
                );
                let mut other = to_vip.clone();
                other.from.set_ip(match kind.family {
                    Family::V4 => "192.0.2.77".parse().expect("a literal"),
                    Family::V6 => "2001:db8::77".parse().expect("a literal"),
                });
                [to_vip, other]
            });
            let service = |service| TraceFilter::new(None, Some(service));
            let ours = |service| of_client(client.ip(), service);
            let rows: [(&[TraceFilter], [[bool; 2]; 2]); 6] = [
                (&[ALL], [[true, true], [true, true]]),
                (&[ours(None)], [[true, false], [true, false]]),
                (&[service(2)], [[false, false], [true, true]]),
                (&[ours(Some(2))], [[false, false], [true, false]]),
                (&[ours(Some(1)), service(2)], [[true, false], [true, true]]),
                (&[TraceFilter::default()], [[false, false], [false, false]]),
            ];
            for (filters, expected) in rows {
                tracer.trace(filters)?;
                for (packets, expected) in packets.iter().zip(expected) {
                    for (packet, expected) in packets.iter().zip(expected) {
                        rig.run(&packet.bytes()?)?;
                        let there = told(&mut tracer).len();
                        ensure!(
                            there == usize::from(expected),
                            "{kind:?}: {there} events of {packet:?} for {filters:?}"
                        );
                    }
                }
            }
            // The other direction, and packets that are dropped for a service.
            tracer.trace(&[ours(Some(1))])?;
            let to_vip = &packets[0][0];
            let answer = match kind.protocol {
                Protocol::Tcp => {
                    Packet::tcp(rig.backend(kind, Blue), to_vip.from, RST | ACK, 0, 1_001)
                }
                Protocol::Udp => Packet::udp(rig.backend(kind, Blue), to_vip.from),
            };
            rig.run(&answer.bytes()?)?;
            let event = only(&mut tracer)?;
            ensure!(
                event.dst.to_ip() == client.ip() && event.side == Side::Reverse as u8,
                "{event:?}"
            );
            let martian = Packet {
                from: kind.vip(&lab, 1),
                ..to_vip.clone()
            };
            tracer.trace(&[service(1)])?;
            rig.run(&martian.bytes()?)?;
            is_about(&only(&mut tracer)?, &martian, Reason::MartianSource)?;
        }
        Ok(())
    })
}

#[test]
fn nothing_is_told_while_nobody_reads_and_an_agent_that_is_gone_reads_no_more() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let kind = Kind::TCP[0];
        let packet = |rig: &Rig, port| first(kind, rig.client(kind.family, port), rig.vip(kind));
        let mut tracer = rig.path.tracer()?;
        rig.run(&packet(rig, 4000).bytes()?)?;
        ensure!(told(&mut tracer).is_empty(), "nobody had asked");
        tracer.trace(&[ALL])?;
        let mut control: Array<_, TraceControl> = open(rig, "TRACE")?;
        let mut renewed = control.get(&0, 0)?;
        ensure!(renewed.until_ns > 0, "{renewed:?}");
        // As ten seconds later.
        renewed.until_ns = 1;
        control.set(0, renewed, 0)?;
        rig.run(&packet(rig, 4001).bytes()?)?;
        ensure!(told(&mut tracer).is_empty(), "nobody has renewed it");
        ensure!(
            control.get(&0, 0)?.until_ns == 0,
            "the program turns it off"
        );
        // An agent that was killed while it traced, and the next one.
        tracer.trace(&[ALL])?;
        rig.run(&packet(rig, 4002).bytes()?)?;
        drop(tracer);
        let mut next = rig.path.tracer()?;
        ensure!(
            control.get(&0, 0)?.until_ns == 0,
            "the next agent turns it off"
        );
        rig.run(&packet(rig, 4003).bytes()?)?;
        ensure!(
            told(&mut next).is_empty(),
            "what was told before is forgotten"
        );
        next.trace(&[ALL])?;
        rig.run(&packet(rig, 4004).bytes()?)?;
        is_about(&only(&mut next)?, &packet(rig, 4004), Reason::Redirected)
    })
}

/// More than the ring of 256 KiB holds.
const FLOOD: u16 = 4_000;

#[test]
fn events_that_nobody_takes_are_bounded_and_the_lost_ones_are_counted() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut tracer = rig.path.tracer()?;
        tracer.trace(&[ALL])?;
        let kind = Kind::UDP[0];
        for port in 0..FLOOD {
            let packet = first(kind, rig.client(kind.family, 4_000 + port), rig.vip(kind));
            rig.run(&packet.bytes()?)?;
        }
        let lost = tracer.newly_lost()?;
        let there = told(&mut tracer);
        ensure!(lost > 0, "the ring holds {} events", there.len());
        ensure!(
            there.len() as u64 + lost == u64::from(FLOOD),
            "{} and {lost}",
            there.len()
        );
        // The oldest ones are there, in order.
        for (port, event) in (4_000..).zip(&there) {
            ensure!(
                u16::from_be(event.src_port_be) == port,
                "{event:?}, not of {port}"
            );
        }
        ensure!(tracer.newly_lost()? == 0, "they are counted once");
        Ok(())
    })
}
