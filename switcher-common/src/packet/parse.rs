//! From the bytes of a frame to a 5-tuple, in two steps: the addresses first, which say whether the
//! packet is ours, then the transport header of a packet that is.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use super::{Frame, Tcp};
use crate::{
    address::{Address, Ipv4, Ipv6},
    flow::{FlowKey, Segment},
    reason::Reason,
    service::Protocol,
};

/// An IP packet whose transport header has not been read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Where the IP header begins in the frame.
    pub ip_offset: usize,
    /// Where the transport header begins in the frame.
    pub transport_offset: usize,
    /// Bytes of the whole IP packet, header included, by its own length field.
    pub ip_len: u16,
    /// IP protocol number of the transport header.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// It is a part of a larger packet.
    pub is_fragment: bool,
    /// Its header contradicts itself.
    pub is_malformed: bool,
}

/// The transport header of a TCP segment or UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Source port in network byte order.
    pub src_port_be: u16,
    /// Destination port in network byte order.
    pub dst_port_be: u16,
    /// What its flow's state depends on.
    pub segment: Segment,
}

impl<A: Address> IpPacket<A> {
    /// The 5-tuple with the ports of `transport`.
    #[inline(always)]
    #[must_use]
    pub const fn tuple(&self, transport: &Transport) -> FlowKey<A> {
        FlowKey {
            src: self.src,
            dst: self.dst,
            src_port_be: transport.src_port_be,
            dst_port_be: transport.dst_port_be,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }
}

/// Lengths as the packet's length fields count them.
const IPV6_LEN: u16 = 40;
const TCP_LEN: u16 = 20;
const UDP_LEN: u16 = 8;
const _: () = {
    assert!(size_of::<Ipv6Hdr>() == IPV6_LEN as usize);
    assert!(size_of::<Tcp>() == TCP_LEN as usize);
    assert!(size_of::<UdpHdr>() == UDP_LEN as usize);
};

/// Reads the IP header at `ip_offset`; what the ethertype says, `A` is. `None`: it is not all there.
#[inline(always)]
pub fn network<A: Network, F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<A>> {
    A::network(frame, ip_offset)
}

/// What reading an IP header differs in between the families.
pub trait Network: Address {
    /// Reads the header at `ip_offset`.
    fn network<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Self>>;
}

/// More fragments, and the fragment offset (RFC 791).
const IPV4_FRAGMENT: u16 = 0x3fff;

impl Network for Ipv4 {
    #[inline(always)]
    fn network<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Self>> {
        ipv4(frame, ip_offset)
    }
}

impl Network for Ipv6 {
    #[inline(always)]
    fn network<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Self>> {
        ipv6(frame, ip_offset)
    }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Ipv4>> {
    let header = frame.header::<Ipv4Hdr>(ip_offset)?;
    let header_len = usize::from(header.vihl & 0x0f) * 4;
    let ip_len = u16::from_be_bytes(header.tot_len);
    Some(IpPacket {
        src: Ipv4::from_octets(header.src_addr),
        dst: Ipv4::from_octets(header.dst_addr),
        ip_offset,
        transport_offset: ip_offset + header_len,
        ip_len,
        protocol: header.proto,
        ttl: header.ttl,
        tos: header.tos,
        is_fragment: u16::from_be_bytes(header.frags) & IPV4_FRAGMENT != 0,
        is_malformed: header.vihl >> 4 != 4
            || header_len < size_of::<Ipv4Hdr>()
            || usize::from(ip_len) < header_len,
    })
}

/// Next-header number of a fragment (RFC 8200, 4.5).
const IPV6_FRAGMENT: u8 = 44;

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Ipv6>> {
    let header = frame.header::<Ipv6Hdr>(ip_offset)?;
    let payload_len = u16::from_be_bytes(header.payload_len);
    let [first, second, ..] = *frame.header::<[u8; 4]>(ip_offset)?;
    let protocol = header.next_hdr;
    Some(IpPacket {
        src: Ipv6::from_octets(header.src_addr),
        dst: Ipv6::from_octets(header.dst_addr),
        ip_offset,
        transport_offset: ip_offset + size_of::<Ipv6Hdr>(),
        ip_len: payload_len.saturating_add(IPV6_LEN),
        protocol,
        ttl: header.hop_limit,
        tos: (first << 4) | (second >> 4),
        is_fragment: protocol == IPV6_FRAGMENT,
        is_malformed: first >> 4 != 6,
    })
}

/// Reads the transport header of a packet that is ours. The error is the reason why it has no
/// 5-tuple; whether that means pass or drop depends on whose address it is to.
#[inline(always)]
pub fn transport<A: Address, F: Frame + ?Sized>(
    frame: &F,
    ip: &IpPacket<A>,
) -> Result<Transport, Reason> {
    if ip.is_malformed {
        return Err(Reason::BadHeader);
    }
    if ip.is_fragment {
        return Err(Reason::Fragment);
    }
    if ip.ip_offset + usize::from(ip.ip_len) > frame.len() {
        return Err(Reason::Truncated);
    }
    let transport_len =
        u16::try_from(usize::from(ip.ip_len).saturating_sub(ip.transport_offset - ip.ip_offset))
            .unwrap_or(0);
    match Protocol::from_number(ip.protocol) {
        Some(Protocol::Tcp) => tcp(frame, ip, transport_len),
        Some(Protocol::Udp) => udp(frame, ip, transport_len),
        None => Err(Reason::OtherProtocol),
    }
}

#[inline(always)]
fn tcp<A: Address, F: Frame + ?Sized>(
    frame: &F,
    ip: &IpPacket<A>,
    transport_len: u16,
) -> Result<Transport, Reason> {
    let header = frame
        .header::<Tcp>(ip.transport_offset)
        .ok_or(Reason::Truncated)?;
    let header_len = u16::from(header.data_offset >> 4) * 4;
    if transport_len < TCP_LEN {
        return Err(Reason::Truncated);
    }
    if header_len < TCP_LEN || header_len > transport_len {
        return Err(Reason::BadHeader);
    }
    let segment = Segment {
        flags: header.flags,
        seq: u32::from_be_bytes(header.seq),
        ack: u32::from_be_bytes(header.ack),
        payload_len: transport_len - header_len,
    };
    Ok(Transport {
        src_port_be: u16::from_ne_bytes(header.source),
        dst_port_be: u16::from_ne_bytes(header.destination),
        segment,
    })
}

#[inline(always)]
fn udp<A: Address, F: Frame + ?Sized>(
    frame: &F,
    ip: &IpPacket<A>,
    transport_len: u16,
) -> Result<Transport, Reason> {
    let header = frame
        .header::<UdpHdr>(ip.transport_offset)
        .ok_or(Reason::Truncated)?;
    if transport_len < UDP_LEN {
        return Err(Reason::Truncated);
    }
    let len = u16::from_be_bytes(header.len);
    if len < UDP_LEN || len > transport_len {
        return Err(Reason::BadHeader);
    }
    Ok(Transport {
        src_port_be: u16::from_ne_bytes(header.src),
        dst_port_be: u16::from_ne_bytes(header.dst),
        segment: Segment::default(),
    })
}
