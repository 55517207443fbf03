//! A packet in words, and its bytes: built by etherparse with checksums computed in full, so that
//! what a test expects owes nothing to the code under test.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, TcpHeader, UdpHeader,
};
use switcher_common::service::Protocol;

/// FIN.
pub(crate) const FIN: u8 = 0x01;
/// SYN.
pub(crate) const SYN: u8 = 0x02;
/// RST.
pub(crate) const RST: u8 = 0x04;
/// PSH.
pub(crate) const PSH: u8 = 0x08;
/// ACK.
pub(crate) const ACK: u8 = 0x10;

/// A TCP segment or UDP datagram between two endpoints of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
    /// TCP only.
    pub(crate) flags: u8,
    /// TCP only.
    pub(crate) seq: u32,
    /// TCP only.
    pub(crate) ack: u32,
    /// TCP only.
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// A multiple of four bytes.
    pub(crate) ip_options: Vec<u8>,
    /// IPv6 only.
    pub(crate) extensions: Vec<Extension>,
    /// IPv4 only.
    pub(crate) dont_fragment: bool,
    /// Without it the field is zero; UDP over IPv4 only.
    pub(crate) udp_checksum: bool,
    /// Its checksum is left to hardware: the field has the sum of the pseudo header.
    pub(crate) unfinished: bool,
    /// Bytes after the end of the IP packet, as short frames have them.
    pub(crate) padding: Vec<u8>,
    pub(crate) link: Link,
    /// VLAN ids, the outer one first.
    pub(crate) tags: Vec<u16>,
}

/// An IPv6 extension header: its number, and its bytes behind the number of the next header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) number: u8,
    pub(crate) bytes: Vec<u8>,
}

/// The bytes of a chain of extension headers, of which the last one is followed by `protocol`.
pub(crate) fn chain(extensions: &[Extension], protocol: u8) -> Vec<u8> {
    let next = extensions.iter().skip(1).map(|next| next.number);
    let headers = extensions.iter().zip(next.chain([protocol]));
    let bytes = headers.map(|(header, next)| [&[next][..], &header.bytes].concat());
    bytes.collect::<Vec<_>>().concat()
}

/// The Ethernet addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
}

/// Of frames on their way in: made up, because the program does not look at them.
pub(crate) const INCOMING: Link = Link {
    destination: [0x02, 0, 0, 0, 0, 0x01],
    source: [0x02, 0, 0, 0, 0, 0x02],
};

/// Ethernet, with VLAN tags (802.1ad outside of 802.1Q).
pub(crate) fn link_header(link: Link, tags: &[u16], ether_type: EtherType) -> Vec<u8> {
    let mut header = [link.destination, link.source].concat();
    for (number, tag) in tags.iter().enumerate() {
        let is_outer = number + 1 < tags.len();
        let kind: u16 = if is_outer { 0x88a8 } else { 0x8100 };
        let priority = 5 << 13;
        header.extend(kind.to_be_bytes());
        header.extend((priority | tag).to_be_bytes());
    }
    header.extend(ether_type.0.to_be_bytes());
    header
}

impl Packet {
    fn new(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            from,
            to,
            protocol,
            flags: 0,
            seq: 0,
            ack: 0,
            window: 0xfff0,
            payload: Vec::new(),
            ttl: 64,
            tos: 0,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            dont_fragment: false,
            udp_checksum: true,
            unfinished: false,
            padding: Vec::new(),
            link: INCOMING,
            tags: Vec::new(),
        }
    }

    /// A segment with `flags` and these numbers.
    pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32) -> Self {
        Self {
            flags,
            seq,
            ack,
            ..Self::new(Protocol::Tcp, from, to)
        }
    }

    /// A datagram that says hello.
    pub(crate) fn udp(from: SocketAddr, to: SocketAddr) -> Self {
        Self::new(Protocol::Udp, from, to).payload(b"hello")
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub(crate) fn padding(mut self, padding: &[u8]) -> Self {
        self.padding = padding.to_vec();
        self
    }

    pub(crate) fn tags(mut self, vlan_ids: &[u16]) -> Self {
        self.tags = vlan_ids.to_vec();
        self
    }

    pub(crate) fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self
    }

    pub(crate) fn extensions(mut self, extensions: &[Extension]) -> Self {
        self.extensions = extensions.to_vec();
        self
    }

    pub(crate) fn unfinished(mut self) -> Self {
        self.unfinished = true;
        self
    }

    pub(crate) fn without_udp_checksum(mut self) -> Self {
        self.udp_checksum = false;
        self
    }

    /// The packet as it is on its way out to another destination.
    pub(crate) fn sent_to(&self, to: SocketAddr, link: Link) -> Self {
        Self {
            to,
            link,
            ttl: self.ttl - 1,
            ..self.clone()
        }
    }

    /// The packet as it is on its way out with another source.
    pub(crate) fn sent_from(&self, from: SocketAddr, link: Link) -> Self {
        Self {
            from,
            link,
            ttl: self.ttl - 1,
            ..self.clone()
        }
    }

    /// Where the IP header begins in the frame.
    pub(crate) fn ip_offset(&self) -> usize {
        Ethernet2Header::LEN + 4 * self.tags.len()
    }

    /// Where the transport header begins in the frame.
    pub(crate) fn transport_offset(&self) -> usize {
        let ip = if self.to.is_ipv4() {
            20 + self.ip_options.len()
        } else {
            40 + chain(&self.extensions, 0).len()
        };
        self.ip_offset() + ip
    }

    /// The frame.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let ether_type = match self.to {
            SocketAddr::V4(_) => EtherType::IPV4,
            SocketAddr::V6(_) => EtherType::IPV6,
        };
        let mut frame = link_header(self.link, &self.tags, ether_type);
        frame.extend(self.packet()?);
        if self.unfinished {
            let at = self.checksum_offset();
            let end = frame.len();
            let sum = self.pseudo_header_sum(u32::try_from(end - self.transport_offset())?);
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend(&self.padding);
        Ok(frame)
    }

    /// Where the TCP or UDP checksum is in the frame.
    pub(crate) fn checksum_offset(&self) -> usize {
        self.transport_offset()
            + match self.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
            }
    }

    /// The sum of the pseudo header over `length` bytes of TCP or UDP (RFC 9293, 3.1; RFC 8200, 8.1).
    pub(crate) fn pseudo_header_sum(&self, length: u32) -> u16 {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let addresses = [octets(self.from.ip()), octets(self.to.ip())].concat();
        let words = addresses
            .chunks(2)
            .map(|it| u64::from(it[0]) << 8 | u64::from(it[1]));
        let mut sum = words.sum::<u64>() + self.protocol as u64 + u64::from(length);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }

    /// The IP packet.
    pub(crate) fn packet(&self) -> Result<Vec<u8>> {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.ipv4(from.octets(), to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.ipv6(from.octets(), to.octets()),
            _ => anyhow::bail!("{} and {} are of two families", self.from, self.to),
        }
        .with_context(|| format!("building {self:?}"))
    }

    fn ip_number(&self) -> IpNumber {
        IpNumber(self.protocol as u8)
    }

    fn ipv4(&self, from: [u8; 4], to: [u8; 4]) -> Result<Vec<u8>> {
        let mut header = Ipv4Header::new(0, self.ttl, self.ip_number(), from, to)?;
        header.dscp = (self.tos >> 2).try_into()?;
        header.ecn = (self.tos & 3).try_into()?;
        header.identification = 0x5a5a;
        header.dont_fragment = self.dont_fragment;
        header.options = Ipv4Options::try_from(self.ip_options.as_slice())?;
        let transport = match self.protocol {
            Protocol::Tcp => {
                let mut tcp = self.tcp_header();
                tcp.checksum = tcp.calc_checksum_ipv4(&header, &self.payload)?;
                tcp.to_bytes().to_vec()
            }
            Protocol::Udp if self.udp_checksum => {
                let (from, to) = (self.from.port(), self.to.port());
                let udp = UdpHeader::with_ipv4_checksum(from, to, &header, &self.payload)?;
                udp.to_bytes().to_vec()
            }
            Protocol::Udp => {
                let (from, to) = (self.from.port(), self.to.port());
                let udp = UdpHeader::without_ipv4_checksum(from, to, self.payload.len())?;
                udp.to_bytes().to_vec()
            }
        };
        header.set_payload_len(transport.len() + self.payload.len())?;
        header.header_checksum = header.calc_header_checksum();
        Ok([&header.to_bytes()[..], &transport, &self.payload].concat())
    }

    fn ipv6(&self, from: [u8; 16], to: [u8; 16]) -> Result<Vec<u8>> {
        let mut header = Ipv6Header {
            traffic_class: self.tos,
            next_header: self.ip_number(),
            hop_limit: self.ttl,
            source: from,
            destination: to,
            flow_label: 0x5_a5a5.try_into()?,
            ..Ipv6Header::default()
        };
        let transport = match self.protocol {
            Protocol::Tcp => {
                let mut tcp = self.tcp_header();
                tcp.checksum = tcp.calc_checksum_ipv6(&header, &self.payload)?;
                tcp.to_bytes().to_vec()
            }
            Protocol::Udp => {
                let (from, to) = (self.from.port(), self.to.port());
                let udp = UdpHeader::with_ipv6_checksum(from, to, &header, &self.payload)?;
                udp.to_bytes().to_vec()
            }
        };
        let extensions = chain(&self.extensions, self.protocol as u8);
        if let Some(first) = self.extensions.first() {
            header.next_header = IpNumber(first.number);
        }
        header.set_payload_length(extensions.len() + transport.len() + self.payload.len())?;
        let header = header.to_bytes();
        Ok([&header[..], &extensions, &transport, &self.payload].concat())
    }

    fn tcp_header(&self) -> TcpHeader {
        let has = |flag| self.flags & flag != 0;
        TcpHeader {
            fin: has(FIN),
            syn: has(SYN),
            rst: has(RST),
            psh: has(PSH),
            ack: has(ACK),
            acknowledgment_number: self.ack,
            ..TcpHeader::new(self.from.port(), self.to.port(), self.seq, self.window)
        }
    }
}
