//! Fragments: which part of a datagram a packet is, and what is kept of the first one for the others.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Ipv4, Ipv6},
    clock,
    flow::FlowKey,
};

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The beginning, with the transport header.
    First,
    /// What has an offset: no transport header.
    Later,
}

impl Part {
    /// Of the 16 bits with an offset, `offset` its mask and `more` the flag that fragments follow.
    #[inline(always)]
    pub(super) const fn of(bits: u16, offset: u16, more: u16) -> Self {
        if bits & offset != 0 {
            Self::Later
        } else if bits & more != 0 {
            Self::First
        } else {
            Self::Whole
        }
    }
}

/// What the fragments of one datagram have in common (RFC 791, 2.3; RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Zeroable)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification; of IPv4 it has 16 bits.
    pub identification: u32,
    /// Protocol of the IPv4 header, or the number in the IPv6 fragment header.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// What is kept of a first fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct FragmentPorts {
    /// Tick at which it came.
    pub tick: u32,
    /// Source port in network byte order.
    pub src_port_be: u16,
    /// Destination port in network byte order.
    pub dst_port_be: u16,
    /// The transport protocol, which an IPv6 fragment header need not name.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

// SAFETY: `repr(C)`; the assertions below show that both instances have no padding, and every field
// is `Pod`.
unsafe impl Pod for FragmentKey<Ipv4> {}
// SAFETY: as above.
unsafe impl Pod for FragmentKey<Ipv6> {}
// SAFETY: as above.
unsafe impl Pod for FragmentPorts {}
crate::shared!(FragmentKey<Ipv4>, 16);
crate::shared!(FragmentKey<Ipv6>, 40);
crate::shared!(FragmentPorts, 12);
const _: () = {
    // The sum of the fields' sizes is the struct's size: no padding.
    assert!(size_of::<FragmentKey<Ipv4>>() == 2 * 4 + 4 + 1 + 3);
    assert!(size_of::<FragmentKey<Ipv6>>() == 2 * 16 + 4 + 1 + 3);
    assert!(size_of::<FragmentPorts>() == 4 + 2 * 2 + 1 + 3);
};

/// How long a first fragment is remembered. Receivers wait 15 s to 60 s for all of a datagram.
pub const LIFETIME_TICKS: u32 = clock::ticks_from_ms(30_000);

impl FragmentPorts {
    /// Of the first fragment of a datagram with `tuple`.
    #[inline(always)]
    #[must_use]
    pub const fn new<A>(tuple: &FlowKey<A>, now: u32) -> Self {
        Self {
            tick: now,
            src_port_be: tuple.src_port_be,
            dst_port_be: tuple.dst_port_be,
            protocol: tuple.protocol,
            reserved: [0; 3],
        }
    }

    /// Whether the first fragment was too long ago: its identification may be another datagram's now.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self, now: u32) -> bool {
        clock::elapsed(now, self.tick) > LIFETIME_TICKS
    }
}

impl<A: Address> FragmentKey<A> {
    /// The 5-tuple of a later fragment, by the ports of the first one.
    #[inline(always)]
    #[must_use]
    pub fn tuple(&self, ports: &FragmentPorts) -> FlowKey<A> {
        FlowKey {
            src: self.src,
            dst: self.dst,
            src_port_be: ports.src_port_be,
            dst_port_be: ports.dst_port_be,
            protocol: ports.protocol,
            reserved: [0; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_fragment_is_remembered_for_thirty_seconds() {
        let ports = FragmentPorts {
            tick: u32::MAX - 5,
            ..FragmentPorts::default()
        };
        assert!(!ports.is_over(ports.tick.wrapping_add(LIFETIME_TICKS)));
        assert!(ports.is_over(ports.tick.wrapping_add(LIFETIME_TICKS + 1)));
    }
}
