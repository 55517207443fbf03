//! The parser: whatever the bytes it does not panic, and what it believes etherparse believes too.

use etherparse::{
    Ipv6ExtensionSlice, Ipv6Slice, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use switcher_common::flow::Segment;
use switcher_common::flow::Side;
use switcher_common::packet::{Hop, MAX_BYTES, MAX_HEADERS};

use crate::bytes::{Facts, parse};
use crate::shape::{Shape, config, packets};

/// Some bytes of a good frame are replaced, and its end may be missing.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..6);
    let cut = prop::option::weighted(0.3, any::<Index>());
    (packets(), changes, cut).prop_map(|((shape, _), changes, cut)| {
        let mut frame = shape.frame();
        // Half of the changes hit the headers, where they matter.
        for (number, (index, byte)) in changes.into_iter().enumerate() {
            let reach = if number % 2 == 0 {
                frame.len()
            } else {
                frame.len().min(shape.transport_offset() + 20)
            };
            frame[index.index(reach)] = byte;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        frame
    })
}

/// What holds of everything that the parser accepts.
fn check(frame: &[u8], facts: &Facts) -> Result<(), TestCaseError> {
    let end = facts.ip_offset + usize::from(facts.ip_len);
    prop_assert!(
        end <= frame.len(),
        "the packet ends behind the frame: {facts:?}"
    );
    let header = if facts.protocol == 6 { 20 } else { 8 };
    prop_assert!(
        facts.transport_offset + header <= end,
        "the transport header ends behind the packet: {facts:?}"
    );
    prop_assert!(facts.protocol == 6 || facts.protocol == 17);
    Ok(())
}

/// Whether a fragment header says that `packet` is a part of a datagram. etherparse 0.19 reads offset
/// and flag from other bits than RFC 8200, 4.5 has them in.
fn is_fragment(packet: &Ipv6Slice<'_>) -> bool {
    let mut extensions = packet.extensions().clone().into_iter();
    extensions.any(|header| match header {
        Ipv6ExtensionSlice::Fragment(header) => {
            header.slice()[2] != 0 || header.slice()[3] & !0b110 != 0
        }
        _ => false,
    })
}

/// What etherparse says, of a frame that is whole and whose headers it believes.
fn oracle(frame: &[u8]) -> Option<(Facts, bool)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (src, dst, ttl, tos, fragment) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let tos = header.dcp().value() << 2 | header.ecn().value();
            let (src, dst) = (
                header.source_addr().into(),
                header.destination_addr().into(),
            );
            (src, dst, header.ttl(), tos, header.is_fragmenting_payload())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (src, dst) = (
                header.source_addr().into(),
                header.destination_addr().into(),
            );
            let (limit, class) = (header.hop_limit(), header.traffic_class());
            (src, dst, limit, class, is_fragment(ip))
        }
        NetSlice::Arp(_) => return None,
    };
    let (src_port, dst_port, protocol, segment) = match packet.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => {
            let segment = Segment {
                flags: tcp.slice()[13],
                seq: tcp.sequence_number(),
                ack: tcp.acknowledgment_number(),
                payload_len: u16::try_from(tcp.payload().len()).ok()?,
            };
            (tcp.source_port(), tcp.destination_port(), 6, segment)
        }
        TransportSlice::Udp(udp) => {
            let none = Segment::default();
            (udp.source_port(), udp.destination_port(), 17, none)
        }
        _ => return None,
    };
    let facts = Facts {
        src: (src, src_port),
        dst: (dst, dst_port),
        protocol,
        segment,
        ttl,
        tos,
        ip_offset: 0,
        transport_offset: 0,
        ip_len: 0,
    };
    Some((facts, fragment))
}

/// Lengths of zero mean a jumbogram (RFC 2675): etherparse reads on to the end of the frame.
fn claims_jumbogram(packet: &SlicedPacket<'_>) -> bool {
    let of_ip = match packet.net.as_ref() {
        Some(NetSlice::Ipv6(ip)) => ip.header().payload_length() == 0,
        _ => false,
    };
    let of_udp = match packet.transport.as_ref() {
        Some(TransportSlice::Udp(udp)) => udp.length() == 0,
        _ => false,
    };
    of_ip || of_udp
}

/// Whether the rules let the frame's link layer be read: no group's address, tags of two kinds.
fn is_link_read(frame: &[u8], packet: &SlicedPacket<'_>) -> bool {
    let double_tagged = 0x9100_u16.to_be_bytes();
    let tags = &packet.link_exts;
    frame[0] & 1 == 0
        && tags.len() <= 2
        && tags.iter().all(|tag| matches!(tag, LinkExtSlice::Vlan(_)))
        && frame[12..14] != double_tagged
        && frame[16..18] != double_tagged
}

/// Whether the rules let all extension headers of `packet` be stepped over. Which ones they do is a
/// property of its own.
fn is_within_limits(packet: &SlicedPacket<'_>) -> bool {
    let Some(NetSlice::Ipv6(ip)) = packet.net.as_ref() else {
        return true;
    };
    let extensions = ip.extensions();
    let fragments = extensions
        .clone()
        .into_iter()
        .filter(|it| matches!(it, Ipv6ExtensionSlice::Fragment(_)));
    let steps = extensions.clone().into_iter().all(|header| match header {
        Ipv6ExtensionSlice::Routing(header) => header.payload()[1] == 0,
        Ipv6ExtensionSlice::Authentication(_) => false,
        _ => true,
    });
    steps
        && fragments.count() <= 1
        && extensions.clone().into_iter().count() <= MAX_HEADERS
        && extensions.slice().len() <= MAX_BYTES
}

/// Without what etherparse does not say.
fn comparable(facts: Facts) -> Facts {
    Facts {
        ip_offset: 0,
        transport_offset: 0,
        ip_len: 0,
        // Canonical, as `WideAddress` has it.
        src: (facts.src.0.to_canonical(), facts.src.1),
        dst: (facts.dst.0.to_canonical(), facts.dst.1),
        ..facts
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_bytes_make_the_parser_panic_or_read_beyond_the_frame(
        frame in vec(any::<u8>(), 0..200),
    ) {
        if let Ok(parsed) = parse(&frame) {
            check(&frame, &parsed.facts())?;
        }
    }

    #[test]
    fn bytes_behind_an_ethernet_header_of_ip_do_not_either(
        mut frame in vec(any::<u8>(), 14..200),
        v6 in any::<bool>(),
        protocol in prop_oneof![Just(6), Just(17)],
    ) {
        let (ether_type, version, at) = if v6 { ([0x86, 0xdd], 6, 20) } else { ([8, 0], 4, 23) };
        frame[12..14].copy_from_slice(&ether_type);
        if let Some(first) = frame.get_mut(14) {
            *first = version << 4 | (*first & 0x0f);
        }
        if let Some(number) = frame.get_mut(at) {
            *number = protocol;
        }
        if let Ok(parsed) = parse(&frame) {
            check(&frame, &parsed.facts())?;
        }
    }

    #[test]
    fn every_packet_of_a_sender_who_means_it_is_read_as_it_is((shape, _) in packets()) {
        let frame = shape.frame();
        let parsed = parse(&frame);
        prop_assert!(parsed.is_ok(), "refused as {:?}", parsed.err());
        let facts = parsed.expect("just asserted").facts();
        check(&frame, &facts)?;
        prop_assert_eq!(facts.transport_offset, shape.transport_offset());
        prop_assert_eq!((facts.ttl, facts.tos), (shape.ttl, shape.tos));
        let (flags, seq, ack) = shape.tcp.unwrap_or_default();
        let payload_len = if shape.tcp.is_some() { shape.payload.len() } else { 0 };
        let segment = Segment {
            flags,
            seq,
            ack,
            payload_len: u16::try_from(payload_len).expect("a short payload"),
        };
        prop_assert_eq!(facts.segment, segment);
        let Shape { src, dst, .. } = shape;
        let wanted = Facts { src, dst, ..facts };
        prop_assert_eq!(comparable(facts), comparable(wanted));
    }

    #[test]
    fn a_damaged_packet_is_refused_or_read_as_etherparse_reads_it(frame in mutated()) {
        let Ok(parsed) = parse(&frame) else {
            return Ok(());
        };
        let facts = parsed.facts();
        check(&frame, &facts)?;
        if let Some((wanted, fragment)) = oracle(&frame) {
            prop_assert!(!fragment, "a fragment has no 5-tuple of its own: {:?}", facts);
            prop_assert_eq!(comparable(facts), comparable(wanted));
        }
    }

    #[test]
    fn what_etherparse_reads_is_not_refused(frame in mutated()) {
        let Some((wanted, fragment)) = oracle(&frame) else {
            return Ok(());
        };
        let packet = SlicedPacket::from_ethernet(&frame).expect("the oracle has read it");
        let read = is_link_read(&frame, &packet) && is_within_limits(&packet);
        if fragment || !read || claims_jumbogram(&packet) {
            return Ok(());
        }
        let parsed = parse(&frame);
        prop_assert!(parsed.is_ok(), "refused as {:?}: {:?}", parsed.err(), wanted);
    }

    #[test]
    fn rewriting_a_frame_that_lost_its_end_does_not_panic(
        (shape, new) in packets(),
        cut in any::<Index>(),
        side in prop_oneof![Just(Side::Forward), Just(Side::Reverse)],
    ) {
        let mut frame = shape.frame();
        let parsed = parse(&frame).expect("a good packet");
        let left = cut.index(frame.len() + 1);
        frame.truncate(left);
        let whole_headers = parsed.translate(&mut frame, side, new, Hop::Program).is_some();
        let needed = shape.transport_offset() + if shape.tcp.is_some() { 20 } else { 8 };
        prop_assert_eq!(whole_headers, left >= needed);
        prop_assert_eq!(frame.len(), left);
    }
}
