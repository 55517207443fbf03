//! ICMP messages: their shape, and the frames that etherparse's headers and checksums make of it.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header};

/// Bytes of the link-layer header of all shapes.
pub(crate) const LINK: usize = Ethernet2Header::LEN;

/// An ICMP or ICMPv6 packet.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) link: [[u8; 6]; 2],
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// Identification and don't-fragment flag; IPv4 only.
    pub(crate) id: (u16, bool),
    /// IPv4 only; whole words.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) rest: [u8; 4],
    /// What follows the 8 bytes of the header.
    pub(crate) body: Vec<u8>,
    /// After the end of the packet.
    pub(crate) padding: Vec<u8>,
}

impl Message {
    /// The frame, all checksums computed in full.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let (ether_type, ip) = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let payload = u16::try_from(8 + self.body.len()).expect("a short packet");
                let (src, dst) = (src.octets(), dst.octets());
                let mut header = Ipv4Header::new(payload, self.ttl, IpNumber::ICMP, src, dst)
                    .expect("a short packet");
                header.dscp = (self.tos >> 2).try_into().expect("six bits");
                header.ecn = (self.tos & 3).try_into().expect("two bits");
                (header.identification, header.dont_fragment) = self.id;
                header.options = Ipv4Options::try_from(&self.ip_options[..]).expect("ten words");
                header
                    .set_payload_len(payload.into())
                    .expect("a short packet");
                header.header_checksum = header.calc_header_checksum();
                (EtherType::IPV4, header.to_bytes().to_vec())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    payload_length: u16::try_from(8 + self.body.len()).expect("a short packet"),
                    next_header: IpNumber::IPV6_ICMP,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                (EtherType::IPV6, header.to_bytes().to_vec())
            }
            _ => panic!("the strategy makes both of one family"),
        };
        let ethernet = Ethernet2Header {
            destination: self.link[0],
            source: self.link[1],
            ether_type,
        };
        let icmp = self.icmp();
        [&ethernet.to_bytes()[..], &ip, &icmp, &self.padding].concat()
    }

    fn icmp(&self) -> Vec<u8> {
        let header = [self.kind, self.code, 0, 0];
        let mut icmp = [&header[..], &self.rest, &self.body].concat();
        let sum = Sum16BitWords::new().add_slice(&icmp);
        let sum = match (self.src, self.dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => sum
                .add_slice(&src.octets())
                .add_slice(&dst.octets())
                .add_slice(&u32::try_from(icmp.len()).expect("short").to_be_bytes())
                .add_slice(&[0, IpNumber::IPV6_ICMP.0]),
            _ => sum,
        };
        // The sum takes words as they lie in memory.
        icmp[2..4].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        icmp
    }
}
