//! Frames from what they are to say, with all checksums good unless a bad one is asked for.

use std::net::{IpAddr, SocketAddr};

use crate::fuzz::model::checksum;
use crate::fuzz::model::types::{ICMP, ICMPV6, TCP, UDP};

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment.
    Tcp {
        /// Flags.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// A multiple of four bytes.
        options: Vec<u8>,
        /// Payload.
        payload: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// Whether it has a checksum.
        has_checksum: bool,
        /// Payload.
        payload: Vec<u8>,
    },
    /// An ICMP message, by its first four bytes' type and code.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// What follows the checksum.
        rest: Vec<u8>,
    },
    /// Anything.
    Raw {
        /// Protocol number.
        protocol: u8,
        /// Bytes.
        payload: Vec<u8>,
    },
}

/// Which fragment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// In units of eight bytes.
    pub offset: u16,
    /// More follow.
    pub more: bool,
    /// Which datagram's; IPv4 has its low 16 bits.
    pub identification: u32,
}

/// A packet to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Source; the port is written for TCP and UDP only.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// IPv4: a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6: chains of extension headers, each with its number, without the next one's.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4: don't fragment.
    pub dont_fragment: bool,
    /// IPv4: which fragment it is.
    pub part: Option<Part>,
    /// What follows.
    pub body: Body,
    /// VLAN tags' control information.
    pub tags: Vec<u16>,
    /// Bytes behind the packet.
    pub padding: usize,
}

impl Draft {
    /// With defaults.
    #[must_use]
    pub fn new(src: SocketAddr, dst: SocketAddr, body: Body) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            tos: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            dont_fragment: true,
            part: None,
            body,
            tags: Vec::new(),
            padding: 0,
        }
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for (depth, tag) in self.tags.iter().enumerate() {
            let is_outer = depth + 1 < self.tags.len();
            let ethertype: u16 = if is_outer { 0x88a8 } else { 0x8100 };
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        let ethertype: u16 = if self.dst.is_ipv4() { 0x0800 } else { 0x86dd };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(self.packet());
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// The IP packet.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let (protocol, body) = self.body();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                self.ipv4([src.octets(), dst.octets()], protocol, &body)
            }
            (src, dst) => self.ipv6(&wide(src), &wide(dst), protocol, &body),
        }
    }

    fn ipv4(&self, ends: [[u8; 4]; 2], protocol: u8, body: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let words = u8::try_from(header_len / 4).expect("at most 60 bytes");
        let mut header = vec![0x40 | words, self.tos];
        header.extend(length(header_len + body.len()));
        let [_, _, id @ ..] = self
            .part
            .map_or(0x5a5a, |it| it.identification)
            .to_be_bytes();
        header.extend(id);
        let part = self
            .part
            .map_or(0, |it| it.offset | u16::from(it.more) << 13);
        header.extend((part | u16::from(self.dont_fragment) << 14).to_be_bytes());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(ends.concat());
        header.extend(&self.options);
        let sum = checksum::of(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(body);
        header
    }

    fn ipv6(&self, src: &[u8; 16], dst: &[u8; 16], protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut numbers = self.extensions.iter().map(|(number, _)| *number);
        let first = numbers.next().unwrap_or(protocol);
        for (_, bytes) in &self.extensions {
            let begin = payload.len();
            payload.extend(bytes);
            payload[begin] = numbers.next().unwrap_or(protocol);
        }
        payload.extend(body);
        let mut packet = vec![0x60 | self.tos >> 4, self.tos << 4, 0x12, 0x34];
        packet.extend(length(payload.len()));
        packet.extend([first, self.ttl]);
        packet.extend(src);
        packet.extend(dst);
        packet.extend(payload);
        packet
    }

    /// Makes it a fragment.
    pub fn set_part(&mut self, part: &Part) {
        if self.dst.is_ipv4() {
            self.part = Some(*part);
            return;
        }
        let mut header = vec![0, 0];
        header.extend((part.offset << 3 | u16::from(part.more)).to_be_bytes());
        header.extend(part.identification.to_be_bytes());
        self.extensions.push((44, header));
    }

    /// Protocol number and bytes of what follows the IP header.
    ///
    /// # Panics
    /// With more TCP options than a header can have.
    #[must_use]
    pub fn body(&self) -> (u8, Vec<u8>) {
        let (protocol, mut bytes, field) = match &self.body {
            Body::Tcp {
                flags,
                seq,
                ack,
                options,
                payload,
            } => {
                let words = u8::try_from(5 + options.len() / 4).expect("at most 15 words");
                let mut bytes = Vec::new();
                bytes.extend(self.src.port().to_be_bytes());
                bytes.extend(self.dst.port().to_be_bytes());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([words << 4, *flags, 0xff, 0xf0, 0, 0, 0, 0]);
                bytes.extend(options);
                bytes.extend(payload);
                (TCP, bytes, Some(16))
            }
            Body::Udp {
                has_checksum,
                payload,
            } => {
                let mut bytes = Vec::new();
                bytes.extend(self.src.port().to_be_bytes());
                bytes.extend(self.dst.port().to_be_bytes());
                bytes.extend(length(8 + payload.len()));
                bytes.extend([0, 0]);
                bytes.extend(payload);
                (UDP, bytes, has_checksum.then_some(6))
            }
            Body::Icmp { kind, code, rest } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                let protocol = if self.dst.is_ipv4() { ICMP } else { ICMPV6 };
                (protocol, bytes, Some(2))
            }
            Body::Raw { protocol, payload } => (*protocol, payload.clone(), None),
        };
        if let Some(field) = field {
            let sum = match checksum::of(&self.covered(protocol, &bytes)) {
                0 if protocol == UDP => 0xffff,
                sum => sum,
            };
            bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        (protocol, bytes)
    }

    /// Puts the sum of the pseudo header into the checksum's field of the frame made from this, as a
    /// sender does that leaves the rest to hardware. Nothing changes where mutation moved the field.
    pub fn leave_unfinished(&self, frame: &mut [u8]) {
        let (protocol, body) = self.body();
        let field = match protocol {
            TCP => 16,
            UDP => 6,
            _ => return,
        };
        let covered = self.covered(protocol, &body);
        let pseudo = &covered[..covered.len() - body.len()];
        let sum = !checksum::of(pseudo);
        let at = frame.len().saturating_sub(body.len() + self.padding) + field;
        if let Some(place) = frame.get_mut(at..at + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Chooses the first word of a UDP datagram's payload so that its checksum would be computed as zero
    /// from `src` to `dst`.
    pub fn make_sum_zero(&mut self, src: SocketAddr, dst: SocketAddr) {
        let sent = Self {
            src,
            dst,
            ..self.clone()
        };
        let Body::Udp { payload, .. } = &mut self.body else {
            return;
        };
        if let Some(word) = payload.first_chunk_mut::<2>() {
            let old = u16::from_be_bytes(*word);
            let (protocol, mut bytes) = sent.body();
            bytes[6..8].fill(0);
            // What is missing to a sum of 0xffff.
            let missing = checksum::of(&sent.covered(protocol, &bytes));
            *word = ones_complement_sum(old, missing).to_be_bytes();
        }
    }

    /// What the body's checksum covers.
    fn covered(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut covered = Vec::new();
        if protocol != ICMP {
            for address in [self.src.ip(), self.dst.ip()] {
                match address {
                    IpAddr::V4(it) => covered.extend(it.octets()),
                    IpAddr::V6(it) => covered.extend(it.octets()),
                }
            }
            covered.extend([0, protocol]);
            covered.extend(length(body.len()));
        }
        covered.extend(body);
        covered
    }
}

fn ones_complement_sum(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(it) => it.to_ipv6_mapped().octets(),
        IpAddr::V6(it) => it.octets(),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    #[test]
    fn what_is_built_is_a_good_packet_to_another_library() {
        for (src, dst) in [
            ("10.1.0.2:4000", "192.0.2.1:80"),
            ("[fd00:1::2]:4000", "[2001:db8::1]:80"),
        ] {
            let (src, dst) = (src.parse().expect("literal"), dst.parse().expect("literal"));
            let body = Body::Tcp {
                flags: SYN,
                seq: 7,
                ack: 0,
                options: vec![2, 4, 5, 0xb4],
                payload: b"odd".to_vec(),
            };
            let frame = Draft::new(src, dst, body).frame();
            let sliced = SlicedPacket::from_ethernet(&frame).expect("it parses");
            let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else {
                panic!("no TCP in {sliced:?}");
            };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (4000, 80));
            let expected = match sliced.net.expect("a network header") {
                etherparse::NetSlice::Ipv4(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    tcp.calc_checksum_ipv4(header.source, header.destination)
                }
                etherparse::NetSlice::Ipv6(ip) => {
                    let header = ip.header().to_header();
                    tcp.calc_checksum_ipv6(header.source, header.destination)
                }
                etherparse::NetSlice::Arp(_) => panic!("ARP"),
            };
            assert_eq!(tcp.checksum(), expected.expect("a short segment"));
        }
    }
}
