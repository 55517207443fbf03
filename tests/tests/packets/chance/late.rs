//! What a backend still sends after the flow has left it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use switcher_common::cut::{Action, CutOrder};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{EjectedBackend, Orders, Place};

use super::{Attempt, PORT, SEQ, backends, forget_what_was_heard, setup};
use crate::cut::{let_the_clock_move, tick};
use crate::message::Message;
use crate::packet::{ACK, Link, PSH, Packet, RST};
use crate::rig::{Expected, Rig};
use crate::setup::Kind;

/// The RST that answers what the old backend sends, as far as it acknowledges something.
pub(super) fn answer(packet: &Packet) -> Expected {
    let rst = Packet {
        window: 0,
        link: Link {
            destination: packet.link.source,
            source: packet.link.destination,
        },
        ..Packet::tcp(packet.to, packet.from, RST, packet.ack, 0)
    };
    Expected::rewritten(Reason::ResetSent, rst)
}

/// An unreachable about the SYN that went to `backend`.
fn unreachable(attempt: &Attempt, backend: SocketAddr) -> Result<Vec<u8>> {
    let kind = match attempt.kind.family {
        Family::V4 => [3, 3],
        Family::V6 => [1, 4],
    };
    let met = Packet {
        to: backend,
        ..attempt.syn()
    };
    let message = Message {
        body: met.packet()?,
        ..Message::new(backend.ip(), attempt.client.ip(), kind)
    };
    message.bytes()
}

#[test]
fn nothing_of_the_backend_that_was_left_reaches_the_client_or_hurts_the_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            for refused_before in [false, true] {
                let port = PORT + u16::from(refused_before);
                let mut attempt = Attempt::begin(rig, kind, port, Color::Blue)?;
                let left = attempt.backend;
                attempt.wait(rig)?;
                if refused_before {
                    attempt.refused(rig)?;
                }
                attempt.moves(rig)?;
                let flow = rig.flows.content(&attempt.syn())?;
                let (syn_ack, rst) = (attempt.syn_ack_of(left), attempt.refusal_of(left));
                let data = Packet::tcp(left, attempt.client, PSH | ACK, 9_001, SEQ + 1)
                    .payload(b"too late");
                let dropped = Expected::untouched(Reason::LateAnswer);
                rig.expect("a late SYN-ACK", &syn_ack, &answer(&syn_ack))?;
                rig.expect("once more", &syn_ack, &answer(&syn_ack))?;
                rig.expect("late data", &data, &answer(&data))?;
                rig.expect("a late RST", &rst, &dropped)?;
                rig.expect_frame("a late error", &unreachable(&attempt, left)?, &dropped)?;
                ensure!(
                    rig.flows.content(&attempt.syn())? == flow,
                    "the flow has changed"
                );
                attempt.succeeds(rig)?;
                let established = rig.flows.content(&attempt.syn())?;
                rig.expect("after all", &syn_ack, &answer(&syn_ack))?;
                rig.expect("a RST after all", &rst, &dropped)?;
                ensure!(
                    rig.flows.content(&attempt.syn())? == established,
                    "it has changed"
                );
                forget_what_was_heard(rig)?;
            }
        }
        Ok(())
    })
}

#[test]
fn g9_a_late_answer_makes_no_flow_again_when_nobody_knows_that_the_flow_has_left() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let left = attempt.backend;
            attempt.refused(rig)?;
            attempt.moves(rig)?;
            let entries = rig.flows.entries();
            for established in [false, true] {
                if established {
                    attempt.succeeds(rig)?;
                }
                let (syn_ack, rst) = (attempt.syn_ack_of(left), attempt.refusal_of(left));
                if rig.flows.has_entry(&syn_ack)? {
                    rig.flows.forget(&syn_ack)?;
                }
                let dropped = Expected::untouched(Reason::ReplyTupleTaken);
                rig.expect("a late SYN-ACK", &syn_ack, &dropped)?;
                rig.expect("a late RST", &rst, &dropped)?;
                let data = Packet::tcp(left, attempt.client, PSH | ACK, 9_001, SEQ + 1);
                rig.expect("late data", &data, &dropped)?;
                ensure!(
                    rig.flows.entries() == entries - 1,
                    "{established}: pinned again"
                );
            }
            rig.flows.lose(&attempt.syn())?;
            forget_what_was_heard(rig)?;
        }
        Ok(())
    })
}

#[test]
fn an_error_that_says_that_the_backend_cannot_be_reached_is_withheld_as_a_refusal_is() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let error = unreachable(&attempt, attempt.backend)?;
            let withheld = Expected::untouched(Reason::RefusalWithheld);
            rig.expect_frame("unreachable", &error, &withheld)?;
            attempt.is_refused.set(true);
            attempt.moves(rig)?;
            attempt.succeeds(rig)?;
            // Of a connection that is there it is not about the SYN.
            let error = unreachable(&attempt, attempt.backend)?;
            let (_, counted) = rig.run_counted(&error)?;
            let is_told = counted.iter().any(|(it, _)| *it == Reason::IcmpTranslated);
            ensure!(is_told, "{kind:?}: {counted:?}");
        }
        Ok(())
    })
}

#[test]
fn an_error_about_the_only_backend_is_told() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [1, 1]), |rig| {
        for kind in Kind::TCP {
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let error = unreachable(&attempt, attempt.backend)?;
            let (_, counted) = rig.run_counted(&error)?;
            let is_told = counted.iter().any(|(it, _)| *it == Reason::IcmpTranslated);
            ensure!(is_told, "{kind:?}: {counted:?}");
        }
        Ok(())
    })
}

#[test]
fn a_dead_backends_late_answer_is_not_taken_and_the_flow_goes_elsewhere() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 1]), |rig| {
        for kind in Kind::TCP {
            for refuses in [false, true] {
                let port = PORT + u16::from(refuses);
                let mut attempt = Attempt::begin(rig, kind, port, Color::Blue)?;
                let_the_clock_move()?;
                order(rig, attempt.backend)?;
                let_the_clock_move()?;
                rig.flows.complete(&attempt.syn())?;
                let flow = rig.flows.content(&attempt.syn())?;
                let syn_ack = attempt.syn_ack_of(attempt.backend);
                rig.expect("a late SYN-ACK", &syn_ack, &answer(&syn_ack))?;
                ensure!(rig.flows.content(&attempt.syn())? == flow, "it has changed");
                attempt.wait(rig)?;
                if refuses {
                    attempt.refused(rig)?;
                }
                attempt.moves(rig)?;
                attempt.succeeds(rig)?;
                rig.path.set_orders(Orders::default())?;
                forget_what_was_heard(rig)?;
            }
        }
        Ok(())
    })
}

#[test]
fn no_flow_goes_to_a_backend_whose_flows_are_cut() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 1]), |rig| {
        for kind in Kind::TCP {
            // Which one it is, is found out with another flow of the same slot.
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let first = attempt.backend;
            attempt.wait(rig)?;
            attempt.moves(rig)?;
            let other = attempt.backend;
            rig.flows.lose(&attempt.syn())?;
            let_the_clock_move()?;
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            ensure!(attempt.backend == first, "the slot's");
            let_the_clock_move()?;
            order(rig, other)?;
            let_the_clock_move()?;
            attempt.wait(rig)?;
            attempt.stays(rig, "the other one is dead")?;
            attempt.refused_for_good(rig, "nobody else is there")?;
            rig.path.set_orders(Orders::default())?;
            forget_what_was_heard(rig)?;
        }
        Ok(())
    })
}

#[test]
fn no_flow_goes_to_a_backend_that_is_ejected() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 1]), |rig| {
        for kind in Kind::TCP {
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let all = backends(&lab, kind, [2, 1]).blue.into_iter();
            let others = all.map(|(it, _)| it).filter(|it| *it != attempt.backend);
            let listener = Place {
                vip: rig.vip(kind),
                protocol: kind.protocol,
            };
            let ejected = others.map(|endpoint| EjectedBackend {
                listener,
                color: Color::Blue,
                endpoint,
            });
            rig.path.set_orders(Orders {
                ejected: ejected.collect(),
                ..Orders::default()
            })?;
            attempt.wait(rig)?;
            attempt.stays(rig, "the other one is ejected")?;
            attempt.refused_for_good(rig, "nobody else is there")?;
            rig.path.set_orders(Orders::default())?;
            forget_what_was_heard(rig)?;
        }
        Ok(())
    })
}

/// What a backend gets that has died.
fn order(rig: &mut Rig, backend: SocketAddr) -> Result<()> {
    let order = CutOrder::new(Action::ResetAnswered, tick(0)?);
    Ok(rig.path.set_orders(Orders {
        backends: BTreeMap::from([((1, backend), order)]),
        ..Orders::default()
    })?)
}

#[test]
fn a_new_connection_may_go_where_the_one_before_had_left() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let left = attempt.backend;
            attempt.wait(rig)?;
            attempt.moves(rig)?;
            let again = Packet {
                seq: 77_000,
                ..attempt.syn()
            };
            let sent = again.sent_to(left, rig.link("blue")?);
            let expected = Expected::redirected(sent).noting(Reason::TupleReused);
            rig.expect("another SYN", &again, &expected)?;
            let answer = Packet {
                ack: 77_001,
                ..attempt.syn_ack_of(left)
            };
            let told = rig.to_client(&answer, attempt.vip)?;
            rig.expect("its SYN-ACK", &answer, &told)?;
        }
        rig.expect_flows("nothing is left of the ones before", 2)
    })
}
