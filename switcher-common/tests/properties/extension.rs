//! Chains of IPv6 extension headers: stepped over as etherparse reads them, within the limits of the
//! packet rules (2.2).

use etherparse::{Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use switcher_common::packet::{Chain, MAX_BYTES, MAX_HEADERS, walk};

use crate::shape::config;

/// Behind a fixed header in a frame with two VLAN tags: the furthest in that a chain begins.
const START: usize = 62;

/// What is tried to be stepped over, and now and then something that is not.
fn numbers() -> impl Strategy<Value = u8> {
    prop_oneof![
        8 => Just(60),
        4 => Just(43),
        2 => Just(44),
        1 => Just(0),
        1 => prop_oneof![Just(6), Just(17), Just(58), Just(59), Just(51), any::<u8>()],
    ]
}

/// A frame of which the chain begins at [`START`], the number of its first header, and where the
/// packet ends by its length.
fn frames() -> impl Strategy<Value = (Vec<u8>, u8, usize)> {
    let small = prop_oneof![9 => 0..4_u8, 1 => any::<u8>()];
    let segments_left = prop_oneof![4 => Just(0), 1 => any::<u8>()];
    let offset = prop_oneof![6 => Just(0_u16), 1 => 0..32_u16, 1 => any::<u16>()];
    let header = (numbers(), small, segments_left, offset, any::<u32>());
    let cut = prop::option::weighted(0.2, any::<Index>());
    let ends = (cut.clone(), cut);
    (vec(header, 0..9), numbers(), vec(any::<u8>(), 0..40), ends).prop_map(
        |(headers, last, rest, (cut, shortened))| {
            let mut frame = vec![0xee; START];
            let numbers: Vec<u8> = headers
                .iter()
                .map(|header| header.0)
                .chain([last])
                .collect();
            for (pair, (number, units, left, offset, id)) in numbers.windows(2).zip(headers) {
                let next = pair[1];
                if number == 44 {
                    frame.extend([next, 0]);
                    frame.extend(offset.to_be_bytes());
                    frame.extend(id.to_be_bytes());
                } else {
                    frame.extend([next, units, 4, left]);
                    frame.resize(frame.len() + 4 + 8 * usize::from(units), 0xdd);
                }
            }
            frame.extend(rest);
            let room = frame.len() - START + 1;
            let end = shortened.map_or(frame.len(), |at| START + at.index(room));
            if let Some(cut) = cut {
                frame.truncate(START + cut.index(room));
            }
            let end = end.min(frame.len());
            (frame, numbers[0], end)
        },
    )
}

/// The rule, by etherparse's reading of each header.
fn oracle(bytes: &[u8], first: u8) -> Option<Chain> {
    let (mut next, mut rest) = (first, bytes);
    let mut fragment_at = None;
    let mut count = 0;
    loop {
        let at = bytes.len() - rest.len();
        let done = Chain {
            protocol: next,
            len: at,
            fragment_at,
        };
        let (len, after) = match next {
            0 if count > 0 => return None,
            0 | 43 | 60 => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                if next == 43 && header.payload()[1] != 0 {
                    return None;
                }
                (header.slice().len(), header.next_header().0)
            }
            44 if fragment_at.is_some() => return None,
            44 => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                fragment_at = Some(at);
                (header.slice().len(), header.next_header().0)
            }
            _ => return Some(done),
        };
        count += 1;
        if count > 6 || at + len > 256 {
            return None;
        }
        // Thirteen bits of offset, two of nothing, and a flag (RFC 8200, 4.5); etherparse 0.19 has
        // them elsewhere.
        let is_later = next == 44 && (rest[2] > 0 || rest[3] >> 3 > 0);
        (next, rest) = (after, &rest[len..]);
        if is_later {
            return Some(Chain {
                protocol: next,
                len: at + len,
                fragment_at,
            });
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_chain_is_stepped_over_as_etherparse_reads_it_within_the_limits(
        (frame, first, end) in frames(),
    ) {
        let chain = walk(&frame[..], START, end, first);
        prop_assert_eq!(chain, oracle(&frame[START..end], first));
        if let Some(chain) = chain {
            prop_assert!(chain.len <= MAX_BYTES && chain.len % 8 == 0);
            prop_assert!(START + chain.len <= end);
        }
    }

    #[test]
    fn no_bytes_make_the_walk_panic_or_leave_the_packet(
        frame in vec(any::<u8>(), 0..400),
        start in 0..100_usize,
        end in 0..500_usize,
        first in numbers(),
    ) {
        if let Some(chain) = walk(&frame[..], start, end, first) {
            prop_assert!(chain.len == 0 || start + chain.len <= end);
        }
    }
}

/// As many headers of destination options, each of eight bytes.
fn options(count: usize) -> Vec<u8> {
    let mut frame = vec![0; START];
    for left in (0..count).rev() {
        frame.extend([if left == 0 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    frame
}

#[test]
fn the_limits_are_as_many_headers_and_bytes_as_the_rules_say() {
    for count in 0..10 {
        let frame = options(count);
        let first = if count == 0 { 17 } else { 60 };
        let chain = walk(&frame[..], START, frame.len(), first);
        assert_eq!(chain.is_some(), count <= MAX_HEADERS, "{count} headers");
    }
    for units in 0..=255_u8 {
        let mut frame = vec![0; START];
        frame.extend([17, units, 1, 4]);
        frame.resize(START + 8 * (usize::from(units) + 1), 0);
        let chain = walk(&frame[..], START, frame.len(), 60);
        let len = frame.len() - START;
        assert_eq!(chain.is_some(), len <= MAX_BYTES, "{len} bytes");
    }
    assert_eq!((MAX_HEADERS, MAX_BYTES), (6, 256));
}
