//! ICMP errors that find their way back through a VIP.

use std::{io, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use switcher_tests::{
    lab::{Family, Lab, Topology},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Backends, Datagrams, IcmpErrors},
};

/// Within which an answer or an error comes on any machine.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_backend_without_a_server_on_the_port_refuses_datagrams() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().topology(Topology::routed()).build()?;
    let service = LabService {
        backend_port: 9_999,
        ..LabService::bulk(0)
    };
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    for family in Family::ALL {
        let target = service.target(&lab, family);
        let mut flow = Datagrams::open(lab.client(), target, LIMIT)?;
        let Err(error) = flow.exchange(100) else {
            bail!("{family:?}: answered by nobody");
        };
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        ensure!(
            kind == Some(io::ErrorKind::ConnectionRefused),
            "{family:?}: {error:#}"
        );
    }
    ensure!(node.packets("icmp_translated")? == 2, "one of each family");
    Ok(())
}

/// The source and destination of a quoted UDP packet, of which only the beginning is there.
fn quoted(packet: &[u8]) -> Result<[(IpAddr, u16); 2]> {
    let packet = LaxSlicedPacket::from_ip(packet).context("the quoted packet")?;
    let addresses = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            [
                header.source_addr().into(),
                header.destination_addr().into(),
            ]
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            [
                header.source_addr().into(),
                header.destination_addr().into(),
            ]
        }
        _ => bail!("neither IPv4 nor IPv6 is quoted"),
    };
    let Some(TransportSlice::Udp(udp)) = packet.transport else {
        bail!("something else than UDP is quoted");
    };
    let [source, destination]: [IpAddr; 2] = addresses;
    Ok([
        (source, udp.source_port()),
        (destination, udp.destination_port()),
    ])
}

/// As traceroute does: the client's router, the node, the backend's router, the backend.
#[test]
fn a_route_to_a_vip_can_be_traced() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().topology(Topology::routed()).build()?;
    let _backends = Backends::start(&lab)?;
    let service = LabService::bulk(0);
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    for family in Family::ALL {
        let target = service.target(&lab, family);
        let client = lab.topology().links[0].far_addresses(family)[0];
        let router = lab.topology().links[0].gateway(family);
        let time_exceeded = match family {
            Family::V4 => (11, 0),
            Family::V6 => (3, 0),
        };
        let errors = IcmpErrors::open(lab.client(), family, LIMIT)?;
        // The node's backends are behind the VIP, and so are their routers.
        for (hops, from) in (1..).zip([router, target.ip(), target.ip()]) {
            let mut flow = Datagrams::open(lab.client(), target, LIMIT)?;
            flow.set_hops(hops)?;
            flow.send(100)?;
            let error = errors
                .next()
                .with_context(|| format!("{family:?}, {hops} hops"))?;
            ensure!(
                (error.from, error.kind) == (from, time_exceeded),
                "{hops} hops: {error:?}"
            );
            let ends = [(client, flow.local()?.port()), (target.ip(), target.port())];
            ensure!(quoted(&error.quoted)? == ends, "{hops} hops: {error:?}");
        }
        let mut flow = Datagrams::open(lab.client(), target, LIMIT)?;
        flow.set_hops(4)?;
        flow.exchange(100).context("far enough")?;
    }
    ensure!(node.packets("time_exceeded_sent")? == 2, "by the program");
    ensure!(
        node.packets("icmp_translated")? == 2,
        "of the backend's router"
    );
    Ok(())
}
