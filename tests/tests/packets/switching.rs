//! What a flip changes, and for whom: G1, G2, G8, G9.

use std::net::SocketAddr;

use anyhow::Result;
use switcher_common::flow::FlowState;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::Color::{self, Blue, Green};
use switcher_common::service::Protocol;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::flows::Flow;
use crate::packet::{ACK, FIN, PSH, Packet, SYN};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// Three services, each with a listener of every kind.
fn three_services(lab: &Lab) -> Setup {
    let service = |vip| Kind::ALL.map(|kind| kind.listener(lab, vip)).to_vec();
    Setup::new((0..3).map(service).collect())
}

/// Sends one fresh packet of each kind to each of three services, which must go to `colors`.
fn they_go_to(
    rig: &mut Rig,
    lab: &Lab,
    colors: [Color; 3],
    ports: &mut u16,
    when: &str,
) -> Result<()> {
    for (vip, color) in (0..).zip(colors) {
        for kind in Kind::ALL {
            *ports += 1;
            let client = rig.client(kind.family, *ports);
            let packet = first(kind, client, kind.vip(lab, vip));
            let expected = rig.to_backend(&packet, color)?;
            let what = format!("{kind:?} to VIP {vip} {when}");
            rig.expect(&what, &packet, &expected)?;
            let flow = rig.flow(&packet)?;
            assert_eq!((flow.color, flow.service), (color, u16::from(vip) + 1));
        }
    }
    Ok(())
}

/// A flip makes two bpf(2) calls: it prepares the states, and it stores them. Packets of all
/// services and families run before, between and after them.
#[test]
fn g1_between_the_calls_of_a_flip_all_services_are_old_and_then_all_are_new() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &three_services(&lab), |rig| {
        let mut ports = 4000;
        rig.switch(&[(Blue, Blue); 3])?;
        let mut old = Blue;
        for color in [Green, Blue, Green] {
            they_go_to(rig, &lab, [old; 3], &mut ports, "before the flip")?;
            rig.prepare_switch(&[(color, color); 3])?;
            they_go_to(rig, &lab, [old; 3], &mut ports, "between its calls")?;
            rig.commit_switch()?;
            they_go_to(rig, &lab, [color; 3], &mut ports, "after it")?;
            old = color;
        }
        Ok(())
    })
}

#[test]
fn g1_each_service_has_a_color_of_its_own() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &three_services(&lab), |rig| {
        let mut ports = 4000;
        for colors in [
            [Blue, Green, Blue],
            [Green, Blue, Blue],
            [Blue, Blue, Green],
        ] {
            rig.switch(&colors.map(|color| (color, color)))?;
            they_go_to(rig, &lab, colors, &mut ports, "each by its own color")?;
        }
        Ok(())
    })
}

#[test]
fn g2_established_flows_keep_their_backend_through_flips() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut talks = Vec::new();
        for (round, color) in (0..).zip([Blue, Green, Blue, Green]) {
            rig.flip(color)?;
            for talk in &mut talks {
                Talk::goes_on(talk, rig, &format!("after flip {round}"))?;
            }
            for (kind, port) in Kind::ALL.into_iter().zip(4000 + 10 * round..) {
                talks.push(Talk::open(rig, kind, port, color)?);
            }
        }
        for talk in &mut talks {
            talk.goes_on(rig, "at the end")?;
        }
        rig.expect_flows("four of each kind", 16)
    })
}

#[test]
fn g2_a_new_syn_on_an_established_flow_goes_to_its_backend_and_changes_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            rig.flip(Blue)?;
            let mut talk = Talk::open(rig, kind, 4000, Blue)?;
            let before = talk.flow(rig)?;
            rig.flip(Green)?;
            let forged = Packet {
                seq: 123_456,
                ..talk.first()
            };
            talk.send(rig, "a SYN with a new number", &forged, &[])?;
            // The number of the newest SYN may be noted.
            let flow = Flow {
                syn_seq: before.syn_seq,
                ..talk.flow(rig)?
            };
            assert_eq!(flow, before, "after a forged SYN");
            talk.goes_on(rig, "after a forged SYN")?;
            talk.send(rig, "FIN", &talk.of_client(FIN | ACK), &[])?;
            let another = Packet {
                seq: 654_321,
                ..talk.first()
            };
            talk.send(rig, "a SYN when half closed", &another, &[])?;
            assert_eq!(talk.flow(rig)?.color, Blue, "half closed is not over");
        }
        Ok(())
    })
}

#[test]
fn g8_a_syn_that_is_sent_again_after_a_flip_keeps_its_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            rig.flip(Blue)?;
            let mut talk = Talk::begin(rig, kind, 4000, Blue)?;
            let begun = talk.flow(rig)?;
            rig.flip(Green)?;
            let notes = [Reason::SynRetransmit];
            rig.just_seen(&talk.first())?;
            talk.send(rig, "the SYN again", &talk.first(), &notes)?;
            assert_eq!(talk.flow(rig)?, begun, "unanswered");
            talk.reply(rig, "the SYN-ACK", &talk.answer(), &[])?;
            talk.send(rig, "the SYN crossing it", &talk.first(), &notes)?;
            assert_eq!(talk.flow(rig)?.state, FlowState::Answered);
            talk.reply(rig, "the SYN-ACK again", &talk.answer(), &[])?;
            let ack = talk.acknowledgement();
            talk.send(rig, "the ACK", &ack, &[Reason::Promoted])?;
            talk.send(rig, "a late copy of the SYN", &talk.first(), &notes)?;
            talk.goes_on(rig, "on the old color")?;
            assert_eq!(talk.flow(rig)?.color, Blue);
        }
        rig.expect_flows("nothing was selected twice", 2)
    })
}

#[test]
fn g8_a_new_sequence_number_on_a_half_open_flow_selects_afresh() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            for (port, answered) in [(4000, false), (4001, true)] {
                rig.flip(Blue)?;
                let mut talk = Talk::begin(rig, kind, port, Blue)?;
                if answered {
                    talk.reply(rig, "the SYN-ACK", &talk.answer(), &[])?;
                }
                rig.flip(Green)?;
                let another = Packet {
                    seq: 2_000,
                    ..talk.first()
                };
                let expected = rig.to_backend(&another, Green)?.noting(Reason::TupleReused);
                rig.expect("another SYN", &another, &expected)?;
                let flow = talk.flow(rig)?;
                assert_eq!((flow.color, flow.syn_seq), (Green, 2_000));
                assert_eq!(flow.state, FlowState::Unanswered);
            }
        }
        rig.expect_flows("the old ones are gone", 4)
    })
}

/// A client that lost its connection, in a crash say, dials again from the same port, and its old
/// backend knows nothing of a connection either.
#[test]
fn g3_what_an_old_backend_accepts_anew_is_no_fresh_connection_on_the_old_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            rig.flip(Blue)?;
            let mut talk = Talk::open(rig, kind, 4000, Blue)?;
            let dial = |seq| Packet {
                seq,
                ..talk.first()
            };
            let accept = |seq: u32| Packet {
                seq: seq + 70_000,
                ack: seq + 1,
                ..talk.answer()
            };
            let (first, second) = (dial(200_000), dial(400_000));
            let (first_answer, second_answer) = (accept(200_000), accept(400_000));
            // While its color takes fresh connections, that is as good as any.
            talk.send(rig, "a new SYN", &first, &[])?;
            talk.reply(rig, "its SYN-ACK", &first_answer, &[])?;
            assert_eq!(talk.flow(rig)?.state, FlowState::Answered);
            let ack = Packet {
                seq: 200_001,
                ack: first_answer.seq + 1,
                ..talk.acknowledgement()
            };
            talk.send(rig, "the ACK", &ack, &[])?;
            assert_eq!(talk.flow(rig)?.state, FlowState::Established);
            rig.flip(Green)?;
            talk.send(rig, "a new SYN after the flip", &second, &[])?;
            let dropped = Expected::untouched(Reason::ReopenedOnOldColor);
            rig.expect("its SYN-ACK of the old color", &second_answer, &dropped)?;
            let expected = rig.to_backend(&second, Green)?;
            rig.expect("the SYN again", &second, &expected)?;
            assert_eq!(talk.flow(rig)?.color, Green);
        }
        rig.expect_flows("one for each family", 2)
    })
}

#[test]
fn fresh_flows_go_to_the_new_color_and_unanswered_udp_flows_keep_theirs() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::UDP {
            rig.flip(Blue)?;
            let mut old = Talk::begin(rig, kind, 4000, Blue)?;
            rig.flip(Green)?;
            old.send(rig, "the second question", &old.first(), &[])?;
            let mut new = Talk::open(rig, kind, 4001, Green)?;
            new.goes_on(rig, "on the new color")?;
            old.reply(rig, "a late answer", &old.answer(), &[Reason::Promoted])?;
            old.goes_on(rig, "on the old color")?;
        }
        Ok(())
    })
}

/// What is in the middle of a TCP stream.
fn mid_stream(from: SocketAddr, to: SocketAddr, flags: u8) -> Packet {
    Packet::tcp(from, to, flags, 5_000, 6_000).payload(b"in the middle")
}

#[test]
fn g9_a_packet_in_mid_stream_without_a_pin_goes_to_the_base_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut port = 4000;
        for (active, base) in [(Green, Blue), (Blue, Green), (Blue, Blue)] {
            rig.switch(&[(active, base)])?;
            for kind in Kind::TCP {
                for flags in [ACK, PSH | ACK, FIN | ACK, SYN | ACK] {
                    port += 1;
                    let before = rig.counters.traffic(1, base)?;
                    let packet = mid_stream(rig.client(kind.family, port), rig.vip(kind), flags);
                    let what = format!("{kind:?}, flags {flags:#x}, base {base:?}");
                    let expected = rig.to_backend(&packet, base)?.noting(Reason::Unpinned);
                    rig.expect(&what, &packet, &expected)?;
                    let flow = rig.flow(&packet)?;
                    assert_eq!(flow.color, base, "{what}");
                    assert!(flow.unpinned, "{what}");
                    assert_eq!(flow.table, Table::Unanswered, "{what}");
                    let after = rig.counters.traffic(1, base)?;
                    assert_eq!(after.unpinned_packets, before.unpinned_packets + 1);
                    assert_eq!(after.new_flows, before.new_flows + 1);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn g9_a_lost_flow_is_pinned_again_by_the_backends_reply() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            rig.flip(Blue)?;
            let mut talk = Talk::open(rig, kind, 4000, Blue)?;
            rig.switch(&[(Green, Blue)])?;
            rig.flows.lose(&talk.first())?;
            if kind.protocol == Protocol::Udp {
                // Any datagram begins a flow: nothing tells a lost one from a fresh one.
                let fresh = rig.to_backend(&talk.first(), Green)?;
                rig.expect("a datagram of a lost flow", &talk.first(), &fresh)?;
                continue;
            }
            let data = talk.of_client(PSH | ACK).payload(b"where was I?");
            talk.send(rig, "data of a lost flow", &data, &[Reason::Unpinned])?;
            talk.send(rig, "more of it", &data, &[])?;
            let answer = talk.of_backend(PSH | ACK).payload(b"here");
            talk.reply(rig, "its answer", &answer, &[Reason::Promoted])?;
            let flow = talk.flow(rig)?;
            assert_eq!(flow.table, Table::Established);
            assert!(flow.unpinned, "it stays visible that the pin was lost");
            rig.flip(Green)?;
            talk.goes_on(rig, "after it was pinned again")?;
        }
        Ok(())
    })
}
