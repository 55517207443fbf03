//! How flows begin: selection, the reply's way back, and the way into the established table (G7).

use anyhow::Result;
use switcher_common::flow::FlowState;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::flows::Flow;
use crate::packet::{ACK, PSH, Packet, RST, SYN};
use crate::rig::{Rig, first};
use crate::setup::Kind;
use crate::talk::Talk;

#[test]
fn a_first_packet_goes_to_the_active_color_and_waits_for_an_answer() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for color in Color::ALL {
            rig.flip(color)?;
            for kind in Kind::ALL {
                let client = rig.client(kind.family, 4000 + color as u16);
                let packet = first(kind, client, rig.vip(kind));
                let expected = rig.to_backend(&packet, color)?;
                rig.expect(&format!("{kind:?} to {color:?}"), &packet, &expected)?;
                let flow = Flow {
                    table: Table::Unanswered,
                    state: FlowState::Unanswered,
                    color,
                    backend: rig.backend(kind, color),
                    service: 1,
                    preview: false,
                    unpinned: false,
                    syn_seq: packet.seq,
                    fins: [false; 2],
                };
                assert_eq!(rig.flow(&packet)?, flow, "{kind:?} to {color:?}");
            }
            let traffic = rig.counters.traffic(1, color)?;
            assert_eq!((traffic.packets, traffic.new_flows), (4, 4), "{color:?}");
        }
        rig.expect_flows("a flow for each kind and color", 8)
    })
}

#[test]
fn a_tcp_handshake_moves_both_entries_to_the_established_table() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let (client, vip) = (rig.client(kind.family, 4000), rig.vip(kind));
            let backend = rig.backend(kind, Color::Blue);
            let syn = Packet::tcp(client, vip, SYN, 1_000, 0);
            rig.expect("SYN", &syn, &rig.to_backend(&syn, Color::Blue)?)?;
            let syn_ack = Packet::tcp(backend, client, SYN | ACK, 9_000, 1_001);
            rig.expect("SYN-ACK", &syn_ack, &rig.to_client(&syn_ack, vip)?)?;
            let answered = rig.flow(&syn)?;
            assert_eq!(answered.table, Table::Unanswered, "after the SYN-ACK");
            assert_eq!(answered.state, FlowState::Answered, "after the SYN-ACK");
            let ack = Packet::tcp(client, vip, ACK, 1_001, 9_001);
            let expected = rig.to_backend(&ack, Color::Blue)?.noting(Reason::Promoted);
            rig.expect("ACK", &ack, &expected)?;
            let established = Flow {
                table: Table::Established,
                state: FlowState::Established,
                ..answered
            };
            assert_eq!(rig.flow(&syn)?, established, "after the ACK");
            let request = Packet::tcp(client, vip, PSH | ACK, 1_001, 9_001).payload(b"GET /odd");
            let expected = rig.to_backend(&request, Color::Blue)?;
            rig.expect("data of the client", &request, &expected)?;
            let answer = Packet::tcp(backend, client, PSH | ACK, 9_001, 1_009).payload(b"200");
            rig.expect(
                "data of the backend",
                &answer,
                &rig.to_client(&answer, vip)?,
            )?;
            assert_eq!(rig.flow(&syn)?, established, "data changes nothing");
        }
        rig.expect_flows("one flow for each family", 2)
    })
}

#[test]
fn an_ack_or_answer_that_does_not_fit_does_not_establish_a_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let (client, vip) = (rig.client(kind.family, 4000), rig.vip(kind));
            let backend = rig.backend(kind, Color::Blue);
            let syn = Packet::tcp(client, vip, SYN, 1_000, 0);
            rig.expect("SYN", &syn, &rig.to_backend(&syn, Color::Blue)?)?;
            let begun = rig.flow(&syn)?;
            let early = Packet::tcp(client, vip, ACK, 1_001, 9_001);
            rig.expect("early ACK", &early, &rig.to_backend(&early, Color::Blue)?)?;
            let other = Packet::tcp(backend, client, SYN | ACK, 9_000, 999);
            rig.expect(
                "SYN-ACK of another SYN",
                &other,
                &rig.to_client(&other, vip)?,
            )?;
            let challenge = Packet::tcp(backend, client, ACK, 5, 6);
            rig.expect(
                "challenge ACK",
                &challenge,
                &rig.to_client(&challenge, vip)?,
            )?;
            assert_eq!(rig.flow(&syn)?, begun, "nothing of it fits");
            let syn_ack = Packet::tcp(backend, client, SYN | ACK, 9_000, 1_001);
            rig.expect("SYN-ACK", &syn_ack, &rig.to_client(&syn_ack, vip)?)?;
            let guessed = Packet::tcp(client, vip, ACK, 1_001, 9_000);
            rig.expect(
                "ACK of a guesser",
                &guessed,
                &rig.to_backend(&guessed, Color::Blue)?,
            )?;
            assert_eq!(rig.flow(&syn)?.state, FlowState::Answered);
            assert_eq!(rig.flow(&syn)?.table, Table::Unanswered);
        }
        Ok(())
    })
}

#[test]
fn g7_an_answer_whose_entry_was_evicted_answers_the_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            rig.flows.lose_reply(&talk.first())?;
            let restored = Reason::DirectionRestored;
            if kind.protocol == Protocol::Udp {
                let answer = talk.of_backend(0);
                talk.reply(rig, "the answer", &answer, &[restored, Reason::Promoted])?;
            } else {
                talk.reply(rig, "the SYN-ACK", &talk.answer(), &[restored])?;
                assert_eq!(talk.flow(rig)?.state, FlowState::Answered, "{kind:?}");
                let ack = talk.acknowledgement();
                talk.send(rig, "the ACK", &ack, &[Reason::Promoted])?;
            }
            let flow = talk.flow(rig)?;
            let established = (Table::Established, FlowState::Established);
            assert_eq!((flow.table, flow.state), established, "{kind:?}");
            talk.goes_on(rig, "after its entry was made again")?;
        }
        Ok(())
    })
}

#[test]
fn g7_a_connection_whose_syn_ack_was_not_seen_is_established_by_what_follows() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let mut talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            let request = talk.of_client(PSH | ACK).payload(b"GET /");
            talk.send(rig, "a request", &request, &[])?;
            assert_eq!(talk.flow(rig)?.state, FlowState::Unanswered);
            let beyond = Packet {
                ack: talk.of_backend(ACK).ack + 1,
                ..talk.of_backend(ACK)
            };
            talk.reply(rig, "an ACK of what was not sent", &beyond, &[])?;
            assert_eq!(talk.flow(rig)?.state, FlowState::Unanswered);
            let answer = talk.of_backend(PSH | ACK).payload(b"200");
            talk.reply(rig, "an answer", &answer, &[])?;
            assert_eq!(talk.flow(rig)?.state, FlowState::Answered);
            let ack = talk.of_client(ACK);
            talk.send(rig, "the client's ACK", &ack, &[Reason::Promoted])?;
            assert_eq!(talk.flow(rig)?.table, Table::Established);
            talk.goes_on(rig, "without a SYN-ACK")?;
        }
        Ok(())
    })
}

#[test]
fn the_first_reply_establishes_a_udp_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::UDP {
            let (client, vip) = (rig.client(kind.family, 4000), rig.vip(kind));
            let question = Packet::udp(client, vip);
            let forwarded = rig.to_backend(&question, Color::Blue)?;
            rig.expect("question", &question, &forwarded)?;
            rig.expect("question again", &question, &forwarded)?;
            let begun = rig.flow(&question)?;
            assert_eq!(begun.table, Table::Unanswered, "two questions, no answer");
            let answer = Packet::udp(rig.backend(kind, Color::Blue), client).payload(b"answer");
            let returned = rig.to_client(&answer, vip)?;
            rig.expect(
                "answer",
                &answer,
                &returned.clone().noting(Reason::Promoted),
            )?;
            let established = Flow {
                table: Table::Established,
                state: FlowState::Established,
                ..begun
            };
            assert_eq!(rig.flow(&question)?, established, "after the answer");
            rig.expect("second answer", &answer, &returned)?;
            rig.expect("next question", &question, &forwarded)?;
            assert_eq!(rig.flow(&question)?, established);
        }
        rig.expect_flows("one flow for each family", 2)
    })
}

#[test]
fn a_rst_without_a_flow_is_delivered_and_begins_none() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            for flags in [RST, RST | ACK, RST | SYN] {
                let rst = Packet::tcp(rig.client(kind.family, 4000), rig.vip(kind), flags, 7, 8);
                let expected = rig.to_backend(&rst, Color::Blue)?.noting(Reason::Unpinned);
                rig.expect(&format!("flags {flags:#x}"), &rst, &expected)?;
            }
        }
        rig.expect_flows("RSTs only", 0)
    })
}
