//! VLAN tags: up to two are stepped over and stay as they are (packet rules, 1.2). How tagged packets
//! leave is in `interfaces`; here the stack sends them, as their interfaces have no VLANs.

use anyhow::Result;
use etherparse::EtherType;
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, Packet, link_header};
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;
use crate::talk::Talk;

/// Tags as they come: VLAN id, priority and drop eligibility are nothing to the program.
const TAGS: [&[u16]; 4] = [&[7], &[0xffff], &[7, 8], &[0xe064, 0x1fff]];

/// What is rewritten to `packet`, tags and all, and left to the stack.
fn rewritten(packet: Packet) -> Expected {
    Expected::rewritten(Reason::TagChanges, packet)
}

#[test]
fn one_and_two_tags_stay_on_the_packets_of_a_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for tags in TAGS {
                let what = format!("{kind:?} with the tags {tags:x?}");
                let request = talk.of_client(ACK).payload(b"tagged").tags(tags);
                let sent = Packet {
                    to: talk.backend,
                    ..request.clone()
                };
                rig.expect(&what, &request, &rewritten(sent))?;
                let answer = talk.of_backend(ACK).payload(b"too").tags(tags);
                let returned = Packet {
                    from: talk.vip,
                    ..answer.clone()
                };
                rig.expect(&what, &answer, &rewritten(returned))?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_tagged_packet_begins_a_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            for (port, tags) in (4000..).zip(TAGS) {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
                let packet = packet.tags(tags);
                let backend = rig.backend(kind, Color::Blue);
                let sent = Packet {
                    to: backend,
                    ..packet.clone()
                };
                rig.expect(&format!("{kind:?}, {tags:x?}"), &packet, &rewritten(sent))?;
                assert_eq!(rig.flow(&packet)?.backend, backend, "{kind:?}, {tags:x?}");
            }
        }
        rig.expect_flows("one for each packet", Kind::ALL.len() * TAGS.len())
    })
}

/// The frame of `packet` with other ethertypes of its tags.
fn with_types(packet: &Packet, types: &[u16]) -> Result<Vec<u8>> {
    let mut frame = packet.bytes()?;
    for (number, ether_type) in types.iter().enumerate() {
        let at = 12 + 4 * number;
        frame[at..at + 2].copy_from_slice(&ether_type.to_be_bytes());
    }
    Ok(frame)
}

#[test]
fn tags_of_both_kinds_are_known_in_any_order_and_no_others() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let request = talk.of_client(ACK).payload(b"tagged");
            let rows: [(&[u16], bool); 10] = [
                (&[0x8100], true),
                (&[0x88a8], true),
                (&[0x8100, 0x8100], true),
                (&[0x8100, 0x88a8], true),
                (&[0x88a8, 0x8100], true),
                (&[0x88a8, 0x88a8], true),
                (&[0x9100], false),
                (&[0x8100, 0x9100], false),
                (&[0x8100, 0x8100, 0x8100], false),
                (&[0x88a8, 0x8100, 0x8100], false),
            ];
            for (types, known) in rows {
                let what = format!("{kind:?} with tags of {types:x?}");
                let request = request.clone().tags(&[5, 6, 7][..types.len()]);
                let sent = Packet {
                    to: talk.backend,
                    ..request.clone()
                };
                let expected = if known {
                    Expected::frame(Reason::TagChanges, with_types(&sent, types)?)
                } else {
                    Expected::untouched(Reason::NotIp)
                };
                rig.expect_frame(&what, &with_types(&request, types)?, &expected)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_tagged_packet_to_a_vip_is_dropped_at_every_length_below_its_own() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            for tags in [&[7][..], &[7, 8]] {
                let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).tags(tags);
                let whole = packet.bytes()?;
                let anonymous = packet.ip_offset()
                    + match kind.family {
                        Family::V4 => 20,
                        Family::V6 => 40,
                    };
                // The kernel's test runs begin with an Ethernet header.
                for len in 14..whole.len() {
                    let reason = if len < anonymous {
                        Reason::NotIp
                    } else {
                        Reason::Truncated
                    };
                    let what = format!("{kind:?}, tags {tags:?}, {len} of {} bytes", whole.len());
                    rig.expect_frame(&what, &whole[..len], &Expected::untouched(reason))?;
                }
            }
        }
        rig.expect_flows("pieces begin no flow", 0)
    })
}

#[test]
fn g11_what_is_no_ip_behind_a_tag_passes() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let packet = first(
            Kind::TCP[0],
            rig.client(Family::V4, 1),
            rig.vip(Kind::TCP[0]),
        );
        let untagged = packet.ip_offset();
        for (what, ether_type) in [("ARP", 0x0806), ("MPLS", 0x8847), ("LLDP", 0x88cc)] {
            for tags in [&[7][..], &[7, 8]] {
                let link = link_header(packet.link, tags, EtherType(ether_type));
                let frame = [&link, &packet.bytes()?[untagged..]].concat();
                let passed = Expected::untouched(Reason::NotIp);
                rig.expect_frame(&format!("{what} behind {tags:?}"), &frame, &passed)?;
            }
        }
        Ok(())
    })
}
