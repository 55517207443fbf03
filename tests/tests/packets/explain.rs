//! `explain` against the program: where it says that a packet would go, the packet goes, and asking
//! changes nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use switcher_common::clock::ticks_from_ns;
use switcher_common::cut::{Action, CutOrder};
use switcher_common::flow::{FlowState, Side};
use switcher_common::reason::Reason;
use switcher_common::service::Color::{Blue, Green};
use switcher_common::service::{PerColor, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{Explained, Explainer, FoundFlow, Question, Way, Why};

use crate::alone::begin_after;
use crate::flows::Flow;
use crate::listeners::{open, shared_backends, weighted};
use crate::numbers::Numbers;
use crate::packet::{ACK, PSH, Packet, RST, SYN};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Listener, Setup};
use crate::talk::Talk;

const STEPS: u32 = 6_000;
/// How often each outcome must occur for each kind of traffic.
const ENOUGH: u32 = 10;

/// VIPs 0, 1 and 2 share two backends of each color, so that a client's port can use two of them at
/// most; VIP 3 is a preview; VIP 4 has no green backends.
fn crowded(lab: &Lab) -> Setup {
    let mut setup = shared_backends(weighted(lab), lab);
    for (kind, listener) in Kind::ALL.into_iter().zip(setup.services[0].clone()) {
        let at = |vip| Listener {
            vip: kind.vip(lab, vip),
            ..listener.clone()
        };
        let preview = Listener {
            preview: true,
            ..at(3)
        };
        let blue_only = Listener {
            backends: PerColor {
                green: Vec::new(),
                ..listener.backends.clone()
            },
            ..at(4)
        };
        setup.services[0].extend([at(2), preview, blue_only]);
    }
    setup
}

/// Clients and destinations at random: many meet again, some are new, some are not ours.
struct Crowd<'a> {
    lab: &'a Lab,
    numbers: Numbers,
}

impl Crowd<'_> {
    fn client(&mut self, family: Family) -> SocketAddr {
        let is_new = self.numbers.byte() < 64;
        let port = if is_new {
            u16::from_be_bytes([self.numbers.byte() | 0x80, self.numbers.byte()])
        } else {
            self.numbers.pick(&[4_000, 4_001])
        };
        if self.numbers.byte() < 16 {
            // No client: a loopback address, a VIP, a backend.
            let loopback = match family {
                Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
                Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
            };
            let backend = self.lab.backends(Blue, family)[0];
            let strange = [loopback, self.lab.vip(family, 0), backend, backend];
            return SocketAddr::new(self.numbers.pick(&strange), port);
        }
        let host = self.numbers.pick(&[7, 8, 9]);
        let address = match family {
            Family::V4 => IpAddr::from(Ipv4Addr::new(192, 0, 2, host)),
            Family::V6 => {
                IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)))
            }
        };
        SocketAddr::new(address, port)
    }

    fn destination(&mut self, kind: Kind) -> SocketAddr {
        let vip = self.numbers.pick(&[0, 1, 2, 3, 4]);
        let mut destination = kind.vip(self.lab, vip);
        if self.numbers.byte() < 16 {
            // A VIP, but no listener.
            destination.set_port(81);
        }
        destination
    }

    /// A packet of a client, and whether it begins something.
    fn packet(&mut self, kind: Kind) -> (Packet, bool) {
        let (from, to) = (self.client(kind.family), self.destination(kind));
        match kind.protocol {
            Protocol::Udp => (Packet::udp(from, to), true),
            Protocol::Tcp => {
                let begins = self.numbers.byte() < 150;
                let flags = if begins { SYN } else { PSH | ACK };
                let (seq, ack) = (self.numbers.word(), self.numbers.word());
                (Packet::tcp(from, to, flags, seq, ack), begins)
            }
        }
    }
}

fn ask(explainer: &Explainer, packet: &Packet) -> Result<Explained> {
    let question = Question {
        protocol: packet.protocol,
        from: packet.from,
        to: packet.to,
    };
    explainer
        .explain(&question)
        .with_context(|| format!("explaining {question:?}"))
}

/// What the explanation promises for `packet`, and a word for it.
fn promised(rig: &Rig, packet: &Packet, way: &Way) -> Result<(Expected, &'static str)> {
    Ok(match way {
        Way::Pass(reason) | Way::Drop { reason, .. } => {
            (Expected::untouched(*reason), reason.name())
        }
        // What the answer looks like is not for explain to say.
        Way::Answer { reason, .. } => (Expected::untouched(*reason), reason.name()),
        Way::Forward {
            why,
            color,
            from,
            to,
            ..
        } => {
            ensure!(*from == packet.from, "the client's endpoint would change");
            let sent = packet.sent_to(*to, rig.link(color.name())?);
            let name = match why {
                Why::Pinned => "pinned",
                Why::Active => "active",
                Why::Base => "base",
                Why::Preview => "preview",
                Why::Repinned => "repinned",
            };
            let backends = rig.lab.backends(*color, Family::of(to.ip()));
            let reason = if backends.contains(&packet.from.ip()) {
                // A backend as a client of its own color: back where it came from.
                Reason::Transmitted
            } else {
                Reason::Redirected
            };
            (Expected::rewritten(reason, sent), name)
        }
    })
}

/// Runs `packet`; an error unless it goes where `promised` says, whatever is noted beside.
fn goes(rig: &mut Rig, packet: &Packet, promised: &Expected) -> Result<()> {
    let frame = packet.bytes()?;
    let (mut run, counted) = rig.run_counted(&frame)?;
    if counted.contains(&(Reason::ResetSent, 1)) {
        run.frame.clone_from(&frame);
    }
    let mut expected = promised.clone();
    for (reason, _) in counted.iter().filter(|(reason, _)| is_note(*reason)) {
        expected = expected.noting(*reason);
    }
    expected.judge(&frame, &run, &counted)
}

fn is_note(reason: Reason) -> bool {
    reason.verdict() == switcher_common::reason::Verdict::Note
}

/// The flow tables' own words must be those of the explanation.
fn same_flow(found: Option<FoundFlow>, table: Option<Flow>) -> Result<()> {
    let told = found.map(|it| {
        (
            it.table,
            it.state,
            it.service,
            it.color,
            it.backend,
            it.preview,
            it.unpinned,
        )
    });
    let is = table.map(|it| {
        (
            it.table,
            it.state,
            it.service,
            it.color,
            it.backend,
            it.preview,
            it.unpinned,
        )
    });
    ensure!(told == is, "the flow is {is:?}, explained as {told:?}");
    ensure!(
        found.is_none_or(|it| it.other_table.is_some()),
        "half of it is missing"
    );
    Ok(())
}

/// Brings the flow of a client's `packet` further, to a state that `stage` chooses.
fn advance(rig: &mut Rig, packet: &Packet, stage: u8) -> Result<()> {
    let Some(flow) = rig.flows.of(packet)? else {
        return Ok(());
    };
    let backend = flow.backend;
    if packet.protocol == Protocol::Udp {
        rig.run(&Packet::udp(backend, packet.from).bytes()?)?;
        return Ok(());
    }
    let (seq, end) = (packet.seq, packet.seq.wrapping_add(1));
    let answer = Packet::tcp(backend, packet.from, SYN | ACK, 9_000, end);
    let last = Packet::tcp(packet.from, packet.to, ACK, end, 9_001);
    let rst = Packet::tcp(packet.from, packet.to, RST, end, 0);
    let refused = Packet::tcp(backend, packet.from, RST | ACK, 0, seq.wrapping_add(1));
    let packets: &[&Packet] = match stage % 5 {
        0 => &[&answer],
        1 => &[&answer, &last],
        2 => &[&answer, &last, &rst],
        3 => &[&refused],
        _ => &[],
    };
    for packet in packets {
        rig.run(&packet.bytes()?)?;
    }
    Ok(())
}

/// Now, as the program counts it.
fn ticks() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ns = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    ticks_from_ns(ns.unsigned_abs())
}

/// Orders the same for the flows of every backend.
fn order_cuts(rig: &Rig, order: CutOrder) -> Result<()> {
    let mut orders = open::<CutOrder>(rig, "CUTS")?;
    for backend in 1..orders.len() {
        orders.set(backend, order, 0)?;
    }
    Ok(())
}

#[test]
fn packets_go_where_explain_says_and_asking_changes_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().vip_count(5).build()?;
    Rig::with(&lab, &crowded(&lab), |rig| {
        let explainer = rig.path.explainer()?;
        let mut crowd = Crowd {
            lab: &lab,
            numbers: Numbers(0x00e1_a55e),
        };
        let mut seen = BTreeMap::<(String, &str), u32>::new();
        for step in 0..STEPS {
            if step % 200 == 0 {
                let colors = [Blue, Green];
                let active = crowd.numbers.pick(&colors);
                rig.switch(&[(active, crowd.numbers.pick(&colors))])?;
            }
            // For a while all flows that are older are cut; TCP's stay so.
            if step % 300 == 100 {
                let action = crowd.numbers.pick(&[Action::Reset, Action::Move]);
                order_cuts(rig, CutOrder::new(action, ticks() - 32))?;
            } else if step % 300 == 220 {
                order_cuts(rig, CutOrder::default())?;
            }
            let kind = crowd.numbers.pick(&Kind::ALL);
            let (packet, begins) = crowd.packet(kind);
            let what = format!("step {step}: {packet:?}");
            let before = (step % 16 == 0).then(|| rig.flows.bytes()).transpose()?;
            let said = ask(&explainer, &packet)?;
            if let Some(before) = before {
                ensure!(rig.flows.bytes()? == before, "{what}: asking changed flows");
            }
            same_flow(said.flow, rig.flows.of(&packet)?).context(what.clone())?;
            ensure!(said.to_vip, "{what}: it is to a VIP");
            let way = match (kind.protocol, &said.mid_stream) {
                (Protocol::Tcp, Some(mid_stream)) if !begins => mid_stream,
                (Protocol::Tcp, None) | (Protocol::Udp, Some(_)) => {
                    bail!("{what}: only TCP has a middle: {said:?}")
                }
                _ => &said.begins,
            };
            let (expected, outcome) = promised(rig, &packet, way).context(what.clone())?;
            goes(rig, &packet, &expected).with_context(|| format!("{what}: {said:?}"))?;
            *seen.entry((format!("{kind:?}"), outcome)).or_default() += 1;
            if begins {
                let stage = crowd.numbers.byte();
                advance(rig, &packet, stage)?;
            }
        }
        for kind in Kind::ALL {
            let outcomes = [
                "pinned",
                "active",
                "preview",
                "not_ours",
                "no_backend",
                "reply_tuple_taken",
                "martian_source",
            ];
            let of_tcp: &[_] = match kind.protocol {
                Protocol::Tcp => &["base", "reset_sent"],
                Protocol::Udp => &[],
            };
            for &outcome in outcomes.iter().chain(of_tcp) {
                let times = seen.get(&(format!("{kind:?}"), outcome)).copied();
                ensure!(
                    times.is_some_and(|times| times >= ENOUGH),
                    "{kind:?}, {outcome}: only {times:?} times of {seen:?}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_backends_own_tuple_is_explained_as_the_reply_that_it_is() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let explainer = rig.path.explainer()?;
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Blue)?;
            rig.flip(Green)?;
            let reply = talk.of_backend(ACK);
            let said = ask(&explainer, &reply)?;
            let flow = said.flow.context("the reply's flow")?;
            assert_eq!(flow.backend, talk.backend, "{kind:?}");
            let way = said.mid_stream.unwrap_or(said.begins);
            let Way::Forward { why, from, to, .. } = way else {
                bail!("{kind:?}: {way:?}");
            };
            assert_eq!(
                (why, from, to),
                (Why::Pinned, talk.vip, talk.client),
                "{kind:?}"
            );
            rig.expect("the reply", &reply, &rig.to_client(&reply, talk.vip)?)?;
            rig.flip(Blue)?;
        }
        Ok(())
    })
}

#[test]
fn what_is_left_of_an_older_flow_is_explained_as_the_one_that_took_its_place() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let explainer = rig.path.explainer()?;
        for kind in Kind::TCP {
            let older = Talk::begin(rig, kind, 4000, Blue)?;
            let answer = older.answer();
            let returned = rig.to_client(&answer, older.vip)?;
            rig.expect("its answer", &answer, &returned)?;
            begin_after(rig, &older)?;
            let flow = ask(&explainer, &answer)?.flow.context("the reply's flow")?;
            let found = (flow.side, flow.state);
            assert_eq!(found, (Side::Reverse, FlowState::Unanswered), "{kind:?}");
        }
        Ok(())
    })
}

#[test]
fn a_reply_without_a_flow_is_explained_too() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let explainer = rig.path.explainer()?;
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Blue)?;
            let syn = talk.of_backend(SYN);
            rig.flows.lose(&talk.first())?;
            let lost = talk.of_backend(ACK);
            let said = ask(&explainer, &lost)?;
            let way = said.mid_stream.as_ref().unwrap_or(&said.begins);
            let Way::Forward { why, color, .. } = way else {
                bail!("{kind:?}: {said:?}");
            };
            assert_eq!((*why, *color), (Why::Repinned, Blue), "{kind:?}");
            if kind.protocol == Protocol::Tcp {
                assert_eq!(said.begins, Way::Pass(Reason::NotOurs), "its own SYN");
                rig.expect("its own SYN", &syn, &Expected::untouched(Reason::NotOurs))?;
            }
            talk.reply(rig, "the reply", &lost, &[Reason::ReplyRepinned])?;
        }
        Ok(())
    })?;
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &shared_backends(Setup::plain(&lab), &lab), |rig| {
        let explainer = rig.path.explainer()?;
        for kind in Kind::ALL {
            let client = rig.client(kind.family, 4000);
            let lost = match kind.protocol {
                Protocol::Tcp => Packet::tcp(rig.backend(kind, Blue), client, ACK, 1, 1),
                Protocol::Udp => Packet::udp(rig.backend(kind, Blue), client),
            };
            let said = ask(&explainer, &lost)?;
            let way = said.mid_stream.unwrap_or(said.begins);
            let (expected, reason) = promised(rig, &lost, &way)?;
            assert_eq!(reason, "unexpected_reply", "{kind:?}");
            rig.expect("a reply to nobody", &lost, &expected)?;
        }
        Ok(())
    })
}

/// Room for as many unanswered flows: as many entries of clients, and of replies.
const UNANSWERED: u32 = 512;

/// How many of 128 old flows that are touched while a flood fills the LRU outlive their 128
/// neighbours by the time at which a quarter of these is left.
fn outlive(rig: &mut Rig, touch: impl Fn(&mut Rig, &Packet) -> Result<()>) -> Result<i64> {
    let kind = Kind::TCP[0];
    let packet = |rig: &Rig, port| first(kind, rig.client(kind.family, port), rig.vip(kind));
    let left = |rig: &Rig, first: u16| -> Result<i64> {
        let ports = (first..first + 256).step_by(2);
        let there = ports.map(|port| rig.flows.has_entry(&packet(rig, port)));
        there.map(|it| it.map(i64::from)).sum()
    };
    for port in 1_000..1_256 {
        rig.run(&packet(rig, port).bytes()?)?;
    }
    for port in 10_000..20_000 {
        let touched = packet(rig, 1_000 + (port % 128) * 2);
        touch(rig, &touched)?;
        rig.run(&packet(rig, port).bytes()?)?;
        if port % 16 == 0 && left(rig, 1_001)? <= 32 {
            return Ok(left(rig, 1_000)? - left(rig, 1_001)?);
        }
    }
    bail!("the flood evicted nothing")
}

/// Runs `test` where few unanswered flows have room.
fn narrow(test: fn(&mut Rig) -> Result<()>) -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.limits.unanswered = UNANSWERED;
    Rig::with(&lab, &setup, test)
}

#[test]
fn a_flow_that_is_asked_for_is_forgotten_no_later_than_others() -> Result<()> {
    skip_unless_lab!(Ok(()));
    narrow(|rig| {
        let explainer = rig.path.explainer()?;
        let asked = outlive(rig, |_, packet| ask(&explainer, packet).map(drop))?;
        ensure!(asked.abs() < 32, "{asked} of 128 outlived others");
        Ok(())
    })?;
    // That the test can tell: a RST that nobody believes uses its flow and changes nothing.
    narrow(|rig| {
        let used = outlive(rig, |rig, packet| {
            let stray = Packet::tcp(packet.from, packet.to, RST, 77, 0);
            rig.run(&stray.bytes()?).map(drop)
        })?;
        ensure!(used > 64, "only {used} of 128 outlived others");
        Ok(())
    })
}
