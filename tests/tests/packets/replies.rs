//! Replies that the flow tables say nothing of, or not enough: re-pinned where it is certain whose
//! they are (G9), and believed only from where their backend is.

use std::net::SocketAddr;

use anyhow::Result;
use switcher_common::flow::FlowState;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, FIN, PSH, Packet, RST, SYN};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// A reply in the middle of a stream.
fn reply(kind: Kind, backend: SocketAddr, client: SocketAddr) -> Packet {
    match kind.protocol {
        Protocol::Tcp => Packet::tcp(backend, client, PSH | ACK, 9_001, 1_001).payload(b"more"),
        Protocol::Udp => Packet::udp(backend, client).payload(b"more"),
    }
}

#[test]
fn g9_a_reply_without_a_flow_is_translated_and_pinned_again() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            for color in Color::ALL {
                let (vip, backend) = (rig.vip(kind), rig.backend(kind, color));
                let client = rig.client(kind.family, 4_000 + color as u16);
                let lost = reply(kind, backend, client);
                let repinned = rig.to_client(&lost, vip)?.noting(Reason::ReplyRepinned);
                rig.expect(&format!("{kind:?} of {color:?}"), &lost, &repinned)?;
                let flow = rig.flow(&first(kind, client, vip))?;
                assert_eq!((flow.color, flow.backend), (color, backend), "{kind:?}");
                assert!(flow.unpinned, "{kind:?}: it was not begun here");
                let next = rig.to_client(&lost, vip)?.noting(Reason::Promoted);
                rig.expect("the next one", &lost, &next)?;
                let flow = rig.flow(&first(kind, client, vip))?;
                assert_eq!(flow.table, Table::Established, "{kind:?}");
                let answer = match kind.protocol {
                    Protocol::Tcp => Packet::tcp(client, vip, ACK, 1_001, 9_005),
                    Protocol::Udp => Packet::udp(client, vip),
                };
                let forwarded = rig.to_backend(&answer, color)?;
                rig.expect("the client's next packet", &answer, &forwarded)?;
            }
        }
        Ok(())
    })
}

#[test]
fn g9_a_rst_without_a_flow_is_translated_and_pins_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let backend = rig.backend(kind, Color::Blue);
            let rst = Packet::tcp(backend, rig.client(kind.family, 4000), RST, 7, 0);
            let expected = rig
                .to_client(&rst, rig.vip(kind))?
                .noting(Reason::ReplyRepinned);
            rig.expect(&format!("{kind:?}"), &rst, &expected)?;
        }
        rig.expect_flows("RSTs only", 0)
    })
}

#[test]
fn g3_a_syn_ack_without_a_flow_begins_no_connection_on_whatever_color_its_backend_has() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            for color in Color::ALL {
                let backend = rig.backend(kind, color);
                let client = rig.client(kind.family, 4000);
                let answer = Packet::tcp(backend, client, SYN | ACK, 9_000, 1_001);
                let dropped = Expected::untouched(Reason::UnexpectedReply);
                rig.expect(&format!("{kind:?} of {color:?}"), &answer, &dropped)?;
            }
        }
        rig.expect_flows("answers to nothing", 0)
    })
}

#[test]
fn g9_a_flow_that_was_pinned_again_is_over_when_both_sides_have_sent_a_fin() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            // Each of the two directions is the first to be seen.
            for (port, client_first) in [(4000, true), (4001, false)] {
                let (vip, backend) = (rig.vip(kind), rig.backend(kind, Color::Blue));
                let client = rig.client(kind.family, port);
                let more = Packet::tcp(client, vip, ACK, 1_000, 9_000);
                let reply = Packet::tcp(backend, client, ACK, 9_000, 1_000);
                let first = if client_first {
                    [&more, &reply]
                } else {
                    [&reply, &more]
                };
                for packet in first.into_iter().chain([&reply]) {
                    rig.run(&packet.bytes()?)?;
                }
                let flow = rig.flow(&more)?;
                assert_eq!(flow.state, FlowState::Established, "{kind:?}");
                for fin in [&more, &reply] {
                    let fin = Packet {
                        flags: FIN | ACK,
                        ..fin.clone()
                    };
                    rig.run(&fin.bytes()?)?;
                }
                assert_eq!(rig.flow(&more)?.state, FlowState::Closing, "{kind:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn g9_a_reply_of_an_endpoint_that_two_listeners_share_is_dropped() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    for kind in Kind::ALL {
        let mut second = kind.listener(&lab, 1);
        second.backends.blue = vec![(kind.backends(&lab, Color::Blue)[0], 1)];
        setup.services[0].push(second);
    }
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::ALL {
            let lost = reply(
                kind,
                rig.backend(kind, Color::Blue),
                rig.client(kind.family, 4000),
            );
            let dropped = Expected::untouched(Reason::UnexpectedReply);
            rig.expect(&format!("{kind:?}"), &lost, &dropped)?;
        }
        rig.expect_flows("nobody can say whose they are", 0)
    })
}

#[test]
fn a_reply_from_another_interface_than_its_backends_begins_and_changes_no_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let backend = rig.backend(kind, Color::Blue);
            let client = rig.client(kind.family, 4000);
            rig.ingress = Some(rig.interface("client2")?);
            let forged = reply(kind, backend, client);
            let dropped = Expected::untouched(Reason::UnexpectedReply);
            rig.expect(&format!("{kind:?}, no flow"), &forged, &dropped)?;
            rig.expect_flows("a forged reply", 0)?;
        }
        for kind in Kind::UDP {
            rig.ingress = None;
            let (vip, backend) = (rig.vip(kind), rig.backend(kind, Color::Blue));
            let client = rig.client(kind.family, 4001);
            Talk::begin(rig, kind, 4001, Color::Blue)?;
            rig.ingress = Some(rig.interface("client2")?);
            let forged = reply(kind, backend, client);
            let unverified = rig.to_client(&forged, vip)?.noting(Reason::ReplyUnverified);
            rig.expect(&format!("{kind:?}, unanswered"), &forged, &unverified)?;
            let flow = rig.flow(&first(kind, client, vip))?;
            let unanswered = (Table::Unanswered, FlowState::Unanswered);
            assert_eq!((flow.table, flow.state), unanswered, "{kind:?}");
        }
        Ok(())
    })
}
