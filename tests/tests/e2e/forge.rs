//! Packets that nobody's stack would send: built with etherparse, checksums in full.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};
use switcher_common::flow::{ACK, FIN, RST, SYN};
use switcher_tests::traffic::RawPacket;

const TTL: u8 = 64;

/// What a forged TCP segment says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forged {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) payload: &'static [u8],
}

impl Forged {
    /// The segment as a packet.
    pub(crate) fn between(&self, from: SocketAddr, to: SocketAddr) -> Result<RawPacket> {
        let has = |flag| self.flags & flag != 0;
        let header = TcpHeader {
            fin: has(FIN),
            syn: has(SYN),
            rst: has(RST),
            ack: has(ACK),
            acknowledgment_number: self.ack,
            ..TcpHeader::new(from.port(), to.port(), self.seq, 0xfff0)
        };
        let mut bytes = Vec::new();
        network(from, to)?
            .tcp_header(header)
            .write(&mut bytes, self.payload)
            .with_context(|| format!("building {self:?} of {from} to {to}"))?;
        Ok(RawPacket { bytes, to: to.ip() })
    }
}

/// A datagram.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<RawPacket> {
    let mut bytes = Vec::new();
    network(from, to)?
        .udp(from.port(), to.port())
        .write(&mut bytes, payload)
        .with_context(|| format!("building a datagram of {from} to {to}"))?;
    Ok(RawPacket { bytes, to: to.ip() })
}

fn network(from: SocketAddr, to: SocketAddr) -> Result<PacketBuilderStep<IpHeaders>> {
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            Ok(PacketBuilder::ipv4(from.octets(), to.octets(), TTL))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Ok(PacketBuilder::ipv6(from.octets(), to.octets(), TTL))
        }
        _ => bail!("{from} and {to} are of two families"),
    }
}
