//! ICMP and ICMPv6 in words, and the bytes that etherparse's headers and checksums make of it.

use std::net::IpAddr;

use anyhow::{Result, bail};
use etherparse::checksum::Sum16BitWords;
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header};
use switcher_tests::lab::Family;

use crate::packet::{INCOMING, Link, Packet, link_header};

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) link: Link,
    /// VLAN ids, the outer one first.
    pub(crate) tags: Vec<u16>,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    /// IPv4 only.
    pub(crate) dont_fragment: bool,
    /// IPv4 only; a multiple of four bytes.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) rest: [u8; 4],
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// On its way in.
    pub(crate) fn new(from: IpAddr, to: IpAddr, [kind, code]: [u8; 2]) -> Self {
        Self {
            link: INCOMING,
            tags: Vec::new(),
            from,
            to,
            ttl: 61,
            tos: 0xc0,
            id: 0x1234,
            dont_fragment: false,
            ip_options: Vec::new(),
            kind,
            code,
            rest: [0; 4],
            body: Vec::new(),
        }
    }

    /// An echo request.
    pub(crate) fn echo_request(from: IpAddr, to: IpAddr, payload: &[u8]) -> Self {
        let kind = match Family::of(to) {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        Self {
            // Identifier and sequence number.
            rest: [0x0b, 0xad, 0, 7],
            body: payload.to_vec(),
            ..Self::new(from, to, [kind, 0])
        }
    }

    /// An error of the node about `frame`, as it came: by the interface that it came in by, back to its sender.
    pub(crate) fn own_error(about: &Packet, kind_and_code: [u8; 2], mtu: u16) -> Result<Self> {
        let packet = about.packet()?;
        let link = Ethernet2Header::LEN + 4 * about.tags.len();
        let headers = about.transport_offset() - link + 8;
        let quoted = packet.len().min(128).max(headers) / 4 * 4;
        Ok(Self {
            link: Link {
                destination: about.link.source,
                source: about.link.destination,
            },
            tags: about.tags.clone(),
            ttl: 64,
            tos: 0,
            id: 0,
            dont_fragment: true,
            rest: u32::from(mtu).to_be_bytes(),
            body: packet[..quoted].to_vec(),
            ..Self::new(about.to.ip(), about.from.ip(), kind_and_code)
        })
    }

    /// As it is on its way out, forwarded by the program.
    pub(crate) fn sent(&self, link: Link) -> Self {
        Self {
            link,
            ttl: self.ttl - 1,
            ..self.clone()
        }
    }

    /// The frame, all checksums computed in full.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let icmp = self.icmp()?;
        let (ether_type, header) = self.ip_header(u16::try_from(icmp.len())?)?;
        Ok([link_header(self.link, &self.tags, ether_type), header, icmp].concat())
    }

    fn ip_header(&self, payload_len: u16) -> Result<(EtherType, Vec<u8>)> {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let mut header = Ipv4Header::new(0, self.ttl, IpNumber::ICMP, from, to)?;
                header.dscp = (self.tos >> 2).try_into()?;
                header.ecn = (self.tos & 3).try_into()?;
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment;
                header.options = Ipv4Options::try_from(&self.ip_options[..])?;
                header.set_payload_len(payload_len.into())?;
                header.header_checksum = header.calc_header_checksum();
                Ok((EtherType::IPV4, header.to_bytes().to_vec()))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    payload_length: payload_len,
                    next_header: IpNumber::IPV6_ICMP,
                    hop_limit: self.ttl,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                Ok((EtherType::IPV6, header.to_bytes().to_vec()))
            }
            (from, to) => bail!("{from} and {to} are of two families"),
        }
    }

    fn icmp(&self) -> Result<Vec<u8>> {
        let mut icmp = [&[self.kind, self.code, 0, 0], &self.rest, &self.body[..]].concat();
        let sum = Sum16BitWords::new().add_slice(&icmp);
        let sum = match (self.from, self.to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => sum
                .add_slice(&from.octets())
                .add_slice(&to.octets())
                .add_slice(&u32::try_from(icmp.len())?.to_be_bytes())
                .add_slice(&[0, IpNumber::IPV6_ICMP.0]),
            _ => sum,
        };
        // The sum takes words as they lie in memory.
        icmp[2..4].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        Ok(icmp)
    }
}
