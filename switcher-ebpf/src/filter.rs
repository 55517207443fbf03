//! Stage "ours?": before any table, and for packets that have no ports.

use switcher_common::{address::Address, filter::position, packet::IpPacket, reason::Reason};

use crate::{maps::FILTER, select::is_vip};

/// Whether the destination may be a VIP or the source a backend. `false` is certain.
#[inline(always)]
pub(crate) fn may_be_ours<A: Address>(ip: &IpPacket<A>) -> bool {
    is_set(&ip.dst) || is_set(&ip.src)
}

/// Whether `address` may be a VIP or a backend's. `false` is certain.
#[inline(always)]
pub(crate) fn is_set<A: Address>(address: &A) -> bool {
    let (word, mask) = position(address);
    FILTER.get(word).is_some_and(|bits| bits & mask != 0)
}

/// The verdict for a packet without a 5-tuple: broken ones to a VIP are dropped, all others are
/// none of our business.
#[inline(always)]
pub(crate) fn without_ports<A: Address>(ip: &IpPacket<A>, reason: Reason) -> Reason {
    match reason {
        _ if is_vip(&ip.dst) => reason,
        Reason::Fragment => Reason::FragmentFromBackend,
        _ => Reason::NotOurs,
    }
}
