//! The model's parser: etherparse's header slices where a header is sound, bytes where it may not be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    Ethernet2HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice,
    TcpHeaderSlice,
};

use super::types::{TCP, Tuple, UDP, endpoint};

/// Bytes of the fixed headers.
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// IPv6 extension headers that are stepped over, and how many, in how many bytes.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const MAX_EXTENSIONS: usize = 6;
const MAX_EXTENSION_BYTES: usize = 256;

/// The link layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Where the IP header begins.
    pub(super) ip_at: usize,
    /// VLAN tags' control information, outer first.
    pub(super) tags: Vec<u16>,
    /// By the ethertype.
    pub(super) is_v4: bool,
}

/// A part of a larger packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    /// In bytes.
    pub(super) offset: usize,
    /// Whether more follow.
    pub(super) more: bool,
    /// Which packet's.
    pub(super) identification: u32,
    /// The protocol number by which the parts of a packet belong together.
    pub(super) protocol: u8,
    /// Where the IPv6 fragment header begins in the frame.
    pub(super) header: Option<usize>,
}

impl Fragment {
    /// Whether it has the transport header.
    #[must_use]
    pub(super) const fn is_first(&self) -> bool {
        self.offset == 0
    }
}

/// An IP packet, as far as its own header and its extension headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    /// IPv4, not IPv6.
    pub(super) is_v4: bool,
    /// Where its header begins in the frame.
    pub(super) at: usize,
    /// Source.
    pub(super) src: IpAddr,
    /// Destination.
    pub(super) dst: IpAddr,
    /// Time to live or hop limit.
    pub(super) ttl: u8,
    /// By its length field, header included.
    pub(super) len: usize,
    /// Contradicts itself.
    pub(super) is_malformed: bool,
    /// What the fixed header says of what follows.
    pub(super) first: u8,
    /// IPv4: don't fragment.
    pub(super) dont_fragment: bool,
    /// What follows.
    pub(super) upper: Upper,
}

impl Ip {
    /// Whether it is whole, and a message of `protocol` follows its fixed header.
    #[must_use]
    pub(super) fn is_directly(&self, protocol: u8) -> bool {
        let is_whole = matches!(self.upper, Upper::Transport { fragment: None, .. });
        self.first == protocol && is_whole
    }
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upper {
    /// Extension headers beyond the limits.
    Unclear,
    /// A transport header, or the middle of what it began.
    Transport {
        /// IP protocol number.
        protocol: u8,
        /// Where it begins in the frame.
        at: usize,
        /// Of which packet it is a part.
        fragment: Option<Fragment>,
    },
}

/// What a packet says of its flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the flags of a TCP header"
)]
pub(super) struct Segment {
    /// FIN.
    pub(super) fin: bool,
    /// SYN.
    pub(super) syn: bool,
    /// RST.
    pub(super) rst: bool,
    /// ACK.
    pub(super) ack: bool,
    /// Sequence number.
    pub(super) seq: u32,
    /// Acknowledgement number, with or without the flag.
    pub(super) ack_number: u32,
    /// Bytes of payload.
    pub(super) payload: usize,
}

impl Segment {
    /// Behind its last byte.
    #[must_use]
    pub(super) fn end(&self) -> u32 {
        let payload = u32::try_from(self.payload).expect("less than 64 KiB");
        let flags = u32::from(self.syn) + u32::from(self.fin);
        self.seq.wrapping_add(payload).wrapping_add(flags)
    }

    /// Begins a connection.
    #[must_use]
    pub(super) const fn is_initial_syn(&self) -> bool {
        self.syn && !self.ack && !self.rst
    }

    /// Answers one.
    #[must_use]
    pub(super) const fn is_syn_ack(&self) -> bool {
        self.syn && self.ack && !self.rst
    }
}

/// Steps over Ethernet and up to two tags; `None`: no IP header there.
#[must_use]
pub(super) fn link(frame: &[u8]) -> Option<Link> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let mut link = Link {
        ip_at: 14,
        tags: Vec::new(),
        is_v4: false,
    };
    let mut ether_type = ethernet.ether_type().0;
    while link.tags.len() < 2 && matches!(ether_type, 0x8100 | 0x88a8) {
        let tag = SingleVlanHeaderSlice::from_slice(frame.get(link.ip_at..)?).ok()?;
        let bytes = tag.slice();
        link.tags.push(u16::from_be_bytes([bytes[0], bytes[1]]));
        ether_type = tag.ether_type().0;
        link.ip_at += 4;
    }
    let fixed = match ether_type {
        0x0800 => IPV4_LEN,
        0x86dd => IPV6_LEN,
        _ => return None,
    };
    link.is_v4 = ether_type == 0x0800;
    (frame.len() >= link.ip_at + fixed).then_some(link)
}

/// Reads the IP header behind `link`.
#[must_use]
pub(super) fn ip(frame: &[u8], link: &Link) -> Ip {
    if link.is_v4 {
        return ipv4(frame, link.ip_at);
    }
    ipv6(frame, link.ip_at)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn ipv4(frame: &[u8], at: usize) -> Ip {
    let header = &frame[at..at + IPV4_LEN];
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(word(header, 2));
    let flags = word(header, 6);
    let fragment = Fragment {
        offset: usize::from(flags & 0x1fff) * 8,
        more: flags & 0x2000 != 0,
        identification: u32::from(word(header, 4)),
        protocol: header[9],
        header: None,
    };
    let octets = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
    Ip {
        is_v4: true,
        at,
        src: Ipv4Addr::from(octets(12)).into(),
        dst: Ipv4Addr::from(octets(16)).into(),
        ttl: header[8],
        len,
        is_malformed: header[0] >> 4 != 4 || header_len < IPV4_LEN || header_len > len,
        first: header[9],
        dont_fragment: flags & 0x4000 != 0,
        upper: Upper::Transport {
            protocol: header[9],
            at: at + header_len,
            fragment: (fragment.more || fragment.offset > 0).then_some(fragment),
        },
    }
}

fn ipv6(frame: &[u8], at: usize) -> Ip {
    let header = &frame[at..at + IPV6_LEN];
    let octets = |at: usize| -> [u8; 16] { header[at..at + 16].try_into().expect("16 bytes") };
    let len = IPV6_LEN + usize::from(word(header, 4));
    let end = frame.len().min(at + len);
    Ip {
        is_v4: false,
        at,
        src: Ipv6Addr::from(octets(8)).into(),
        dst: Ipv6Addr::from(octets(24)).into(),
        ttl: header[7],
        len,
        is_malformed: header[0] >> 4 != 6,
        first: header[6],
        dont_fragment: true,
        upper: extensions(&frame[..end], header[6], at + IPV6_LEN).unwrap_or(Upper::Unclear),
    }
}

/// Steps over extension headers; `None`: beyond the limits.
fn extensions(packet: &[u8], mut next: u8, begin: usize) -> Option<Upper> {
    let (mut at, mut fragment) = (begin, None);
    for count in 0.. {
        let rest = packet.get(at..).unwrap_or_default();
        let len = match next {
            HOP_BY_HOP if count > 0 => return None,
            FRAGMENT if fragment.is_some() => return None,
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                let segments_left = header.slice()[3];
                if next == ROUTING && segments_left != 0 {
                    return None;
                }
                next = header.next_header().0;
                header.slice().len()
            }
            FRAGMENT => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                // etherparse 0.19 reads these two from other bits than RFC 8200, 4.5, has them in.
                let bits = word(header.slice(), 2);
                fragment = Some(Fragment {
                    offset: usize::from(bits & 0xfff8),
                    more: bits & 1 != 0,
                    identification: header.identification(),
                    protocol: header.next_header().0,
                    header: Some(at),
                });
                next = header.next_header().0;
                header.slice().len()
            }
            _ => break,
        };
        at += len;
        if count >= MAX_EXTENSIONS || at - begin > MAX_EXTENSION_BYTES {
            return None;
        }
        if fragment.is_some_and(|it| !it.is_first()) {
            break;
        }
    }
    // An atomic fragment is a whole packet.
    let fragment = fragment.filter(|it| it.more || !it.is_first());
    Some(Upper::Transport {
        protocol: next,
        at,
        fragment,
    })
}

/// Why a packet has no sound transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Its end is missing.
    Truncated,
    /// It contradicts itself.
    BadHeader,
}

/// Reads TCP or UDP at `at`; a UDP header of a first fragment tells the whole datagram's length.
pub(super) fn segment(
    frame: &[u8],
    ip: &Ip,
    protocol: u8,
    at: usize,
    is_fragment: bool,
) -> Result<(Tuple, Segment), Broken> {
    let end = ip.at + ip.len;
    let bytes = frame.get(at..end).unwrap_or_default();
    let segment = if protocol == TCP {
        tcp(bytes)?
    } else {
        udp(bytes, is_fragment)?
    };
    let tuple = ports(frame, ip, protocol, at).ok_or(Broken::Truncated)?;
    Ok((tuple, segment))
}

/// The 5-tuple, where both ports lie within the packet.
#[must_use]
pub(super) fn ports(frame: &[u8], ip: &Ip, protocol: u8, at: usize) -> Option<Tuple> {
    let end = frame.len().min(ip.at + ip.len);
    let bytes = frame.get(at..end)?.get(..4)?;
    Some(Tuple {
        src: endpoint(ip.src, word(bytes, 0)),
        dst: endpoint(ip.dst, word(bytes, 2)),
        protocol,
    })
}

fn tcp(bytes: &[u8]) -> Result<Segment, Broken> {
    if bytes.len() < 20 {
        return Err(Broken::Truncated);
    }
    // Refuses a data offset below 5 words, or beyond the end.
    let header = TcpHeaderSlice::from_slice(bytes).map_err(|_| Broken::BadHeader)?;
    Ok(Segment {
        fin: header.fin(),
        syn: header.syn(),
        rst: header.rst(),
        ack: header.ack(),
        seq: header.sequence_number(),
        ack_number: header.acknowledgment_number(),
        payload: bytes.len() - usize::from(header.data_offset()) * 4,
    })
}

fn udp(bytes: &[u8], is_fragment: bool) -> Result<Segment, Broken> {
    if bytes.len() < 8 {
        return Err(Broken::Truncated);
    }
    let len = usize::from(word(bytes, 4));
    if len < 8 || (len > bytes.len() && !is_fragment) {
        return Err(Broken::BadHeader);
    }
    Ok(Segment::default())
}

/// Whether a number is that of a protocol with ports that listeners can have.
#[must_use]
pub(super) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

/// Whether a number is that of an extension header that is stepped over.
#[must_use]
pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
    )
}
