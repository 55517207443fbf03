//! Headers in place, of frames without VLAN tags, IP options and extension headers.

use aya_ebpf::programs::XdpContext;
use switcher_common::{
    address::{Address, Ipv4, Ipv6},
    service::Protocol,
};

/// Ethernet.
#[repr(C, packed(2))]
pub(crate) struct Ethernet {
    pub(crate) destination: [u16; 3],
    pub(crate) source: [u16; 3],
    pub(crate) kind_be: u16,
}

/// IPv4 without options.
#[repr(C, packed(2))]
pub(crate) struct HeaderV4 {
    pub(crate) version_and_len: u8,
    pub(crate) tos: u8,
    pub(crate) len_be: u16,
    pub(crate) id_be: u16,
    pub(crate) fragment_be: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) check: u16,
    pub(crate) src: u32,
    pub(crate) dst: u32,
}

/// IPv6.
#[repr(C, packed(2))]
pub(crate) struct HeaderV6 {
    pub(crate) version: u32,
    pub(crate) len_be: u16,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) src: [u32; 4],
    pub(crate) dst: [u32; 4],
}

/// The beginning of TCP and UDP.
#[repr(C, packed(2))]
pub(crate) struct Ports {
    pub(crate) src_be: u16,
    pub(crate) dst_be: u16,
}

/// Where things are.
pub(crate) const IP: usize = size_of::<Ethernet>();
/// `ETH_P_IP` and `ETH_P_IPV6` as they lie in the frame.
pub(crate) const KIND_V4: u16 = 0x0800_u16.to_be();
pub(crate) const KIND_V6: u16 = 0x86dd_u16.to_be();

/// The header of type `T` at `offset`. A header is borrowed once at a time.
#[inline(always)]
pub(crate) fn at<T>(ctx: &XdpContext, offset: usize) -> Option<&'static mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet, which outlives the program's run; the types here have an alignment of 2 at most, which every header has.
    Some(unsafe { &mut *(start as *mut T) })
}

/// What the families' frames differ in.
pub(crate) trait Family: Address {
    /// The IP header.
    type Header;
    /// Where the transport header is.
    const TRANSPORT: usize = IP + size_of::<Self::Header>();
    /// Addresses and protocol, if it is a plain packet with time to live.
    fn addresses(header: &Self::Header) -> Option<(Self, Self, u8)>;
    /// One less time to live, and another destination.
    fn forward(header: &mut Self::Header, dst: &Self);
    /// Length of the packet, header included.
    fn len(header: &Self::Header) -> u16;
}

impl Family for Ipv4 {
    type Header = HeaderV4;

    #[inline(always)]
    fn addresses(header: &HeaderV4) -> Option<(Self, Self, u8)> {
        let is_plain = header.version_and_len == 0x45
            && header.fragment_be & 0x3fff_u16.to_be() == 0
            && header.ttl > 1;
        is_plain.then_some((Self(header.src), Self(header.dst), header.protocol))
    }

    #[inline(always)]
    fn forward(header: &mut HeaderV4, dst: &Self) {
        use switcher_common::checksum::Delta;
        let old = u16::from_ne_bytes([header.ttl, header.protocol]);
        header.ttl -= 1;
        let new = u16::from_ne_bytes([header.ttl, header.protocol]);
        let delta = Delta::none().word(old, new).address(&Self(header.dst), dst);
        header.check = delta.apply(header.check);
        header.dst = dst.0;
    }

    #[inline(always)]
    fn len(header: &HeaderV4) -> u16 {
        u16::from_be(header.len_be)
    }
}

impl Family for Ipv6 {
    type Header = HeaderV6;

    #[inline(always)]
    fn addresses(header: &HeaderV6) -> Option<(Self, Self, u8)> {
        (header.ttl > 1).then_some((Self(header.src), Self(header.dst), header.protocol))
    }

    #[inline(always)]
    fn forward(header: &mut HeaderV6, dst: &Self) {
        header.ttl -= 1;
        header.dst = dst.0;
    }

    #[inline(always)]
    fn len(header: &HeaderV6) -> u16 {
        u16::from_be(header.len_be) + 40
    }
}

/// A 5-tuple with the layout of [`FlowKey`](switcher_common::flow::FlowKey), in words: the compiler sets single bytes to
/// zero by a call.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Tuple<A> {
    pub(crate) src: A,
    pub(crate) dst: A,
    pub(crate) src_port_be: u16,
    pub(crate) dst_port_be: u16,
    /// The first byte; the others are zero. All hosts are little-endian.
    pub(crate) protocol: u32,
}

/// The 5-tuple of a TCP or UDP packet.
#[inline(always)]
pub(crate) fn tuple<A: Family>(ctx: &XdpContext) -> Option<Tuple<A>> {
    let (src, dst, protocol) = A::addresses(at::<A::Header>(ctx, IP)?)?;
    let ports = at::<Ports>(ctx, A::TRANSPORT)?;
    Protocol::from_number(protocol)?;
    Some(Tuple {
        src,
        dst,
        src_port_be: ports.src_be,
        dst_port_be: ports.dst_be,
        protocol: protocol.into(),
    })
}
