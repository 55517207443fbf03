//! The key that finds an entry: a packet's 5-tuple.

use bytemuck::{Pod, Zeroable};

use super::{FlowEntry, Side};
use crate::{
    address::{Address, Ipv4, Ipv6},
    service::Protocol,
};

/// 5-tuple of a packet as it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Zeroable)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port in network byte order.
    pub src_port_be: u16,
    /// Destination port in network byte order.
    pub dst_port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

// SAFETY: `repr(C)`; the assertions below show that both instances have no padding, and every field
// is `Pod`.
unsafe impl Pod for FlowKey<Ipv4> {}
// SAFETY: as above.
unsafe impl Pod for FlowKey<Ipv6> {}
crate::shared!(FlowKey<Ipv4>, 16);
crate::shared!(FlowKey<Ipv6>, 40);
const _: () = {
    // The sum of the fields' sizes is the struct's size: no padding.
    assert!(size_of::<FlowKey<Ipv4>>() == 2 * 4 + 2 * 2 + 1 + 3);
    assert!(size_of::<FlowKey<Ipv6>>() == 2 * 16 + 2 * 2 + 1 + 3);
};

impl<A: Address> FlowKey<A> {
    /// The key of the packets in the other direction, if nothing were translated.
    #[inline(always)]
    #[must_use]
    pub fn turned(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port_be: self.dst_port_be,
            dst_port_be: self.src_port_be,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }

    /// The 5-tuple after translation by `entry`.
    #[inline(always)]
    #[must_use]
    pub fn translated(&self, entry: &FlowEntry<A>) -> Self {
        let mut key = *self;
        match entry.side() {
            Side::Forward => {
                key.dst = entry.rewrite_addr;
                key.dst_port_be = entry.rewrite_port_be;
            }
            Side::Reverse => {
                key.src = entry.rewrite_addr;
                key.src_port_be = entry.rewrite_port_be;
            }
        }
        key
    }

    /// The key of the entry for the other direction of the flow that `entry` belongs to.
    #[inline(always)]
    #[must_use]
    pub fn peer(&self, entry: &FlowEntry<A>) -> Self {
        self.translated(entry).turned()
    }

    /// Whether it is TCP.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == Protocol::Tcp as u8
    }

    /// Source and destination, each address and port. Both are read, whichever is used: else the compiler chooses
    /// between their places on the stack by arithmetic that the verifier refuses.
    #[inline(always)]
    pub(super) fn ends(&self) -> ((A, u16), (A, u16)) {
        // SAFETY: fields of a valid reference.
        unsafe {
            (
                (
                    (&raw const self.src).read_volatile(),
                    (&raw const self.src_port_be).read_volatile(),
                ),
                (
                    (&raw const self.dst).read_volatile(),
                    (&raw const self.dst_port_be).read_volatile(),
                ),
            )
        }
    }
}
