//! Replies that the flow tables say nothing of, or not enough: re-pinned where it is certain whose
//! they are (G9), and believed only from where their backend is.

use std::net::SocketAddr;

use anyhow::Result;
use switcher_common::clock::has_come;
use switcher_common::flow::FlowState;
use switcher_common::interface::InterfaceRecord;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::cut::let_the_clock_move;
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
                for last in [
                    Packet::tcp(client, vip, ACK, 1_001, 9_001),
                    Packet::tcp(backend, client, ACK, 9_001, 1_001),
                ] {
                    rig.run(&last.bytes()?)?;
                }
                assert_eq!(rig.flow(&more)?.state, FlowState::Closing, "{kind:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn g9_a_flow_that_was_pinned_again_at_a_fin_is_over_when_the_other_side_has_ended_too() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            for (port, client_first) in [(4000, true), (4001, false)] {
                let (vip, backend) = (rig.vip(kind), rig.backend(kind, Color::Blue));
                let client = rig.client(kind.family, port);
                let of_client = |flags, seq, ack| Packet::tcp(client, vip, flags, seq, ack);
                let of_backend = |flags, seq, ack| Packet::tcp(backend, client, flags, seq, ack);
                let [first, second, last] = if client_first {
                    [
                        of_client(FIN | ACK, 1_000, 9_000),
                        of_backend(FIN | ACK, 9_000, 1_001),
                        of_client(ACK, 1_001, 9_001),
                    ]
                } else {
                    [
                        of_backend(FIN | ACK, 9_000, 1_000),
                        of_client(FIN | ACK, 1_000, 9_001),
                        of_backend(ACK, 9_001, 1_001),
                    ]
                };
                let begun = of_client(ACK, 0, 0);
                for packet in [&first, &second, &last, &last] {
                    rig.run(&packet.bytes()?)?;
                }
                let flow = rig.flow(&begun)?;
                assert_eq!(flow.state, FlowState::Closing, "{kind:?}, {client_first}");
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

/// What is told of an interface.
fn told(parent: u32, vlan_id: u16, master: u32) -> InterfaceRecord {
    InterfaceRecord {
        parent,
        master,
        vlan_id,
        ..InterfaceRecord::default()
    }
}

const VLAN: u16 = 7;

#[test]
fn a_reply_comes_by_its_route_also_through_vlan_devices_bonds_and_bridges() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1", "c2", "b"];
    Rig::with(&lab, &setup, |rig| {
        // The route to blue's backends is by `out`, and their replies come in by `port`.
        let [out, port] = [rig.interface("blue")?, rig.interface("client2")?];
        let bond = 60;
        for (client, (what, records, tags, believed)) in (4000..).zip([
            ("another interface", vec![], &[][..], false),
            (
                "its VLAN device",
                vec![(out, told(port, VLAN, 0))],
                &[VLAN],
                true,
            ),
            (
                "another VLAN's",
                vec![(out, told(port, 8, 0))],
                &[VLAN],
                false,
            ),
            ("no VLAN's", vec![(out, told(port, VLAN, 0))], &[], false),
            (
                "two VLANs'",
                vec![(out, told(port, VLAN, 0))],
                &[VLAN, 8],
                false,
            ),
            ("its bond", vec![(port, told(0, 0, out))], &[], true),
            (
                "its bond, a priority",
                vec![(port, told(0, 0, out))],
                &[0],
                true,
            ),
            (
                "its bond, of a VLAN",
                vec![(port, told(0, 0, out))],
                &[VLAN],
                false,
            ),
            ("another bond", vec![(port, told(0, 0, bond))], &[], false),
            (
                "a VLAN device of its bond",
                vec![(port, told(0, 0, bond)), (out, told(bond, VLAN, 0))],
                &[VLAN],
                true,
            ),
            (
                "a VLAN device of another bond",
                vec![(port, told(0, 0, bond)), (out, told(61, VLAN, 0))],
                &[VLAN],
                false,
            ),
        ]) {
            for kind in Kind::ALL {
                rig.ingress = None;
                rig.path.set_interfaces([])?;
                rig.run(&first(kind, rig.client(kind.family, client), rig.vip(kind)).bytes()?)?;
                rig.path.set_interfaces(records.clone())?;
                rig.ingress = Some(port);
                let backend = rig.backend(kind, Color::Blue);
                // Of UDP it establishes the flow, and of TCP it makes one where there is none.
                let port = client + 1_000 * u16::from(Kind::TCP.contains(&kind));
                let answer = reply(kind, backend, rig.client(kind.family, port)).tags(tags);
                let (_, counted) = rig.run_counted(&answer.bytes()?)?;
                let counted: Vec<Reason> = counted.into_iter().map(|(it, _)| it).collect();
                let (yes, no) = match kind.protocol {
                    Protocol::Udp => (Reason::Promoted, Reason::ReplyUnverified),
                    Protocol::Tcp => (Reason::ReplyRepinned, Reason::UnexpectedReply),
                };
                let expected = [counted.contains(&yes), counted.contains(&no)];
                assert_eq!(
                    expected,
                    [believed, !believed],
                    "{kind:?} by {what}: {counted:?}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn g2_a_flow_whose_backend_alone_sends_is_not_idle_also_when_its_replies_are_not_believed()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::UDP {
            let talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            let answer = talk.answer();
            rig.flows.complete(&talk.first())?;
            let before = rig.flows.last_seen(&answer)?;
            rig.ingress = Some(rig.interface("client2")?);
            let expected = rig.to_client(&answer, talk.vip)?;
            let expected = expected.noting(Reason::ReplyUnverified);
            let_the_clock_move()?;
            rig.expect(&format!("{kind:?}"), &answer, &expected)?;
            rig.ingress = None;
            let after = rig.flows.last_seen(&answer)?;
            assert!(after != before && has_come(before, after), "{kind:?}");
        }
        Ok(())
    })
}
