//! ICMP and ICMPv6: echo requests, and errors that others send about packets of a flow.
//!
//! An error quotes the packet that it is about, as it was on the wire where it failed. So the quoted
//! 5-tuple turned around is that of a packet of the other direction, which finds the flow, and what
//! is a destination outside is a source inside.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{Ethernet, Frame, Header, Hop, IpPacket, OWN_TTL, Tcp, rewrite};
use crate::{
    address::{Address, Ipv4, Ipv6},
    checksum::Delta,
    flow::{FlowEntry, FlowKey, Side},
    service::Protocol,
};

/// The part of the header that all messages have (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub check: [u8; 2],
    /// What it holds depends on the type.
    pub rest: [u8; 4],
}

// SAFETY: a `repr(C)` struct of bytes.
unsafe impl Header for IcmpHeader {}
const _: () = assert!(align_of::<IcmpHeader>() == 1 && size_of::<IcmpHeader>() == ICMP_LEN);

/// Bytes before an error's quote.
pub(super) const ICMP_LEN: usize = 8;

/// What ICMP differs in between the families.
pub trait Icmp: Address {
    /// IP protocol number.
    const PROTOCOL: u8;
    /// Type of an echo request.
    const ECHO_REQUEST: u8;
    /// Type of its answer.
    const ECHO_REPLY: u8;
    /// Type of "time exceeded"; code 0 is "in transit".
    const TIME_EXCEEDED: u8;
    /// Type and code of "fragmentation needed" or "packet too big".
    const TOO_BIG: [u8; 2];

    /// Whether a message of this type quotes a packet.
    fn is_error(kind: u8) -> bool;

    /// Whether an error says what the path's MTU is, and not that nobody is there.
    fn is_too_big(kind: u8, code: u8) -> bool;

    /// Reads the quoted IP header at `offset`. `None` unless it is whole and followed by the
    /// beginning of its transport header.
    fn quoted<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<QuotedIp<Self>>;

    /// Replaces the quoted source (`Forward`) or destination (`Reverse`) by `new`, and says by what
    /// that changes the sum of the quoted header.
    fn readdress<F: Frame + ?Sized>(
        frame: &mut F,
        offset: usize,
        side: Side,
        addresses: Delta,
        new: &Self,
    ) -> Option<Delta>;

    /// Swaps the addresses of the IP header at `offset`, and makes it one of a packet that begins here.
    fn turn<F: Frame + ?Sized>(frame: &mut F, offset: usize) -> Option<()>;

    /// What the change of an outer address adds to the change of the ICMP checksum: ICMPv6's covers a
    /// pseudo-header (RFC 4443, 2.3).
    fn pseudo_header(old: &Self, new: &Self) -> Delta;
}

/// A quoted IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedIp<A> {
    /// Source address.
    src: A,
    /// Destination address.
    dst: A,
    /// IP protocol number of what follows.
    protocol: u8,
    /// Bytes until what follows.
    len: usize,
}

/// The fragment offset (RFC 791).
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;

impl Icmp for Ipv4 {
    const PROTOCOL: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const TIME_EXCEEDED: u8 = 11;
    const TOO_BIG: [u8; 2] = [3, 4];

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, time exceeded, parameter problem. Redirects and source quenches
        // are for hosts, and obsolete or harmful beyond their own link.
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn is_too_big(kind: u8, code: u8) -> bool {
        [kind, code] == Self::TOO_BIG
    }

    #[inline(always)]
    fn quoted<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<QuotedIp<Self>> {
        let header = frame.header::<Ipv4Hdr>(offset)?;
        let len = usize::from(header.vihl & 0x0f) * 4;
        let is_later_fragment = u16::from_be_bytes(header.frags) & IPV4_FRAGMENT_OFFSET != 0;
        if header.vihl >> 4 != 4 || len < size_of::<Ipv4Hdr>() || is_later_fragment {
            return None;
        }
        Some(QuotedIp {
            src: Self::from_octets(header.src_addr),
            dst: Self::from_octets(header.dst_addr),
            protocol: header.proto,
            len,
        })
    }

    #[inline(always)]
    fn readdress<F: Frame + ?Sized>(
        frame: &mut F,
        offset: usize,
        side: Side,
        addresses: Delta,
        new: &Self,
    ) -> Option<Delta> {
        let header = frame.header_mut::<Ipv4Hdr>(offset)?;
        match side {
            Side::Forward => header.src_addr = new.octets(),
            Side::Reverse => header.dst_addr = new.octets(),
        }
        let old = u16::from_ne_bytes(header.check);
        let check = addresses.apply(old);
        header.check = check.to_ne_bytes();
        Some(addresses.word(old, check))
    }

    #[inline(always)]
    fn turn<F: Frame + ?Sized>(frame: &mut F, offset: usize) -> Option<()> {
        let header = frame.header_mut::<Ipv4Hdr>(offset)?;
        (header.src_addr, header.dst_addr) = (header.dst_addr, header.src_addr);
        let old = u16::from_ne_bytes([header.ttl, header.proto]);
        header.ttl = OWN_TTL;
        let ttl = Delta::none().word(old, u16::from_ne_bytes([header.ttl, header.proto]));
        header.check = ttl.apply(u16::from_ne_bytes(header.check)).to_ne_bytes();
        Some(())
    }

    #[inline(always)]
    fn pseudo_header(_old: &Self, _new: &Self) -> Delta {
        Delta::none()
    }
}

impl Icmp for Ipv6 {
    const PROTOCOL: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const TIME_EXCEEDED: u8 = 3;
    const TOO_BIG: [u8; 2] = [2, 0];

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn is_too_big(kind: u8, _code: u8) -> bool {
        // Whatever the code (RFC 4443, 3.2).
        kind == Self::TOO_BIG[0]
    }

    #[inline(always)]
    fn quoted<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<QuotedIp<Self>> {
        let header = frame.header::<Ipv6Hdr>(offset)?;
        (header.vcf[0] >> 4 == 6).then_some(QuotedIp {
            src: Self::from_octets(header.src_addr),
            dst: Self::from_octets(header.dst_addr),
            protocol: header.next_hdr,
            len: size_of::<Ipv6Hdr>(),
        })
    }

    #[inline(always)]
    fn readdress<F: Frame + ?Sized>(
        frame: &mut F,
        offset: usize,
        side: Side,
        addresses: Delta,
        new: &Self,
    ) -> Option<Delta> {
        let header = frame.header_mut::<Ipv6Hdr>(offset)?;
        match side {
            Side::Forward => header.src_addr = new.octets(),
            Side::Reverse => header.dst_addr = new.octets(),
        }
        Some(addresses)
    }

    #[inline(always)]
    fn turn<F: Frame + ?Sized>(frame: &mut F, offset: usize) -> Option<()> {
        let header = frame.header_mut::<Ipv6Hdr>(offset)?;
        (header.src_addr, header.dst_addr) = (header.dst_addr, header.src_addr);
        header.hop_limit = OWN_TTL;
        Some(())
    }

    #[inline(always)]
    fn pseudo_header(old: &Self, new: &Self) -> Delta {
        Delta::none().address(old, new)
    }
}

/// The message of an ICMP packet. `None`: it is shorter than its header.
#[inline(always)]
pub fn message<'a, A: Icmp, F: Frame + ?Sized>(
    frame: &'a F,
    ip: &IpPacket<A>,
) -> Option<&'a IcmpHeader> {
    if !holds(ip, ip.transport_offset + ICMP_LEN) {
        return None;
    }
    frame.header::<IcmpHeader>(ip.transport_offset)
}

/// Whether the packet, by its own length, reaches to `end` at least.
#[inline(always)]
fn holds<A>(ip: &IpPacket<A>, end: usize) -> bool {
    end <= ip.ip_offset + usize::from(ip.ip_len)
}

/// Makes an echo request its answer. `None` when a header is not where the parser found it; then the
/// frame may be half rewritten and must be dropped.
#[inline(always)]
#[must_use]
pub fn answer_echo<A: Icmp, F: Frame + ?Sized>(frame: &mut F, ip: &IpPacket<A>) -> Option<()> {
    let icmp = frame.header_mut::<IcmpHeader>(ip.transport_offset)?;
    let old = u16::from_ne_bytes([icmp.kind, icmp.code]);
    icmp.kind = A::ECHO_REPLY;
    let kind = Delta::none().word(old, u16::from_ne_bytes([icmp.kind, icmp.code]));
    icmp.check = kind.apply(u16::from_ne_bytes(icmp.check)).to_ne_bytes();
    A::turn(frame, ip.ip_offset)?;
    let ethernet = frame.header_mut::<Ethernet>(0)?;
    (ethernet.source, ethernet.destination) = (ethernet.destination, ethernet.source);
    Some(())
}

/// What an error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<A> {
    /// 5-tuple of the flow's packets in the direction of the error.
    pub tuple: FlowKey<A>,
    /// Where the quoted IP header begins in the frame.
    ip_offset: usize,
    /// Where the quoted transport header begins in the frame.
    transport_offset: usize,
    /// Whether its checksum is quoted too.
    has_check: bool,
}

/// Bytes of a transport header that an error quotes at least (RFC 792): the ports, and UDP's checksum.
const QUOTED_TRANSPORT: usize = 8;
/// Where the checksum lies.
const UDP_CHECK: usize = 6;
const TCP_CHECK: usize = 16;
const _: () = assert!(core::mem::offset_of!(Tcp, check) == TCP_CHECK);

/// Reads an error's quote. `None` unless that is a packet of TCP or UDP with its ports, and the
/// error is to the quoted packet's sender.
#[inline(always)]
pub fn quote<A: Icmp, F: Frame + ?Sized>(frame: &F, ip: &IpPacket<A>) -> Option<Quote<A>> {
    let ip_offset = ip.transport_offset + ICMP_LEN;
    let quoted = A::quoted(frame, ip_offset)?;
    let transport_offset = ip_offset + quoted.len;
    let is_tcp = quoted.protocol == Protocol::Tcp as u8;
    let has_ports = is_tcp || quoted.protocol == Protocol::Udp as u8;
    if !has_ports || quoted.src != ip.dst || !holds(ip, transport_offset + QUOTED_TRANSPORT) {
        return None;
    }
    let [a, b, c, d] = *frame.header::<[u8; 4]>(transport_offset)?;
    Some(Quote {
        tuple: FlowKey {
            src: quoted.dst,
            dst: quoted.src,
            src_port_be: u16::from_ne_bytes([c, d]),
            dst_port_be: u16::from_ne_bytes([a, b]),
            protocol: quoted.protocol,
            reserved: [0; 3],
        },
        ip_offset,
        transport_offset,
        has_check: !is_tcp || holds(ip, transport_offset + TCP_CHECK + 2),
    })
}

/// Translates an error about a packet of the flow whose `entry` [`Quote::tuple`] found: outside as any
/// packet of that direction, inside the other way round. `None` as for [`answer_echo`].
#[inline(always)]
#[must_use]
pub fn translate_error<A: Icmp, F: Frame + ?Sized>(
    frame: &mut F,
    ip: &IpPacket<A>,
    quote: &Quote<A>,
    entry: &FlowEntry<A>,
    hop: Hop,
) -> Option<()> {
    let (from, to) = (&quote.tuple, quote.tuple.translated(entry));
    let side = entry.side();
    let (outer, old, old_port) = match side {
        Side::Forward => (&ip.dst, &from.dst, from.dst_port_be),
        // The error may be from a router before the backend: it is from the VIP then too.
        Side::Reverse => (&ip.src, &from.src, from.src_port_be),
    };
    let (new, new_port) = (&entry.rewrite_addr, entry.rewrite_port_be);
    let addresses = Delta::none().address(old, new);
    let ports = Delta::none().word(old_port, new_port);
    let check = transport(frame, quote, side, new_port, addresses.and(ports))?;
    let header = A::readdress(frame, quote.ip_offset, side, addresses, new)?;
    let icmp = frame.header_mut::<IcmpHeader>(ip.transport_offset)?;
    icmp.check = header
        .and(ports)
        .and(check)
        .and(A::pseudo_header(outer, new))
        .apply(u16::from_ne_bytes(icmp.check))
        .to_ne_bytes();
    let addresses = Delta::none().address(outer, new);
    rewrite::network(frame, ip.ip_offset, side, &to, addresses, hop)
}

/// Replaces the quoted port, and updates the quoted checksum by `delta`. Returns what the new
/// checksum changes.
#[inline(always)]
fn transport<A: Icmp, F: Frame + ?Sized>(
    frame: &mut F,
    quote: &Quote<A>,
    side: Side,
    port_be: u16,
    delta: Delta,
) -> Option<Delta> {
    let at = quote.transport_offset;
    let port = match side {
        Side::Forward => at,
        Side::Reverse => at + 2,
    };
    *frame.header_mut::<[u8; 2]>(port)? = port_be.to_ne_bytes();
    if !quote.has_check || cfg!(mutant = "fault-quoted-checksum") {
        return Some(Delta::none());
    }
    let (field, old, new) = if quote.tuple.is_tcp() {
        let field = frame.header_mut::<[u8; 2]>(at + TCP_CHECK)?;
        let old = u16::from_ne_bytes(*field);
        (field, old, delta.apply(old))
    } else {
        let field = frame.header_mut::<[u8; 2]>(at + UDP_CHECK)?;
        let old = u16::from_ne_bytes(*field);
        (field, old, delta.apply_udp(old))
    };
    *field = new.to_ne_bytes();
    Some(Delta::none().word(old, new))
}
