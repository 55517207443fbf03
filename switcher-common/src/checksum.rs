//! Incremental update of the Internet checksum (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
//!
//! Values are taken as they lie in the packet: ones' complement sums do not depend on byte order
//! (RFC 1071, 2(B)), so nothing is swapped.

use crate::address::Address;

/// What a checksum changes by when words under it are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Nothing replaced yet.
    #[inline(always)]
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// A 16-bit word, both in wire order.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// An address.
    #[inline(always)]
    #[must_use]
    pub fn address<A: Address>(self, old: &A, new: &A) -> Self {
        Self(self.0 + old.complement_sum() + new.word_sum())
    }

    /// A 16-bit word in wire order that was not there before.
    #[inline(always)]
    #[must_use]
    pub const fn added(self, new: u16) -> Self {
        Self(self.0 + new as u64)
    }

    /// A 32-bit word in wire order that was not there before.
    #[inline(always)]
    #[must_use]
    pub const fn added_double_word(self, new: u32) -> Self {
        Self(self.0 + new as u64)
    }

    /// An address that was not there before.
    #[inline(always)]
    #[must_use]
    pub fn added_address<A: Address>(self, new: &A) -> Self {
        Self(self.0 + new.word_sum())
    }

    /// The checksum of everything that was added, and nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// Both.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the replacements; both as they lie in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold((!checksum) as u64 + self.0 + cfg!(mutant = "fault-checksum") as u64)
    }

    /// As [`Self::apply`], for UDP: over IPv4 a checksum of zero means "none" and stays
    /// (RFC 768), so a computed zero is sent as all ones.
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 && !cfg!(mutant = "zero-checksum-updated") {
            return 0;
        }
        match self.apply(checksum) {
            0 if !cfg!(mutant = "fault-zero-sum") => 0xffff,
            updated => updated,
        }
    }
}

/// Ones' complement sum of the 16-bit parts. Three rounds suffice: they leave at most `0x1_0002` after
/// the second.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "three rounds leave 16 bits"
)]
const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
