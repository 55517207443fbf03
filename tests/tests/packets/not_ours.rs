//! G11: what belongs to no listener and no flow passes, byte for byte.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::packet::{INCOMING, Packet, SYN};
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;

fn v4(address: IpAddr) -> Result<[u8; 4]> {
    match address {
        IpAddr::V4(address) => Ok(address.octets()),
        IpAddr::V6(_) => anyhow::bail!("{address} is not IPv4"),
    }
}

fn v6(address: IpAddr) -> Result<[u8; 16]> {
    match address {
        IpAddr::V6(address) => Ok(address.octets()),
        IpAddr::V4(_) => anyhow::bail!("{address} is not IPv6"),
    }
}

fn arp(rig: &Rig) -> Result<Vec<u8>> {
    let client = v4(rig.client(Family::V4, 0).ip())?;
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &INCOMING.source,
        &client,
        &[0; 6],
        &v4(rig.lab.vip4(0))?,
    )?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(INCOMING.source, [0xff; 6])
        .arp(packet)
        .write(&mut frame)?;
    Ok(frame)
}

/// A neighbour solicitation for a VIP, to `to`.
fn solicitation(rig: &Rig, to: [u8; 16]) -> Result<Vec<u8>> {
    let client = v6(rig.client(Family::V6, 0).ip())?;
    let target = v6(rig.lab.vip6(0))?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(INCOMING.source, INCOMING.destination)
        .ipv6(client, to, 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &target)?;
    Ok(frame)
}

/// A packet to a VIP with a protocol number that has no ports, such as GRE's.
fn of_protocol(rig: &Rig, family: Family, number: u8) -> Result<Vec<u8>> {
    let kind = Kind::TCP[usize::from(family == Family::V6)];
    let mut frame = first(kind, rig.client(family, 1), rig.vip(kind)).bytes()?;
    frame[if family == Family::V4 { 23 } else { 20 }] = number;
    Ok(frame)
}

#[test]
fn g11_what_is_neither_tcp_nor_udp_passes_untouched() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let group = v6("ff02::1:ff00:1".parse()?)?;
        let vip = v6(lab.vip6(0))?;
        let mut unknown = first(
            Kind::ALL[0],
            rig.client(Family::V4, 1),
            rig.vip(Kind::ALL[0]),
        )
        .bytes()?;
        unknown[12..14].copy_from_slice(&[0x88, 0xcc]);
        let rows = [
            ("ARP for a VIP", arp(rig)?, Reason::LinkMulticast),
            ("LLDP", unknown, Reason::NotIp),
            (
                "a solicitation to the group",
                solicitation(rig, group)?,
                Reason::NotOurs,
            ),
            (
                "a solicitation to the VIP",
                solicitation(rig, vip)?,
                Reason::IcmpUnrelated,
            ),
            (
                "GRE to an IPv4 VIP",
                of_protocol(rig, Family::V4, 47)?,
                Reason::OtherProtocol,
            ),
            (
                "the other family's ICMP to an IPv4 VIP",
                of_protocol(rig, Family::V4, 58)?,
                Reason::OtherProtocol,
            ),
            (
                "SCTP to an IPv6 VIP",
                of_protocol(rig, Family::V6, 132)?,
                Reason::OtherProtocol,
            ),
            (
                "the other family's ICMP to an IPv6 VIP",
                of_protocol(rig, Family::V6, 1)?,
                Reason::OtherProtocol,
            ),
        ];
        for (what, frame, reason) in rows {
            rig.expect_frame(what, &frame, &Expected::untouched(reason))?;
        }
        rig.expect_flows("nothing of it is a flow", 0)
    })
}

#[test]
fn g11_packets_to_no_listener_pass_untouched() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let passed = Expected::untouched(Reason::NotOurs);
        for kind in Kind::ALL {
            let client = rig.client(kind.family, 4000);
            let vip = rig.vip(kind);
            let backend = rig.backend(kind, Color::Blue);
            let others: [(&str, SocketAddr); 4] = [
                ("a port without listener", (vip.ip(), 443).into()),
                (
                    "a VIP without listener",
                    (lab.vip(kind.family, 1), vip.port()).into(),
                ),
                (
                    "the node",
                    (lab.topology().links[0].node_address(kind.family), 80).into(),
                ),
                ("a backend itself", backend),
            ];
            for (what, to) in others {
                let packet = first(kind, client, to);
                rig.expect(&format!("{kind:?} to {what}"), &packet, &passed)?;
            }
            let other = match kind.protocol {
                Protocol::Tcp => Packet::udp(client, vip),
                Protocol::Udp => Packet::tcp(client, vip, SYN, 1, 0),
            };
            rig.expect("the listener's port, another protocol", &other, &passed)?;
            // A datagram from a backend's port to a client would be a reply (G9).
            let to_node = (rig.node_address(kind.family), 53).into();
            let own = match kind.protocol {
                Protocol::Tcp => vec![client, (client.ip(), 53).into(), to_node],
                Protocol::Udp => vec![to_node],
            };
            for to in own {
                let packet = first(kind, backend, to);
                rig.expect(
                    &format!("{kind:?} of a backend, of no flow"),
                    &packet,
                    &passed,
                )?;
            }
        }
        rig.expect_flows("nothing of it is a flow", 0)
    })
}

#[test]
fn g11_an_ipv4_vip_in_ipv6_form_is_no_vip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for (v4, v6) in [(Kind::TCP[0], Kind::TCP[1]), (Kind::UDP[0], Kind::UDP[1])] {
            let vip = rig.vip(v4);
            let IpAddr::V4(address) = vip.ip() else {
                anyhow::bail!("{vip} is not IPv4")
            };
            let mapped = (address.to_ipv6_mapped(), vip.port()).into();
            // A backend's address is among those that are looked at more closely.
            for from in [rig.client(Family::V6, 4000), rig.backend(v6, Color::Blue)] {
                let packet = first(v6, from, mapped);
                let passed = Expected::untouched(Reason::NotOurs);
                rig.expect(&format!("{from} to {mapped}"), &packet, &passed)?;
            }
        }
        rig.expect_flows("nothing of it is a flow", 0)
    })
}
