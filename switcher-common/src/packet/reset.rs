//! Turning a TCP segment into the RST that answers it (RFC 9293, 3.5.2).

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{Ethernet, Frame, IpPacket, Part, Tcp};
use crate::{
    address::{Address, Ipv4},
    checksum::Delta,
    flow::{ACK, RST, Segment},
    service::Protocol,
};

/// Time to live of packets that the node itself sends.
pub const OWN_TTL: u8 = 64;
/// A TCP header without options, in bytes and as the header says it.
const TCP_LEN: u16 = 20;
const TCP_DATA_OFFSET: u8 = 5 << 4;
/// In the first byte of the IPv4 field of flags and fragment offset.
const IPV4_DONT_FRAGMENT: u8 = 0x40;
/// In the last byte of the same field of an IPv6 fragment header.
const MORE_FRAGMENTS: u8 = 1;

/// Makes the frame the RST that answers `segment` of `ip`, back to where it came from. Returns the
/// length that the frame must be cut to; `None` when a header is not where the parser found it.
///
/// With an ACK, the sender expects exactly that number next, and takes the RST whatever it has sent
/// (RFC 5961, 3.2). IP options and extension headers stay. Of an unfinished packet the checksum is again
/// left to hardware: the kernel lets that add the rest, whatever is in the field.
#[inline(always)]
#[must_use]
pub fn answer_with_reset<A: Address, F: Frame + ?Sized>(
    frame: &mut F,
    ip: &IpPacket<A>,
    segment: &Segment,
    is_unfinished: bool,
) -> Option<usize> {
    let len = u16::try_from(ip.transport_offset - ip.ip_offset).ok()? + TCP_LEN;
    let ethernet = frame.header_mut::<Ethernet>(0)?;
    (ethernet.source, ethernet.destination) = (ethernet.destination, ethernet.source);
    if A::AF == Ipv4::AF {
        ipv4(frame, ip.ip_offset, len)?;
    } else {
        ipv6(frame, ip.ip_offset, len)?;
        if ip.part == Part::First {
            // Nothing follows the answer; it is a whole packet then (RFC 6946).
            frame.header_mut::<[u8; 8]>(ip.fragment_offset)?[3] &= !MORE_FRAGMENTS;
        }
    }
    tcp(frame, ip, segment, is_unfinished)?;
    Some(ip.ip_offset + usize::from(len))
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &mut F, offset: usize, len: u16) -> Option<()> {
    let header = frame.header_mut::<Ipv4Hdr>(offset)?;
    let word = |ttl, proto| u16::from_ne_bytes([ttl, proto]);
    let [flags, _] = header.frags;
    let no_fragment = [flags & IPV4_DONT_FRAGMENT, 0];
    // Exchanging the addresses does not change the sum.
    let delta = Delta::none()
        .word(
            u16::from_ne_bytes(header.frags),
            u16::from_ne_bytes(no_fragment),
        )
        .word(u16::from_ne_bytes(header.tot_len), len.to_be())
        .word(word(header.ttl, header.proto), word(OWN_TTL, header.proto));
    (header.src_addr, header.dst_addr) = (header.dst_addr, header.src_addr);
    header.tot_len = len.to_be_bytes();
    header.frags = no_fragment;
    header.ttl = OWN_TTL;
    header.check = delta.apply(u16::from_ne_bytes(header.check)).to_ne_bytes();
    Some(())
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &mut F, offset: usize, len: u16) -> Option<()> {
    let header = frame.header_mut::<Ipv6Hdr>(offset)?;
    (header.src_addr, header.dst_addr) = (header.dst_addr, header.src_addr);
    // The fixed header is 40 bytes, which its length does not count.
    header.payload_len = (len - 40).to_be_bytes();
    header.hop_limit = OWN_TTL;
    Some(())
}

#[inline(always)]
fn tcp<A: Address, F: Frame + ?Sized>(
    frame: &mut F,
    ip: &IpPacket<A>,
    segment: &Segment,
    is_unfinished: bool,
) -> Option<()> {
    let header = frame.header_mut::<Tcp>(ip.transport_offset)?;
    let (seq, ack, flags) = if segment.flags & ACK != 0 {
        (segment.ack, 0, RST)
    } else {
        (0, segment.end_seq(), RST | ACK)
    };
    (header.source, header.destination) = (header.destination, header.source);
    header.seq = seq.to_be_bytes();
    header.ack = ack.to_be_bytes();
    header.data_offset = TCP_DATA_OFFSET;
    header.flags = flags;
    header.window = [0; 2];
    header.urgent = [0; 2];
    let [seq_high, seq_low] = halves(header.seq);
    let [ack_high, ack_low] = halves(header.ack);
    let pseudo_header = Delta::none()
        .added_address(&ip.src)
        .added_address(&ip.dst)
        .added(u16::from(Protocol::Tcp as u8).to_be())
        .added(TCP_LEN.to_be());
    if is_unfinished {
        header.check = (!pseudo_header.checksum()).to_ne_bytes();
        return Some(());
    }
    let sum = pseudo_header
        .added(u16::from_ne_bytes(header.source))
        .added(u16::from_ne_bytes(header.destination))
        .added(seq_high)
        .added(seq_low)
        .added(ack_high)
        .added(ack_low)
        .added(u16::from_ne_bytes([TCP_DATA_OFFSET, flags]));
    header.check = sum.checksum().to_ne_bytes();
    Some(())
}

/// The two words of a number, in wire order.
#[inline(always)]
const fn halves([a, b, c, d]: [u8; 4]) -> [u16; 2] {
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}
