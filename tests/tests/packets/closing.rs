//! How flows end: FIN and RST shorten the timeout, later data restores (G2), a new SYN begins anew.

use anyhow::Result;
use switcher_common::flow::FlowState;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, FIN, PSH, Packet, RST};
use crate::rig::Rig;
use crate::setup::Kind;
use crate::talk::Talk;

/// Live flows of blue, as a drain counts them.
fn in_flight(rig: &mut Rig) -> Result<u64> {
    Ok(rig.scanner.scan(1, false, |_| {})?.in_flight(1).blue)
}

#[test]
fn g10_a_flow_is_over_when_each_side_has_acknowledged_the_other_ones_fin() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            assert_eq!(in_flight(rig)?, 1, "an established flow is in flight");
            let fin = talk.of_client(FIN | ACK);
            talk.send(rig, "FIN of the client", &fin, &[])?;
            let half = talk.flow(rig)?;
            assert_eq!(half.state, FlowState::Established, "half closed");
            assert_eq!(half.fins, [true, false]);
            assert_eq!(in_flight(rig)?, 1, "a half-closed flow is in flight");
            talk.send(rig, "the same FIN again", &fin, &[])?;
            let data = talk.of_backend(PSH | ACK).payload(b"the rest");
            talk.reply(rig, "data of the open side", &data, &[])?;
            assert_eq!(talk.flow(rig)?, half, "a half-closed flow goes on");
            let earlier = talk.of_client(ACK);
            let fin = talk.of_backend(FIN | ACK).payload(b"its tail");
            talk.reply(rig, "FIN of the backend", &fin, &[])?;
            assert_eq!(talk.flow(rig)?.fins, [true; 2]);
            talk.send(rig, "an ACK of what came before", &earlier, &[])?;
            assert_eq!(talk.flow(rig)?.state, FlowState::Established);
            assert_eq!(in_flight(rig)?, 1, "the client has not got all");
            talk.reply(rig, "the FIN again", &fin, &[])?;
            let last = talk.of_client(ACK);
            talk.send(rig, "the last ACK", &last, &[Reason::Demoted])?;
            let over = talk.flow(rig)?;
            assert_eq!((over.state, over.fins), (FlowState::Closing, [true; 2]));
            assert_eq!(over.table, Table::Unanswered, "no longer in a safe place");
            assert_eq!(in_flight(rig)?, 0, "a closed flow is not in flight");
            talk.send(rig, "the last ACK again", &last, &[])?;
            assert_eq!(talk.flow(rig)?, over, "the last ACK restores nothing");
            talk.send(rig, "an older ACK", &earlier, &[])?;
            assert_eq!(talk.flow(rig)?, over, "nor does what was overtaken");
            let rst = talk.of_client(RST);
            talk.send(rig, "a RST instead of time-wait", &rst, &[])?;
            assert_eq!(talk.flow(rig)?, over);
        }
        Ok(())
    })
}

#[test]
fn g2_a_rst_closes_an_established_flow_and_whatever_goes_on_restores_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for (kind, port) in Kind::TCP.into_iter().zip(4000..) {
            let mut talk = Talk::open(rig, kind, port, Color::Blue)?;
            let established = talk.flow(rig)?;
            rig.flip(Color::Green)?;
            for by_client in [true, false] {
                if by_client {
                    let rst = talk.of_client(RST);
                    talk.send(rig, "RST of the client", &rst, &[Reason::Demoted])?;
                } else {
                    let rst = talk.of_backend(RST);
                    talk.reply(rig, "RST of the backend", &rst, &[Reason::Demoted])?;
                }
                assert_eq!(talk.flow(rig)?.state, FlowState::Closing);
                assert_eq!(in_flight(rig)?, 0, "a reset flow is not in flight");
                // As when an end does not believe it: a challenge ACK (RFC 5961).
                let challenge = talk.of_backend(ACK);
                let restored = [Reason::Restored, Reason::Promoted];
                talk.reply(rig, "a challenge ACK", &challenge, &restored)?;
                assert_eq!(talk.flow(rig)?, established, "after a challenge ACK");
                let rst = talk.of_client(RST);
                talk.send(rig, "the RST again", &rst, &[Reason::Demoted])?;
                let data = talk.of_backend(PSH | ACK).payload(b"still here");
                talk.reply(rig, "data", &data, &restored)?;
                assert_eq!(talk.flow(rig)?, established, "after data");
                assert_eq!(in_flight(rig)?, 1, "a restored flow is in flight");
                talk.goes_on(rig, "after it was restored")?;
            }
            let rst = talk.of_client(RST);
            talk.send(rig, "RST at last", &rst, &[Reason::Demoted])?;
            rig.flip(Color::Blue)?;
        }
        Ok(())
    })
}

#[test]
fn g7_a_flow_that_is_over_is_not_kept_by_packets_that_nobody_answers() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            talk.reply(rig, "RST", &talk.of_backend(RST), &[Reason::Demoted])?;
            let over = talk.flow(rig)?;
            let guess = |seq, ack| Packet::tcp(talk.client, talk.vip, PSH | ACK, seq, ack);
            let guessed = guess(0xdead_0000, 0xbeef_0000).payload(b"?");
            talk.send(rig, "data of a guesser", &guessed, &[])?;
            let mut unacknowledging = talk.of_client(PSH).payload(b"?");
            unacknowledging.ack = 0;
            let mut unmoved = talk.clone();
            unmoved.send(rig, "data without ACK", &unacknowledging, &[])?;
            assert_eq!(
                talk.flow(rig)?,
                over,
                "the backend would hear of no connection"
            );
            assert_eq!(in_flight(rig)?, 0, "a flow that is over holds up no drain");
            // Of the client itself, which knows its number: the backend's RST tells.
            let number = 0xbeef_0000;
            let lie = Packet {
                ack: number,
                ..talk.of_client(PSH | ACK).payload(b"?")
            };
            let restored = [Reason::Restored, Reason::Promoted];
            talk.send(rig, "data in reach", &lie, &restored)?;
            let rst = Packet::tcp(talk.backend, talk.client, RST, number, 0);
            talk.reply(rig, "the RST that answers it", &rst, &[Reason::Demoted])?;
            assert_eq!(talk.flow(rig)?, over, "it is over after all");
        }
        Ok(())
    })
}

#[test]
fn g2_a_rst_of_somebody_else_ends_no_pin_and_moves_none() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for (kind, port) in Kind::TCP.into_iter().zip(4000..) {
            let mut talk = Talk::open(rig, kind, port, Color::Blue)?;
            let established = talk.flow(rig)?;
            rig.flip(Color::Green)?;
            // Of anybody who guesses the ports: no number in them fits.
            let towards_backend = Packet::tcp(talk.client, talk.vip, RST, 77, 0);
            talk.send(rig, "RST towards the backend", &towards_backend, &[])?;
            let towards_client = Packet::tcp(talk.backend, talk.client, RST, 77, 0);
            talk.reply(rig, "RST towards the client", &towards_client, &[])?;
            // Each end is made to acknowledge the number of the other one's RST before.
            let (far, number) = (1 << 30, 1 << 29);
            let of_client = Packet::tcp(talk.client, talk.vip, ACK, far, number);
            talk.send(rig, "ACK towards the backend", &of_client, &[])?;
            let rst = Packet::tcp(talk.backend, talk.client, RST, number, 0);
            talk.reply(rig, "its RST towards the client", &rst, &[])?;
            let of_backend = Packet::tcp(talk.backend, talk.client, ACK, far, number);
            talk.reply(rig, "ACK towards the client", &of_backend, &[])?;
            let rst = Packet::tcp(talk.client, talk.vip, RST, number, 0);
            talk.send(rig, "its RST towards the backend", &rst, &[])?;
            assert_eq!(talk.flow(rig)?, established, "after forged RSTs");
            assert_eq!(in_flight(rig)?, 1, "it is in flight as before");
            talk.goes_on(rig, "after forged RSTs")?;
            let rst = talk.of_client(RST);
            talk.send(rig, "a RST of its own", &rst, &[Reason::Demoted])?;
            rig.flip(Color::Blue)?;
        }
        Ok(())
    })
}

#[test]
fn a_flow_of_which_much_was_sent_another_way_is_over_when_it_ends() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            for (port, by_rst) in [(4000, false), (4001, true)] {
                let mut talk = Talk::open(rig, kind, port, Color::Blue)?;
                let unseen = 10_000_000;
                talk.skip(unseen);
                let ack = talk.of_backend(ACK);
                talk.reply(rig, "the backend acknowledges it", &ack, &[])?;
                let more = talk.of_client(PSH | ACK).payload(b"the rest");
                talk.send(rig, "the client goes on", &more, &[])?;
                if by_rst {
                    let rst = talk.of_client(RST);
                    talk.send(rig, "RST", &rst, &[Reason::Demoted])?;
                } else {
                    let fin = talk.of_client(FIN | ACK);
                    talk.send(rig, "FIN of the client", &fin, &[])?;
                    let fin = talk.of_backend(FIN | ACK);
                    talk.reply(rig, "FIN of the backend", &fin, &[])?;
                    let last = talk.of_client(ACK);
                    talk.send(rig, "the last ACK", &last, &[Reason::Demoted])?;
                }
                assert_eq!(in_flight(rig)?, 0, "{kind:?}, by RST: {by_rst}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_new_syn_on_a_flow_that_is_over_selects_afresh() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            rig.flip(Color::Blue)?;
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            talk.send(rig, "RST", &talk.of_client(RST), &[Reason::Demoted])?;
            rig.flip(Color::Green)?;
            let again = Packet {
                seq: 50_000,
                ..talk.first()
            };
            let expected = rig
                .to_backend(&again, Color::Green)?
                .noting(Reason::TupleReused);
            rig.expect("a new SYN after the flip", &again, &expected)?;
            let flow = talk.flow(rig)?;
            assert_eq!((flow.color, flow.syn_seq), (Color::Green, 50_000));
            assert_eq!(flow.table, Table::Unanswered, "it begins from the start");
            assert_eq!(flow.state, FlowState::Unanswered);
            assert_eq!(flow.fins, [false; 2]);
        }
        rig.expect_flows("the old entries are gone, also those of replies", 2)
    })
}

#[test]
fn a_forged_rst_in_the_handshake_does_not_keep_the_flow_from_the_established_table() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            for (port, forged_after_answer) in [(4000, false), (4001, true)] {
                let mut talk = Talk::begin(rig, kind, port, Color::Blue)?;
                let rst = Packet::tcp(talk.client, talk.vip, RST, 77, 0);
                if !forged_after_answer {
                    talk.send(rig, "a forged RST after the SYN", &rst, &[])?;
                }
                talk.reply(rig, "the SYN-ACK", &talk.answer(), &[])?;
                if forged_after_answer {
                    talk.send(rig, "a forged RST after the SYN-ACK", &rst, &[])?;
                }
                let ack = talk.acknowledgement();
                talk.send(rig, "the ACK", &ack, &[Reason::Promoted])?;
                let flow = talk.flow(rig)?;
                assert_eq!(flow.table, Table::Established);
                assert_eq!(flow.state, FlowState::Established);
                talk.goes_on(rig, "after a forged RST")?;
            }
        }
        Ok(())
    })
}

#[test]
fn no_client_can_make_a_flow_look_established_that_no_backend_answered() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let mut talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            for flags in [ACK, PSH | ACK, RST, RST | ACK, FIN | ACK, PSH | ACK, ACK] {
                let packet = talk.of_client(flags).payload(b"answered?");
                talk.send(rig, &format!("flags {flags:#x}"), &packet, &[])?;
                let flow = talk.flow(rig)?;
                assert_eq!(flow.table, Table::Unanswered, "after flags {flags:#x}");
                assert_ne!(
                    flow.state,
                    FlowState::Established,
                    "nobody answered, after flags {flags:#x}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_refused_connection_is_not_in_flight() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let mut talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            assert_eq!(in_flight(rig)?, 1, "a half-open flow is in flight");
            let refusal = Packet {
                seq: 0,
                ..talk.of_backend(RST | ACK)
            };
            talk.reply(rig, "the backend's RST", &refusal, &[Reason::SynRefused])?;
            assert_eq!(in_flight(rig)?, 0, "a refused connection is over");
            let again = Packet {
                seq: 2_000,
                ..talk.first()
            };
            talk.send(
                rig,
                "the client tries again",
                &again,
                &[Reason::TupleReused],
            )?;
            let rst = Packet::tcp(talk.client, talk.vip, RST, 2_001, 0);
            talk.send(rig, "the client gives up", &rst, &[])?;
            assert_eq!(in_flight(rig)?, 0, "given up");
            let retransmit = [Reason::SynRetransmit];
            talk.send(rig, "its SYN once more", &again, &retransmit)?;
        }
        Ok(())
    })
}
