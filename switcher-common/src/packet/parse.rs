//! From the bytes of a frame to a 5-tuple: the addresses first, which say whether the packet is ours;
//! then, of a packet that is, its extension headers, its lengths, and its transport header.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use super::{Chain, FragmentKey, Frame, Part, Tcp, extension, field::Field as _, icmp::Icmp};
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
    /// IP protocol number of the transport header; before [`Network::extensions`], what the fixed header
    /// says.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Which part of a datagram it is.
    pub part: Part,
    /// Protocol by which the fragments of its datagram are told from others'.
    pub fragment_protocol: u8,
    /// Identification of its datagram, if it is a fragment.
    pub identification: u32,
    /// Where its fragment header begins in the frame; 0 without one, as IPv4 is.
    pub fragment_offset: usize,
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
    /// Whether it is TCP.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == Protocol::Tcp as u8
    }

    /// Whether its time to live lets it be sent on.
    #[inline(always)]
    #[must_use]
    pub const fn may_travel(&self) -> bool {
        self.ttl > 1
    }

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
const PORTS_LEN: u16 = 4;
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
pub trait Network: Icmp {
    /// Reads the header at `ip_offset`.
    fn network<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Self>>;

    /// Whether `protocol` is an extension header's number. IPv4 has none.
    fn is_extension(protocol: u8) -> bool;

    /// Steps over the extension headers of `ip`, whose protocol is one's number. The error is the
    /// reason to drop a packet that is ours.
    fn extensions<F: Frame + ?Sized>(frame: &F, ip: &mut IpPacket<Self>) -> Result<(), Reason>;
}

/// In the field of flags and fragment offset (RFC 791).
const IPV4_OFFSET: u16 = 0x1fff;
const IPV4_MORE: u16 = 0x2000;

impl Network for Ipv4 {
    #[inline(always)]
    fn network<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Self>> {
        ipv4(frame, ip_offset)
    }

    #[inline(always)]
    fn is_extension(_protocol: u8) -> bool {
        false
    }

    #[inline(always)]
    fn extensions<F: Frame + ?Sized>(_frame: &F, _ip: &mut IpPacket<Self>) -> Result<(), Reason> {
        Ok(())
    }
}

impl Network for Ipv6 {
    #[inline(always)]
    fn network<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Self>> {
        ipv6(frame, ip_offset)
    }

    #[inline(always)]
    fn is_extension(protocol: u8) -> bool {
        extension::begins(protocol)
    }

    #[inline(always)]
    fn extensions<F: Frame + ?Sized>(frame: &F, ip: &mut IpPacket<Self>) -> Result<(), Reason> {
        step_over(frame, ip).ok_or(Reason::ExtensionHeaders)
    }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Ipv4>> {
    let header = frame.header::<Ipv4Hdr>(ip_offset)?;
    let header_len = usize::from(header.vihl & 0x0f) * 4;
    let ip_len = u16::from_be(header.tot_len.get());
    let flags_and_offset = u16::from_be(header.frags.get());
    Some(IpPacket {
        src: Ipv4(header.src_addr.get()),
        dst: Ipv4(header.dst_addr.get()),
        ip_offset,
        transport_offset: ip_offset + header_len,
        ip_len,
        protocol: header.proto,
        ttl: header.ttl,
        tos: header.tos,
        part: Part::of(flags_and_offset, IPV4_OFFSET, IPV4_MORE),
        fragment_protocol: header.proto,
        identification: u16::from_be(header.id.get()).into(),
        fragment_offset: 0,
        is_malformed: header.vihl >> 4 != 4
            || header_len < size_of::<Ipv4Hdr>()
            || usize::from(ip_len) < header_len,
    })
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Option<IpPacket<Ipv6>> {
    let header = frame.header::<Ipv6Hdr>(ip_offset)?;
    let payload_len = u16::from_be(header.payload_len.get());
    let [first, second, ..] = *frame.header::<[u8; 4]>(ip_offset)?;
    let protocol = header.next_hdr;
    Some(IpPacket {
        src: Ipv6(header.src_addr.get()),
        dst: Ipv6(header.dst_addr.get()),
        ip_offset,
        transport_offset: ip_offset + size_of::<Ipv6Hdr>(),
        ip_len: payload_len.saturating_add(IPV6_LEN),
        protocol,
        ttl: header.hop_limit,
        tos: (first << 4) | (second >> 4),
        part: Part::Whole,
        fragment_protocol: protocol,
        identification: 0,
        fragment_offset: 0,
        is_malformed: first >> 4 != 6,
    })
}

#[inline(always)]
fn step_over<F: Frame + ?Sized>(frame: &F, ip: &mut IpPacket<Ipv6>) -> Option<()> {
    let start = ip.transport_offset;
    let end = ip.end().min(frame.len());
    let Chain {
        protocol,
        len,
        fragment_at,
    } = extension::walk(frame, start, end, ip.protocol)?;
    if let Some(at) = fragment_at {
        let [next, _, a, b, identification @ ..] = *frame.header::<[u8; 8]>(start + at)?;
        let offset_and_more = u16::from_be_bytes([a, b]);
        ip.part = Part::of(offset_and_more, extension::OFFSET, extension::MORE);
        ip.fragment_protocol = next;
        ip.identification = u32::from_be_bytes(identification);
        ip.fragment_offset = start + at;
    }
    ip.transport_offset = start + len;
    ip.protocol = protocol;
    Some(())
}

impl<A: Network> IpPacket<A> {
    /// Where the packet ends in the frame, by its own length.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> usize {
        self.ip_offset + self.ip_len as usize
    }

    /// Bytes behind its IP headers, by its own length.
    #[inline(always)]
    #[must_use]
    pub fn transport_len(&self) -> u16 {
        let headers_len = self.transport_offset - self.ip_offset;
        u16::try_from(usize::from(self.ip_len).saturating_sub(headers_len)).unwrap_or(0)
    }

    /// Whether its protocol is an extension header's number, so that [`Network::extensions`] is due.
    #[inline(always)]
    #[must_use]
    pub fn has_extensions(&self) -> bool {
        A::is_extension(self.protocol)
    }

    /// What the fragments of its datagram have in common.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_key(&self) -> FragmentKey<A> {
        FragmentKey {
            src: self.src,
            dst: self.dst,
            identification: if cfg!(mutant = "fault-fragment-id") {
                0
            } else {
                self.identification
            },
            protocol: self.fragment_protocol,
            reserved: [0; 3],
        }
    }

    /// Why a later fragment has no ports: its first one is not known, or no datagram of its kind has
    /// any.
    #[inline(always)]
    #[must_use]
    pub fn why_no_ports(&self) -> Reason {
        let is_known = Protocol::from_number(self.protocol).is_some();
        if is_known || self.protocol == A::PROTOCOL || A::is_extension(self.protocol) {
            Reason::Fragment
        } else {
            Reason::OtherProtocol
        }
    }
}

/// Whether the packet's length fields can be true. The error is the reason to drop it if it is ours.
#[inline(always)]
pub fn complete<A: Network, F: Frame + ?Sized>(frame: &F, ip: &IpPacket<A>) -> Result<(), Reason> {
    if ip.is_malformed {
        Err(Reason::BadHeader)
    } else if ip.end() > frame.len() {
        Err(Reason::Truncated)
    } else {
        Ok(())
    }
}

/// Reads the transport header of a [`complete`] packet that is ours and no later fragment. The error
/// is the reason why it has no 5-tuple; whether that means pass or drop depends on whose address it is
/// to.
#[inline(always)]
pub fn transport<A: Network, F: Frame + ?Sized>(
    frame: &F,
    ip: &IpPacket<A>,
) -> Result<Transport, Reason> {
    match Protocol::from_number(ip.protocol) {
        Some(Protocol::Tcp) => tcp(frame, ip, ip.transport_len()),
        Some(Protocol::Udp) => udp(frame, ip, ip.transport_len()),
        None if ip.protocol == A::PROTOCOL && ip.part != Part::Whole => Err(Reason::Fragment),
        None => Err(Reason::OtherProtocol),
    }
}

/// The 5-tuple of a packet that [`transport`] refused, if its ports are there.
#[inline(always)]
pub fn ports<A: Network, F: Frame + ?Sized>(frame: &F, ip: &IpPacket<A>) -> Option<FlowKey<A>> {
    Protocol::from_number(ip.protocol)?;
    if ip.transport_len() < PORTS_LEN {
        return None;
    }
    let [a, b, c, d] = *frame.header::<[u8; PORTS_LEN as usize]>(ip.transport_offset)?;
    Some(ip.tuple(&Transport {
        src_port_be: u16::from_ne_bytes([a, b]),
        dst_port_be: u16::from_ne_bytes([c, d]),
        segment: Segment::default(),
    }))
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
        seq: u32::from_be(header.seq.get()),
        ack: u32::from_be(header.ack.get()),
        payload_len: transport_len - header_len,
    };
    Ok(Transport {
        src_port_be: header.source.get(),
        dst_port_be: header.destination.get(),
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
    let len = u16::from_be(header.len.get());
    // A first fragment has the length of the whole datagram.
    let is_beyond = len > transport_len && ip.part == Part::Whole;
    if len < UDP_LEN || is_beyond {
        return Err(Reason::BadHeader);
    }
    Ok(Transport {
        src_port_be: header.src.get(),
        dst_port_be: header.dst.get(),
        segment: Segment::default(),
    })
}
