//! Writing the translated 5-tuple into a frame, checksums included.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use super::{Ethernet, Frame, IpPacket, Part, Tcp, field::Field as _};
use crate::{
    address::Address,
    checksum::Delta,
    flow::{FlowKey, Side},
    service::Protocol,
};

/// Who forwards the packet, and so takes one from its time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// The program: one less.
    Program,
    /// The stack, after the program: unchanged here.
    Stack,
}

/// Replaces the 5-tuple `from` of `ip` by `to`, of which only the `side`'s address and port differ. A
/// later fragment has no ports: of it only the IP header is rewritten.
/// `None` when a header is not where the parser found it; then the frame may be half rewritten and
/// must be dropped.
#[inline(always)]
#[must_use]
pub fn translate<A: Address, F: Frame + ?Sized>(
    frame: &mut F,
    ip: &IpPacket<A>,
    side: Side,
    from: &FlowKey<A>,
    to: &FlowKey<A>,
    hop: Hop,
) -> Option<()> {
    let addresses = match side {
        Side::Forward => Delta::none().address(&from.dst, &to.dst),
        Side::Reverse => Delta::none().address(&from.src, &to.src),
    };
    let ports = match side {
        Side::Forward => addresses.word(from.dst_port_be, to.dst_port_be),
        Side::Reverse => addresses.word(from.src_port_be, to.src_port_be),
    };
    if ip.part != Part::Later {
        transport(frame, ip, to, ports)?;
    }
    network(frame, ip.ip_offset, side, to, addresses, hop)
}

/// The IP header's part of it; `addresses` is what the new address changes.
#[inline(always)]
pub(super) fn network<A: Address, F: Frame + ?Sized>(
    frame: &mut F,
    offset: usize,
    side: Side,
    to: &FlowKey<A>,
    addresses: Delta,
    hop: Hop,
) -> Option<()> {
    if A::AF == crate::address::Ipv4::AF {
        ipv4(frame, offset, side, to, addresses, hop)
    } else {
        ipv6(frame, offset, side, to, hop)
    }
}

#[inline(always)]
fn transport<A: Address, F: Frame + ?Sized>(
    frame: &mut F,
    ip: &IpPacket<A>,
    to: &FlowKey<A>,
    delta: Delta,
) -> Option<()> {
    let offset = ip.transport_offset;
    if ip.protocol == Protocol::Tcp as u8 {
        let header = frame.header_mut::<Tcp>(offset)?;
        header.source.set(to.src_port_be);
        header.destination.set(to.dst_port_be);
        header.check.set(delta.apply(header.check.get()));
    } else {
        let header = frame.header_mut::<UdpHdr>(offset)?;
        header.src.set(to.src_port_be);
        let fault = u16::from(cfg!(mutant = "fault-port")).to_be();
        header.dst.set(to.dst_port_be.wrapping_add(fault));
        header.check.set(delta.apply_udp(header.check.get()));
    }
    Some(())
}

#[inline(always)]
fn ipv4<A: Address, F: Frame + ?Sized>(
    frame: &mut F,
    offset: usize,
    side: Side,
    to: &FlowKey<A>,
    delta: Delta,
    hop: Hop,
) -> Option<()> {
    let header = frame.header_mut::<Ipv4Hdr>(offset)?;
    let mut delta = delta;
    if let Hop::Program = hop {
        let old = u16::from_ne_bytes([header.ttl, header.proto]);
        header.ttl = header.ttl.wrapping_sub(1);
        delta = delta.word(old, u16::from_ne_bytes([header.ttl, header.proto]));
    }
    let changed = match side {
        Side::Forward => to.dst.wide(),
        Side::Reverse => to.src.wide(),
    };
    match side {
        Side::Forward => header.dst_addr.set(changed.0[3]),
        Side::Reverse => header.src_addr.set(changed.0[3]),
    }
    header.check.set(delta.apply(header.check.get()));
    Some(())
}

#[inline(always)]
fn ipv6<A: Address, F: Frame + ?Sized>(
    frame: &mut F,
    offset: usize,
    side: Side,
    to: &FlowKey<A>,
    hop: Hop,
) -> Option<()> {
    let header = frame.header_mut::<Ipv6Hdr>(offset)?;
    if matches!(hop, Hop::Program) && !cfg!(mutant = "fault-hop-limit") {
        header.hop_limit = header.hop_limit.wrapping_sub(1);
    }
    match side {
        Side::Forward => header.dst_addr.set(to.dst.wide().0),
        Side::Reverse => header.src_addr.set(to.src.wide().0),
    }
    Some(())
}

/// Sets the link-layer addresses of the next hop.
#[inline(always)]
#[must_use]
pub fn set_link_addresses<F: Frame + ?Sized>(
    frame: &mut F,
    source: [u8; 6],
    destination: [u8; 6],
) -> Option<()> {
    let header = frame.header_mut::<Ethernet>(0)?;
    header.source.set(source);
    header.destination.set(destination);
    Some(())
}
