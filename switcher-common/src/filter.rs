//! The cheap filter before any table: a packet whose addresses are not in it is not ours.
//!
//! A bitmap indexed by a hash of the address. A set bit may be another address's (the tables then
//! decide); a clear bit is certain. VIPs are looked for in the destination, backends in the source.

use crate::{address::Address, select::mix};

/// Bits of the bitmap, a power of two: 16 KiB, so 1 000 addresses let 0.8 % of foreign ones pass.
pub const FILTER_BITS: u32 = 131_072;
/// 64-bit words of the bitmap.
pub const FILTER_WORDS: u32 = FILTER_BITS / 64;

/// Where an address's bit is: word and mask.
#[inline(always)]
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "any bits of the hash will do"
)]
pub fn position<A: Address>(address: &A) -> (u32, u64) {
    let bit = (mix(address.digest()) as u32) & (FILTER_BITS - 1);
    (bit / 64, 1 << (bit % 64))
}
