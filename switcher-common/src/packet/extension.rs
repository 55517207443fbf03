//! The extension headers of an IPv6 packet (RFC 8200, 4): stepped over within limits, never changed.

use super::Frame;

/// Next-header numbers of what is stepped over.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// So many headers are stepped over. Senders use one or two; each costs the verifier a round.
pub const MAX_HEADERS: usize = 6;
/// Bytes of all headers together.
pub const MAX_BYTES: usize = 256;

/// Every header's length is a multiple of it, and none is shorter.
const UNIT: usize = 8;

/// What a packet's extension headers lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// IP protocol number behind the headers. Of a later fragment it is what its fragment header
    /// says, which need not be the transport protocol's.
    pub protocol: u8,
    /// Bytes of all headers together: a multiple of eight, at most [`MAX_BYTES`].
    pub len: usize,
    /// Where the fragment header begins, in bytes behind the fixed header; it is one of the headers.
    pub fragment_at: Option<usize>,
}

/// Whether `next_header`, of the fixed header, begins a chain. The other packets need no [`walk`].
#[inline(always)]
#[must_use]
pub(super) const fn begins(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
    )
}

/// Steps over the headers from `start`, the offset behind the fixed header, whose next header is
/// `first`. `end` is where packet or frame end, whichever comes first. `None`: a header beyond the
/// limits, out of place, or not there whole.
#[inline(always)]
pub fn walk<F: Frame + ?Sized>(frame: &F, start: usize, end: usize, first: u8) -> Option<Chain> {
    let mut chain = Chain {
        protocol: first,
        len: 0,
        fragment_at: None,
    };
    for number in 0..=MAX_HEADERS {
        if !begins(chain.protocol) {
            return Some(chain);
        }
        let is_misplaced = match chain.protocol {
            HOP_BY_HOP => number > 0,
            FRAGMENT => chain.fragment_at.is_some(),
            _ => false,
        };
        let [next, units, a, b, ..] = *frame.header::<[u8; UNIT]>(start + chain.len)?;
        let is_fragment = chain.protocol == FRAGMENT;
        let len = if is_fragment {
            UNIT
        } else {
            (usize::from(units) + usize::from(!cfg!(mutant = "fault-extension-length"))) * UNIT
        };
        // `b` of a routing header: segments left.
        let is_source_routed = chain.protocol == ROUTING && b != 0;
        let after = chain.len + len;
        if is_misplaced
            || is_source_routed
            || number == MAX_HEADERS
            || after > MAX_BYTES
            || start + after > end
        {
            return None;
        }
        if is_fragment {
            chain.fragment_at = Some(chain.len);
        }
        chain.len = after;
        chain.protocol = next;
        // What follows in a later fragment is the middle of something, and no header.
        if is_fragment && is_later([a, b]) {
            return Some(chain);
        }
    }
    None
}

/// Whether a fragment header's field of offset and flags has an offset.
#[inline(always)]
const fn is_later(offset_and_flags: [u8; 2]) -> bool {
    u16::from_be_bytes(offset_and_flags) & OFFSET != 0
}

/// The offset in the fragment header's field of offset and flags, in bytes.
pub(super) const OFFSET: u16 = 0xfff8;
/// More fragments, in the same field.
pub(super) const MORE: u16 = 1;
