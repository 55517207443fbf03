//! Calling the packet logic on plain bytes, for both families alike.

use std::net::IpAddr;

use switcher_common::address::{Address, Ipv4, Ipv6, WideAddress};
use switcher_common::flow::{FlowKey, Segment, Side};
use switcher_common::packet::{
    Family, Hop, IpPacket, Network, Part, Transport, complete, link, network, translate, transport,
};
use switcher_common::reason::Reason;

/// What the parser says of a frame with a 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    V4(IpPacket<Ipv4>, Transport),
    V6(IpPacket<Ipv6>, Transport),
}

/// All steps of the parser. A later fragment has no 5-tuple of its own.
pub(crate) fn parse(frame: &[u8]) -> Result<Parsed, Reason> {
    let link = link(frame)?;
    match link.family {
        Family::V4 => datagram(frame, link.ip_offset).map(|(ip, it)| Parsed::V4(ip, it)),
        Family::V6 => datagram(frame, link.ip_offset).map(|(ip, it)| Parsed::V6(ip, it)),
    }
}

fn datagram<A: Network>(
    frame: &[u8],
    ip_offset: usize,
) -> Result<(IpPacket<A>, Transport), Reason> {
    let ip = ip(frame, ip_offset)?;
    if ip.part == Part::Later {
        return Err(ip.why_no_ports());
    }
    transport(frame, &ip).map(|datagram| (ip, datagram))
}

/// All steps but the last one.
pub(crate) fn ip<A: Network>(frame: &[u8], ip_offset: usize) -> Result<IpPacket<A>, Reason> {
    let mut ip = network(frame, ip_offset).ok_or(Reason::NotIp)?;
    if ip.has_extensions() {
        A::extensions(frame, &mut ip)?;
    }
    complete(frame, &ip)?;
    Ok(ip)
}

/// What both families' datagrams have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
    pub(crate) protocol: u8,
    pub(crate) segment: Segment,
    pub(crate) ip_offset: usize,
    pub(crate) transport_offset: usize,
    pub(crate) ip_len: u16,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
}

impl Parsed {
    pub(crate) fn facts(&self) -> Facts {
        match self {
            Self::V4(ip, datagram) => facts(ip, datagram),
            Self::V6(ip, datagram) => facts(ip, datagram),
        }
    }

    /// Replaces the `side`'s endpoint in `frame`.
    pub(crate) fn translate(
        &self,
        frame: &mut [u8],
        side: Side,
        to: (IpAddr, u16),
        hop: Hop,
    ) -> Option<()> {
        match self {
            Self::V4(ip, transport) => translated(frame, ip, transport, side, to, hop),
            Self::V6(ip, transport) => translated(frame, ip, transport, side, to, hop),
        }
    }
}

fn translated<A: Address>(
    frame: &mut [u8],
    ip: &IpPacket<A>,
    transport: &Transport,
    side: Side,
    to: (IpAddr, u16),
    hop: Hop,
) -> Option<()> {
    let tuple = ip.tuple(transport);
    translate(frame, ip, side, &tuple, &key(&tuple, side, to), hop)
}

fn facts<A: Address>(ip: &IpPacket<A>, transport: &Transport) -> Facts {
    let tuple = ip.tuple(transport);
    Facts {
        src: (tuple.src.wide().to_ip(), u16::from_be(tuple.src_port_be)),
        dst: (tuple.dst.wide().to_ip(), u16::from_be(tuple.dst_port_be)),
        protocol: tuple.protocol,
        segment: transport.segment,
        ip_offset: ip.ip_offset,
        transport_offset: ip.transport_offset,
        ip_len: ip.ip_len,
        ttl: ip.ttl,
        tos: ip.tos,
    }
}

pub(crate) fn key<A: Address>(tuple: &FlowKey<A>, side: Side, to: (IpAddr, u16)) -> FlowKey<A> {
    let mut key = *tuple;
    let (address, port) = (A::narrow(&WideAddress::from_ip(to.0)), to.1.to_be());
    match side {
        Side::Forward => (key.dst, key.dst_port_be) = (address, port),
        Side::Reverse => (key.src, key.src_port_be) = (address, port),
    }
    key
}
