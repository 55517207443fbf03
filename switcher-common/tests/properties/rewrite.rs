//! Rewriting: the bytes that etherparse makes of the translated packet, and the way back.

use std::net::IpAddr;

use proptest::prelude::*;
use switcher_common::address::{Ipv4, Ipv6};
use switcher_common::checksum::Delta;
use switcher_common::flow::Side;
use switcher_common::packet::Hop;

use crate::bytes::parse;
use crate::shape::{Shape, config, packets};

fn sides() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Forward), Just(Side::Reverse)]
}

fn hops() -> impl Strategy<Value = Hop> {
    prop_oneof![Just(Hop::Program), Just(Hop::Stack)]
}

/// `shape` after its translation.
fn translated(shape: &Shape, side: Side, to: (IpAddr, u16), hop: Hop) -> Shape {
    let mut shape = shape.clone();
    match side {
        Side::Forward => shape.dst = to,
        Side::Reverse => shape.src = to,
    }
    if hop == Hop::Program {
        shape.ttl -= 1;
    }
    shape
}

fn end(shape: &Shape, side: Side) -> (IpAddr, u16) {
    match side {
        Side::Forward => shape.dst,
        Side::Reverse => shape.src,
    }
}

/// Where the transport checksum is.
fn checksum_at(shape: &Shape) -> std::ops::Range<usize> {
    let at = shape.transport_offset() + if shape.tcp.is_some() { 16 } else { 6 };
    at..at + 2
}

/// Ones' complement sum of all words, the slow way.
fn full_sum(words: &[u16]) -> u16 {
    words.iter().fold(0, |sum: u16, &word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_rewritten_packet_is_the_one_that_etherparse_builds(
        (shape, new) in packets(),
        side in sides(),
        hop in hops(),
    ) {
        let mut frame = shape.frame();
        let parsed = parse(&frame).expect("a good packet");
        prop_assert!(parsed.translate(&mut frame, side, new, hop).is_some());
        prop_assert_eq!(frame, translated(&shape, side, new, hop).frame());
    }

    #[test]
    fn rewriting_back_restores_every_byte(
        (shape, new) in packets(),
        side in sides(),
    ) {
        let original = shape.frame();
        let mut frame = original.clone();
        let there = parse(&frame).expect("a good packet");
        prop_assert!(there.translate(&mut frame, side, new, Hop::Stack).is_some());
        let back = parse(&frame).expect("still a good packet");
        prop_assert!(back.translate(&mut frame, side, end(&shape, side), Hop::Stack).is_some());
        prop_assert_eq!(frame, original);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_as_much(
        (shape, new) in packets(),
        side in sides(),
        damage in 1..u16::MAX,
    ) {
        let mut frame = shape.frame();
        let at = checksum_at(&shape);
        let wrong = |bytes: &mut [u8]| {
            let right = u16::from_be_bytes([bytes[0], bytes[1]]);
            // Not zero, which over UDP would mean that there is none.
            let sum = full_sum(&[right, damage]);
            bytes.copy_from_slice(&sum.to_be_bytes());
            sum != 0
        };
        if !shape.checksum || !wrong(&mut frame[at.clone()]) {
            return Ok(());
        }
        let parsed = parse(&frame).expect("the parser looks at no checksum");
        prop_assert!(parsed.translate(&mut frame, side, new, Hop::Program).is_some());
        let mut wanted = translated(&shape, side, new, Hop::Program).frame();
        wrong(&mut wanted[at.clone()]);
        // Zero and all ones are one number; the right one differs from both.
        let number = |bytes: &[u8]| full_sum(&[u16::from_be_bytes([bytes[0], bytes[1]])]) % 0xffff;
        prop_assert_eq!(number(&frame[at.clone()]), number(&wanted[at.clone()]));
        frame[at.clone()].fill(0);
        wanted[at].fill(0);
        prop_assert_eq!(frame, wanted);
    }

    #[test]
    fn an_updated_checksum_is_the_one_of_a_full_sum(
        mut words in prop::collection::vec(any::<u16>(), 1..20),
        at in any::<prop::sample::Index>(),
        new in any::<u16>(),
    ) {
        // A packet is never all zeros: the version of IP is not.
        words.push(0x4500);
        let at = at.index(words.len() - 1);
        let old_checksum = !full_sum(&words);
        let updated = Delta::none().word(words[at], new).apply(old_checksum);
        words[at] = new;
        prop_assert_eq!(updated, !full_sum(&words));
    }

    #[test]
    fn an_address_changes_a_checksum_as_its_words_do(
        old in any::<[u32; 4]>(),
        new in any::<[u32; 4]>(),
        checksum in any::<u16>(),
    ) {
        let halves = |word: u32| {
            let [a, b, c, d] = word.to_ne_bytes();
            [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
        };
        let by_words = |count: usize| {
            let pairs = old.into_iter().zip(new).take(count);
            pairs.fold(Delta::none(), |delta, (old, new)| {
                let ([a, b], [c, d]) = (halves(old), halves(new));
                delta.word(a, c).word(b, d)
            })
        };
        let v6 = Delta::none().address(&Ipv6(old), &Ipv6(new));
        prop_assert_eq!(v6.apply(checksum), by_words(4).apply(checksum));
        let v4 = Delta::none().address(&Ipv4(old[0]), &Ipv4(new[0]));
        prop_assert_eq!(v4.apply(checksum), by_words(1).apply(checksum));
    }

    #[test]
    fn a_udp_checksum_is_never_made_zero_and_zero_is_never_made_a_checksum(
        old in any::<u16>(),
        any_new in any::<u16>(),
        checksum in prop_oneof![any::<u16>(), Just(0), Just(0xffff)],
        to_zero in any::<bool>(),
    ) {
        // HC' = ~(~HC + ~m + m') is zero where m' = HC + m.
        let new = if to_zero { full_sum(&[checksum, old]) } else { any_new };
        let updated = Delta::none().word(old, new).apply_udp(checksum);
        prop_assert_eq!(updated == 0, checksum == 0);
        prop_assert!(!to_zero || checksum == 0 || updated == 0xffff);
    }
}
