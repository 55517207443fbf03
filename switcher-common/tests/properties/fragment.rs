//! Fragments: each leads to the 5-tuple of its datagram, and their translations are the fragments of
//! the translated datagram.

use std::net::IpAddr;

use etherparse::{IpFragOffset, Ipv4Header};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use switcher_common::address::{Ipv4, Ipv6};
use switcher_common::flow::{FlowKey, Side};
use switcher_common::packet::{
    FragmentPorts, Hop, IpPacket, Network, Part, link, translate, transport,
};
use switcher_common::reason::Reason;

use crate::bytes::{ip, key};
use crate::shape::{Shape, chain, config, packets};

/// How a datagram is cut.
#[derive(Clone, Debug)]
struct Cut {
    identification: u32,
    /// Bytes of each fragment but the last one, in units of eight.
    units: Vec<usize>,
    /// Which of the extension headers come after the fragment header.
    fragmentable: Index,
}

/// Whole transport headers lie in the first fragment.
fn cuts() -> impl Strategy<Value = Cut> {
    let units = (8..11_usize, vec(1..5_usize, 0..4));
    (any::<u32>(), units, any::<Index>()).prop_map(|(identification, (first, others), index)| Cut {
        identification,
        units: [&[first], &others[..]].concat(),
        fragmentable: index,
    })
}

/// Datagrams with more than a first fragment holds; UDP lengths go beyond it.
fn datagrams() -> impl Strategy<Value = (Shape, (IpAddr, u16))> {
    (packets(), vec(any::<u8>(), 200..400)).prop_map(|((mut shape, to), payload)| {
        shape.extensions.retain(|(number, _)| *number != 44);
        // Else a TCP header does not fit the first fragment.
        shape.tcp_options.truncate(4);
        shape.payload = payload;
        (shape, to)
    })
}

/// Where each fragment's bytes lie in the data of `len` bytes that are cut.
fn ranges(len: usize, cut: &Cut, header: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for (number, units) in cut.units.iter().enumerate() {
        let headers = if number == 0 { header } else { 0 };
        let end = (start + 8 * units + headers).min(len - 1) / 8 * 8;
        if end > start {
            ranges.push(start..end);
            start = end;
        }
    }
    ranges.push(start..len);
    ranges
}

/// The fragments of `shape`, of which nothing is taken from the code under test.
fn fragments(shape: &Shape, cut: &Cut) -> Vec<Vec<u8>> {
    let frame = shape.frame();
    let (head, packet) = frame.split_at(shape.ip_offset());
    let end = packet.len() - shape.padding.len();
    let packet = &packet[..end];
    let whole = |header: Vec<u8>, data: &[u8]| [head, &header, data, &shape.padding].concat();
    if shape.dst.0.is_ipv4() {
        let (header, data) = Ipv4Header::from_slice(packet).expect("etherparse has built it");
        let ranges = ranges(data.len(), cut, 0).into_iter();
        return ranges
            .map(|range| {
                let offset = u16::try_from(range.start / 8).expect("a short packet");
                let mut header = header.clone();
                let [_, _, high, low] = cut.identification.to_be_bytes();
                header.identification = u16::from_be_bytes([high, low]);
                header.dont_fragment = false;
                header.more_fragments = range.end < data.len();
                header.fragment_offset = IpFragOffset::try_new(offset).expect("a short packet");
                header.set_payload_len(range.len()).expect("a short packet");
                header.header_checksum = header.calc_header_checksum();
                whole(header.to_bytes().to_vec(), &data[range])
            })
            .collect();
    }
    // Hop-by-hop options stay before the fragment header.
    let fixed = usize::from(
        shape
            .extensions
            .first()
            .is_some_and(|(number, _)| *number == 0),
    );
    let room = shape.extensions.len() - fixed + 1;
    let (before, after) = shape
        .extensions
        .split_at(fixed + cut.fragmentable.index(room));
    let last = packet[40..].len() - chain(&shape.extensions, 0).len();
    let transport = &packet[packet.len() - last..];
    let protocol = if shape.tcp.is_some() { 6 } else { 17 };
    let data = [&chain(after, protocol), transport].concat();
    let next = after.first().map_or(protocol, |(number, _)| *number);
    let ranges = ranges(data.len(), cut, chain(after, 0).len()).into_iter();
    ranges
        .map(|range| {
            let more = u16::from(range.end < data.len());
            let field = u16::try_from(range.start).expect("a short packet") | more;
            let id = cut.identification.to_be_bytes();
            let fragment = [&[next, 0], &field.to_be_bytes()[..], &id].concat();
            let extensions = [chain(before, 44), fragment].concat();
            let mut header = packet[..40].to_vec();
            header[6] = before.first().map_or(44, |(number, _)| *number);
            let len = u16::try_from(extensions.len() + range.len()).expect("a short packet");
            header[4..6].copy_from_slice(&len.to_be_bytes());
            whole([header, extensions].concat(), &data[range])
        })
        .collect()
}

/// What the program does with a datagram's fragments, without its tables.
fn translated<A: Network + std::fmt::Debug>(
    fragments: &[Vec<u8>],
    side: Side,
    to: (IpAddr, u16),
) -> Result<Vec<Vec<u8>>, TestCaseError> {
    let mut datagram: Option<(IpPacket<A>, FlowKey<A>)> = None;
    let mut frames = fragments.to_vec();
    for (number, frame) in frames.iter_mut().enumerate() {
        let at = link(&frame[..]).expect("a good frame").ip_offset;
        let packet = ip::<A>(frame, at);
        prop_assert!(packet.is_ok(), "refused as {:?}", packet.err());
        let packet = packet.expect("just asserted");
        let tuple = match (number, datagram) {
            (0, _) => {
                prop_assert_eq!(packet.part, Part::First);
                let read = transport(&frame[..], &packet);
                prop_assert!(read.is_ok(), "refused as {:?}", read.err());
                packet.tuple(&read.expect("just asserted"))
            }
            (_, Some((first, tuple))) => {
                prop_assert_eq!(packet.part, Part::Later);
                prop_assert_eq!(packet.why_no_ports(), Reason::Fragment);
                prop_assert_eq!(packet.fragment_key(), first.fragment_key());
                let ports = FragmentPorts::new(&tuple, 7);
                prop_assert_eq!(packet.fragment_key().tuple(&ports), tuple);
                tuple
            }
            _ => unreachable!("the first fragment sets it"),
        };
        datagram = Some((packet, tuple));
        let changed = key(&tuple, side, to);
        prop_assert!(
            translate(
                &mut frame[..],
                &packet,
                side,
                &tuple,
                &changed,
                Hop::Program
            )
            .is_some()
        );
    }
    Ok(frames)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn translated_fragments_are_the_fragments_of_the_translated_datagram(
        (shape, to) in datagrams(),
        cut in cuts(),
        side in prop_oneof![Just(Side::Forward), Just(Side::Reverse)],
    ) {
        let mut wanted = Shape { ttl: shape.ttl - 1, ..shape.clone() };
        match side {
            Side::Forward => wanted.dst = to,
            Side::Reverse => wanted.src = to,
        }
        let fragments_in = fragments(&shape, &cut);
        prop_assert!(fragments_in.len() > 1, "not cut: {:?}", cut);
        let fragments_out = if shape.dst.0.is_ipv4() {
            translated::<Ipv4>(&fragments_in, side, to)?
        } else {
            translated::<Ipv6>(&fragments_in, side, to)?
        };
        prop_assert_eq!(fragments_out, fragments(&wanted, &cut));
    }
}
