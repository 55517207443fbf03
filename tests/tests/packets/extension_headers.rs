//! IPv6 extension headers: stepped over within the limits of the packet rules (2.2), and kept.

use anyhow::{Context, Result};
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::fragment::Firsts;
use crate::packet::{ACK, Extension, Packet};
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;
use crate::talk::Talk;

/// Both protocols over IPv6.
const KINDS: [Kind; 2] = [Kind::TCP[1], Kind::UDP[1]];

/// A header of so many units of eight bytes, all but the first of padding.
fn header(number: u8, units: u8, third: u8, fourth: u8) -> Extension {
    let mut bytes = vec![units - 1, third, fourth];
    bytes.resize(8 * usize::from(units) - 1, 0);
    Extension { number, bytes }
}

fn hop_by_hop(units: u8) -> Extension {
    // PadN over the first unit.
    header(0, units, 1, 4)
}

fn options(units: u8) -> Extension {
    header(60, units, 1, 4)
}

/// Of type 2, as Mobile IPv6 has it, with so many segments left.
fn routing(units: u8, segments_left: u8) -> Extension {
    header(43, units, 2, segments_left)
}

/// A fragment header with the field of offset and flags.
fn fragment(field: u16) -> Extension {
    let [high, low] = field.to_be_bytes();
    Extension {
        number: 44,
        bytes: vec![0, high, low, 0xde, 0xad, 0xbe, 0xef],
    }
}

/// Of a packet that is whole all the same (RFC 6946).
fn atomic() -> Extension {
    fragment(0)
}

/// What senders and middle boxes put before a transport header.
fn within_limits() -> Vec<(&'static str, Vec<Extension>)> {
    vec![
        ("hop-by-hop options", vec![hop_by_hop(1)]),
        ("long hop-by-hop options", vec![hop_by_hop(5)]),
        ("destination options", vec![options(1)]),
        ("long destination options", vec![options(4)]),
        (
            "a routing header that has done its work",
            vec![routing(3, 0)],
        ),
        ("an atomic fragment", vec![atomic()]),
        (
            "an atomic fragment whose reserved bits are set",
            vec![fragment(0b110)],
        ),
        (
            "destination options behind an atomic fragment's header",
            vec![atomic(), options(2)],
        ),
        (
            "the order of RFC 8200",
            vec![
                hop_by_hop(1),
                options(1),
                routing(3, 0),
                atomic(),
                options(2),
            ],
        ),
        ("six headers", vec![options(1); 6]),
        ("256 bytes in one header", vec![options(32)]),
        (
            "256 bytes in six headers",
            vec![
                hop_by_hop(9),
                options(1),
                routing(3, 0),
                atomic(),
                options(9),
                options(9),
            ],
        ),
    ]
}

#[test]
fn headers_within_the_limits_are_kept_on_the_packets_of_a_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in KINDS {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for (what, extensions) in within_limits() {
                let what = format!("{kind:?} with {what}");
                let request = talk.of_client(ACK).extensions(&extensions);
                talk.send(rig, &what, &request.payload(b"request"), &[])?;
                let answer = talk.of_backend(ACK).extensions(&extensions);
                talk.reply(rig, &what, &answer.payload(b"answer"), &[])?;
            }
        }
        let kept = Firsts::open(&rig.config.agent.pin_dir)?.entries();
        assert_eq!(kept, 0, "an atomic fragment has no later ones");
        Ok(())
    })
}

#[test]
fn a_packet_with_extension_headers_begins_a_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in KINDS {
            for (port, (what, extensions)) in (4000..).zip(within_limits()) {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
                let packet = packet.extensions(&extensions);
                let expected = rig.to_backend(&packet, Color::Blue)?;
                rig.expect(&format!("{kind:?} with {what}"), &packet, &expected)?;
                rig.flow(&packet)?;
            }
        }
        rig.expect_flows("one for each packet", KINDS.len() * within_limits().len())
    })
}

#[test]
fn the_deepest_transport_header_is_read_and_rewritten() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in KINDS {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let request = talk.of_client(ACK).tags(&[7, 8]).extensions(&[options(32)]);
            let sent = Packet {
                to: talk.backend,
                ..request.clone()
            };
            // With tags the stack sends it on.
            let rewritten = Expected::rewritten(Reason::TagChanges, sent);
            rig.expect(&format!("{kind:?}"), &request, &rewritten)?;
        }
        Ok(())
    })
}

fn beyond_limits() -> Vec<(&'static str, Vec<Extension>)> {
    vec![
        ("seven headers", vec![options(1); 7]),
        ("264 bytes in one header", vec![options(33)]),
        (
            "264 bytes in two headers",
            vec![hop_by_hop(16), options(17)],
        ),
        ("the longest header", vec![header(60, 255, 1, 4)]),
        (
            "hop-by-hop options behind others",
            vec![options(1), hop_by_hop(1)],
        ),
        (
            "hop-by-hop options twice",
            vec![hop_by_hop(1), hop_by_hop(1)],
        ),
        ("two fragment headers", vec![atomic(), atomic()]),
        (
            "two fragment headers, of which the first says more",
            vec![fragment(1), atomic()],
        ),
        ("a segment left", vec![routing(3, 1)]),
        (
            "a segment left behind other headers",
            vec![hop_by_hop(1), options(1), routing(3, 255)],
        ),
    ]
}

#[test]
fn headers_beyond_the_limits_are_dropped_if_ours_and_pass_otherwise() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in KINDS {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for (what, extensions) in beyond_limits() {
                let what = format!("{kind:?} with {what}");
                let dropped = Expected::untouched(Reason::ExtensionHeaders);
                let request = talk.of_client(ACK).extensions(&extensions);
                rig.expect(&what, &request, &dropped)?;
                let passed = Expected::untouched(Reason::NotOurs);
                let answer = talk.of_backend(ACK).extensions(&extensions);
                rig.expect(&format!("{what}, of a backend"), &answer, &passed)?;
            }
            talk.goes_on(rig, "after them")?;
        }
        Ok(())
    })
}

/// Sets the payload length in the frame of `packet`.
fn set_payload_len(packet: &Packet, frame: &mut [u8], len: usize) -> Result<()> {
    let at = packet.ip_offset() + 4;
    frame[at..at + 2].copy_from_slice(&u16::try_from(len)?.to_be_bytes());
    Ok(())
}

#[test]
fn a_chain_that_leaves_the_packet_is_dropped_at_every_length() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in KINDS {
            let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind));
            let packet = packet.extensions(&[hop_by_hop(1), options(2), atomic()]);
            let whole = packet.bytes()?;
            let (start, end) = (packet.ip_offset() + 40, packet.transport_offset());
            for cut in start..whole.len() {
                let reason = if cut < end {
                    Reason::ExtensionHeaders
                } else {
                    Reason::Truncated
                };
                let dropped = Expected::untouched(reason);
                let what = format!("{kind:?}, a frame of {cut} of {} bytes", whole.len());
                rig.expect_frame(&what, &whole[..cut], &dropped)?;
                let mut shortened = whole.clone();
                set_payload_len(&packet, &mut shortened, cut - start)?;
                let what = format!("{kind:?}, a packet of {cut} of {} bytes", whole.len());
                if cut < end + transport_len(kind) {
                    rig.expect_frame(&what, &shortened, &dropped)?;
                }
            }
        }
        rig.expect_flows("pieces begin no flow", 0)
    })
}

/// Bytes of the transport header.
fn transport_len(kind: Kind) -> usize {
    match kind.protocol {
        Protocol::Tcp => 20,
        Protocol::Udp => 8,
    }
}

#[test]
fn the_chain_is_judged_before_version_and_length() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in KINDS {
            let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind));
            let rows = [
                ("a good chain", vec![options(2)], None),
                (
                    "a bad chain",
                    vec![routing(1, 9)],
                    Some(Reason::ExtensionHeaders),
                ),
            ];
            for (what, extensions, reason) in rows {
                let packet = packet.clone().extensions(&extensions);
                let mut versioned = packet.bytes()?;
                versioned[packet.ip_offset()] = 0x45;
                let dropped = Expected::untouched(reason.unwrap_or(Reason::BadHeader));
                rig.expect_frame(&format!("{what}, version 4"), &versioned, &dropped)?;
                let mut longer = packet.bytes()?;
                let len = longer.len() - packet.ip_offset() - 40;
                set_payload_len(&packet, &mut longer, len + 1)?;
                let dropped = Expected::untouched(reason.unwrap_or(Reason::Truncated));
                rig.expect_frame(&format!("{what}, a byte missing"), &longer, &dropped)?;
            }
        }
        Ok(())
    })
}

#[test]
fn g11_what_is_no_extension_header_is_another_protocol_and_passes() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let kind = Kind::TCP[1];
        let to_vip = first(kind, rig.client(kind.family, 4000), rig.vip(kind));
        let of_backend = Packet::tcp(
            rig.backend(kind, Color::Blue),
            rig.client(kind.family, 4000),
            ACK,
            1,
            1,
        );
        // ESP, authentication, none, mobility, host identity, shim6, an experiment, IPv4, GRE.
        for number in [50, 51, 59, 135, 139, 140, 253, 4, 47] {
            for before in [vec![], vec![hop_by_hop(1), options(2)]] {
                for (packet, reason) in [
                    (&to_vip, Reason::OtherProtocol),
                    (&of_backend, Reason::NotOurs),
                ] {
                    let packet = packet.clone().extensions(&before);
                    let mut frame = packet.bytes()?;
                    let next = next_header_at(&packet, before.len())?;
                    frame[next] = number;
                    let what = format!("{number} behind {} headers", before.len());
                    rig.expect_frame(&what, &frame, &Expected::untouched(reason))?;
                }
            }
        }
        Ok(())
    })
}

/// Where the number of the header behind the first `count` extension headers is in the frame.
fn next_header_at(packet: &Packet, count: usize) -> Result<usize> {
    let Some(last) = count.checked_sub(1) else {
        return Ok(packet.ip_offset() + 6);
    };
    let before = packet.extensions.get(..last).context("too few headers")?;
    let len: usize = before.iter().map(|header| header.bytes.len() + 1).sum();
    Ok(packet.ip_offset() + 40 + len)
}
