//! The frames that are measured: one for each flow, alike but for the client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use serde::Serialize;
use switcher_common::service::Protocol;
use switcher_tests::lab::Family;

/// Bytes that the harness has for each frame.
pub(crate) const ROOM: usize = 128;

/// A frame with what is behind its end.
pub(crate) type Frame = [u8; ROOM];

/// Sequence numbers of the SYNs of client and backend.
const SYN_SEQ: [u32; 2] = [1_000, 5_000];
const WINDOW: u16 = 0xfff0;
const TTL: u8 = 64;
/// Of frames on their way in: made up, since no program looks at them.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const PACKET_TOO_BIG: [u8; 2] = [2, 0];
const MTU_IN_ERROR: [u8; 4] = [0, 0, 5, 0];

/// Client and server of a packet, or server and client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// What a packet is in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Begins a flow: a SYN, or a datagram.
    First,
    /// The backend's SYN-ACK.
    SynAck,
    /// The client's first ACK.
    Ack,
    /// Data from the client.
    FromClient,
    /// Data from the backend.
    FromBackend,
}

/// Length of all frames of a family: the harness copies whole cache lines and halves of them.
pub(crate) const fn frame_len(family: Family) -> usize {
    match family {
        Family::V4 => 64,
        Family::V6 => 96,
    }
}

/// A packet of a flow.
pub(crate) fn packet(protocol: Protocol, ends: Ends, part: Part) -> Result<Frame> {
    let family = Family::of(ends.to.ip());
    let step = match (ends.from.ip(), ends.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            PacketBuilder::ethernet2(MACS[0], MACS[1]).ipv4(from.octets(), to.octets(), TTL)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            PacketBuilder::ethernet2(MACS[0], MACS[1]).ipv6(from.octets(), to.octets(), TTL)
        }
        _ => anyhow::bail!("{ends:?}: two families"),
    };
    let mut bytes = Vec::with_capacity(ROOM);
    let (from, to) = (ends.from.port(), ends.to.port());
    let payload = [0x5a_u8; ROOM];
    let [client, backend] = SYN_SEQ;
    match (protocol, part) {
        (Protocol::Tcp, Part::First) => step
            .tcp(from, to, client, WINDOW)
            .syn()
            .write(&mut bytes, &[])?,
        (Protocol::Tcp, Part::SynAck) => step
            .tcp(from, to, backend, WINDOW)
            .syn()
            .ack(client + 1)
            .write(&mut bytes, &[])?,
        (Protocol::Tcp, Part::Ack) => step
            .tcp(from, to, client + 1, WINDOW)
            .ack(backend + 1)
            .write(&mut bytes, &[])?,
        (Protocol::Tcp, Part::FromClient) => {
            let step = step
                .tcp(from, to, client + 1, WINDOW)
                .psh()
                .ack(backend + 1);
            let payload = &payload[..frame_len(family) - step.size(0)];
            step.write(&mut bytes, payload)?;
        }
        (Protocol::Tcp, Part::FromBackend) => {
            let step = step
                .tcp(from, to, backend + 1, WINDOW)
                .psh()
                .ack(client + 1);
            let payload = &payload[..frame_len(family) - step.size(0)];
            step.write(&mut bytes, payload)?;
        }
        (Protocol::Udp, _) => {
            let step = step.udp(from, to);
            let payload = &payload[..frame_len(family) - step.size(0)];
            step.write(&mut bytes, payload)?;
        }
    }
    Ok(filled(&bytes))
}

/// An error of a router about a packet on its way from `about.from` to `about.to`, which was larger than what fits here.
pub(crate) fn icmp_error(router: IpAddr, about: Ends) -> Result<Frame> {
    let ends = Ends {
        from: about.from,
        to: about.to,
    };
    let quoted = &packet(Protocol::Tcp, ends, Part::FromBackend)?[14..];
    let mut bytes = Vec::with_capacity(ROOM);
    let rest = MTU_IN_ERROR;
    match (router, about.from.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [kind, code] = FRAGMENTATION_NEEDED;
            let step = PacketBuilder::ethernet2(MACS[0], MACS[1])
                .ipv4(from.octets(), to.octets(), TTL)
                .icmpv4_raw(kind, code, rest);
            let quoted = &quoted[..ROOM - step.size(0)];
            step.write(&mut bytes, quoted)?;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [kind, code] = PACKET_TOO_BIG;
            let step = PacketBuilder::ethernet2(MACS[0], MACS[1])
                .ipv6(from.octets(), to.octets(), TTL)
                .icmpv6_raw(kind, code, rest);
            let quoted = &quoted[..ROOM - step.size(0)];
            step.write(&mut bytes, quoted)?;
        }
        _ => anyhow::bail!("{router} and {about:?}: two families"),
    }
    Ok(filled(&bytes))
}

/// The rest is padding, as short frames have it.
fn filled(bytes: &[u8]) -> Frame {
    let mut frame = [0; ROOM];
    frame[..bytes.len()].copy_from_slice(bytes);
    frame
}

/// Client number `index` in the network of `host`, which is one behind a router; an error where there are no more.
pub(crate) fn client(host: IpAddr, index: u32) -> Result<SocketAddr> {
    // Each address has all its ports in turn, so that both vary.
    const ADDRESSES: u32 = 240;
    let port = u16::try_from(1_024 + index / ADDRESSES);
    let port = port.with_context(|| format!("no client is left, {index} were used"))?;
    let last = 10 + index % ADDRESSES;
    let ip = match host {
        IpAddr::V4(host) => IpAddr::V4(Ipv4Addr::from_bits(host.to_bits() & !0xff | last)),
        IpAddr::V6(host) => {
            let net = host.to_bits() & !0xffff_ffff_ffff_ffff;
            IpAddr::V6(Ipv6Addr::from_bits(net | u128::from(last)))
        }
    };
    Ok(SocketAddr::new(ip, port))
}

/// Endpoints of nobody that the lab knows.
pub(crate) fn foreign(random: &mut fastrand::Rng, family: Family) -> Ends {
    let mut end = || {
        let ip: IpAddr = match family {
            Family::V4 => {
                let bits = random.u32(..) & 0x00ff_ffff;
                Ipv4Addr::from_bits(u32::from(random.u8(20..=120)) << 24 | bits).into()
            }
            Family::V6 => {
                let bits = random.u128(..) >> 16;
                Ipv6Addr::from_bits(0x2a00 << 112 | bits).into()
            }
        };
        SocketAddr::new(ip, random.u16(1..))
    };
    Ends {
        from: end(),
        to: end(),
    }
}

/// The ends of a TCP segment or UDP datagram, an error unless all its checksums are right.
pub(crate) fn ends(bytes: &[u8]) -> Result<Ends> {
    let packet = SlicedPacket::from_ethernet(bytes)?;
    let Some(net) = packet.net else {
        anyhow::bail!("no IP packet: {bytes:02x?}");
    };
    let (from, to, is_right) = match &net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            let is_right = header.header_checksum == header.calc_header_checksum();
            let (from, to) = (header.source.into(), header.destination.into());
            (IpAddr::V4(from), IpAddr::V4(to), is_right)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            (from.into(), to.into(), true)
        }
        NetSlice::Arp(_) => anyhow::bail!("no IP packet: {bytes:02x?}"),
    };
    ensure!(is_right, "the IP header's checksum is wrong: {bytes:02x?}");
    let (ports, found, expected) = match (&packet.transport, &net) {
        (Some(TransportSlice::Tcp(tcp)), NetSlice::Ipv4(ip)) => {
            let ip = ip.header();
            let expected = tcp.calc_checksum_ipv4(ip.source(), ip.destination())?;
            (
                [tcp.source_port(), tcp.destination_port()],
                tcp.checksum(),
                expected,
            )
        }
        (Some(TransportSlice::Tcp(tcp)), NetSlice::Ipv6(ip)) => {
            let ip = ip.header();
            let expected = tcp.calc_checksum_ipv6(ip.source(), ip.destination())?;
            (
                [tcp.source_port(), tcp.destination_port()],
                tcp.checksum(),
                expected,
            )
        }
        (Some(TransportSlice::Udp(udp)), NetSlice::Ipv4(ip)) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let expected = header.calc_checksum_ipv4(&ip.header().to_header(), payload)?;
            (
                [header.source_port, header.destination_port],
                header.checksum,
                expected,
            )
        }
        (Some(TransportSlice::Udp(udp)), NetSlice::Ipv6(ip)) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let expected = header.calc_checksum_ipv6(&ip.header().to_header(), payload)?;
            (
                [header.source_port, header.destination_port],
                header.checksum,
                expected,
            )
        }
        _ => anyhow::bail!("neither TCP nor UDP: {bytes:02x?}"),
    };
    ensure!(
        found == expected,
        "the transport checksum is {found:04x}, not {expected:04x}: {bytes:02x?}"
    );
    Ok(Ends {
        from: SocketAddr::new(from, ports[0]),
        to: SocketAddr::new(to, ports[1]),
    })
}

/// A kind of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub(crate) struct Kind {
    pub(crate) family: Family,
    pub(crate) what: What,
}

/// What a kind of packets is, but for the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// As [`Self::Established`], where clients and backends are on one network: it leaves as it came in.
    OneArm(Protocol, Direction),
    /// Of an established flow.
    Established(Protocol, Direction),
    /// A datagram that begins a flow.
    NewUdp,
    /// A SYN that begins a flow.
    Syn,
    /// Of somebody else.
    NotOurs,
    /// An error about a packet of an established TCP flow.
    IcmpError,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the backend.
    Forward,
    /// To the client.
    Reverse,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Forward, Self::Reverse];

    const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> String {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        match self.what {
            What::Established(protocol, direction) => {
                format!("{}{family}_{}", protocol.name(), direction.name())
            }
            What::OneArm(protocol, direction) => {
                format!("{}{family}_{}_one_arm", protocol.name(), direction.name())
            }
            What::NewUdp => format!("udp{family}_new"),
            What::Syn => format!("tcp{family}_syn"),
            What::NotOurs => format!("not_ours{family}"),
            What::IcmpError => format!("icmp{family}_error"),
        }
    }

    /// Whether its packets are of flows that they leave as they are, so that each may come again.
    pub(crate) const fn goes_on(self) -> bool {
        matches!(self.what, What::Established(..) | What::OneArm(..))
    }

    /// Length of its frames.
    pub(crate) const fn frame_len(self) -> usize {
        match self.what {
            What::IcmpError => ROOM,
            _ => frame_len(self.family),
        }
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_as_long_as_the_harness_takes_and_has_right_checksums() {
        for (from, to) in [
            ("10.1.0.9:1024", "192.0.2.1:80"),
            ("[fd00::9]:1", "[fd00::1]:2"),
        ] {
            let sent = Ends {
                from: from.parse().expect("an endpoint"),
                to: to.parse().expect("an endpoint"),
            };
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for part in [
                    Part::First,
                    Part::SynAck,
                    Part::Ack,
                    Part::FromClient,
                    Part::FromBackend,
                ] {
                    let frame = packet(protocol, sent, part).expect("it can be built");
                    let frame = &frame[..frame_len(Family::of(sent.to.ip()))];
                    assert_eq!(ends(frame).expect("it is right"), sent, "{part:?}");
                    let mut broken = frame.to_vec();
                    broken[37] ^= 1;
                    assert!(ends(&broken).is_err(), "{part:?}");
                }
            }
        }
    }

    #[test]
    fn a_million_clients_are_a_million_endpoints_of_one_network() {
        for host in ["10.1.0.2", "fd00:1::2"] {
            let host: IpAddr = host.parse().expect("an address");
            let clients: std::collections::HashSet<_> = (0..1_000_000)
                .filter_map(|index| client(host, index).ok())
                .collect();
            assert_eq!(clients.len(), 1_000_000);
        }
        let host = "10.1.0.2".parse().expect("an address");
        let client = |index| client(host, index).expect("a client");
        assert_eq!(client(241).to_string(), "10.1.0.11:1025");
    }
}
