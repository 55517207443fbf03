//! Forwarding on the layouts that real nodes have.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab, Topology},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{
        Backends, Client, ECHO_PORT, EchoServer, Flip, HttpNew, Identity, LongLived, UdpLongLived,
        ping,
    },
};

use crate::mixed::{LIMIT, Mixed};

const SERVICES: [&str; 3] = ["web", "stream", "datagram"];

fn lab(topology: Topology) -> Result<(Lab, Backends)> {
    let lab = Lab::builder().topology(topology).build()?;
    let backends = Backends::start(&lab)?;
    Ok((lab, backends))
}

/// Traffic of every kind, through the node and to the node itself, goes on over two flips.
fn carries_traffic_over_flips(lab: &Lab, node: &Node<'_>) -> Result<()> {
    let own = Family::ALL.map(|family| lab.topology().node_address(family));
    let identity = Identity {
        color: Color::Blue,
        backend: 0,
    };
    let own = own.map(|address| SocketAddr::new(address, ECHO_PORT));
    let _server = EchoServer::start(lab.node(), identity, &own)?;
    let client = Client::new(lab.client());
    let to_node = own.map(|target| client.long_lived(target, LongLived::default()));
    let mixed = Mixed::start(lab)?;
    let mut flips: Vec<Flip> = Vec::new();
    for color in [Color::Green, Color::Blue] {
        flips.push(node.flip(&SERVICES, color)?);
        mixed.goes_on()?;
    }
    mixed.ends_clean_after(&flips)?;
    for load in to_node {
        let stats = load.finish();
        ensure!(stats.is_clean(), "to the node itself: {:?}", stats.samples);
    }
    for target in own {
        ping(lab.client(), target.ip(), 1_000, LIMIT)?;
    }
    Ok(())
}

#[test]
fn a_node_with_one_interface_sends_everything_out_where_it_came_in() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = lab(Topology::hairpin())?;
    let node = crate::start(&lab)?;
    carries_traffic_over_flips(&lab, &node)?;
    ensure!(node.packets("transmitted")? > 1_000, "by the program");
    ensure!(node.packets("redirected")? == 0, "there is one interface");
    Ok(())
}

#[test]
fn backends_in_several_networks_all_serve() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = lab(Topology::several_networks())?;
    let node = crate::start(&lab)?;
    carries_traffic_over_flips(&lab, &node)?;
    for color in [Color::Green, Color::Blue] {
        node.flip(&SERVICES, color)?;
        for family in Family::ALL {
            let target = LabService::web(0).target(&lab, family);
            let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(200));
            let all = lab.backends(color, family).len();
            load.wait_until(LIMIT, |stats| {
                let seen: BTreeSet<_> = stats.fresh.iter().map(|it| it.backend).collect();
                seen.len() == all
            })
            .with_context(|| format!("{all} backends of {color:?}"))?;
            let stats = load.finish();
            ensure!(stats.is_clean(), "{family:?}: {:?}", stats.samples);
        }
    }
    Ok(())
}

#[test]
fn next_hops_may_be_routers_with_link_local_addresses() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = lab(Topology::routed())?;
    let node = crate::start(&lab)?;
    carries_traffic_over_flips(&lab, &node)?;
    ensure!(node.packets("redirected")? > 1_000, "by the program");
    ensure!(
        node.packets("rewritten_no_neighbour")? == 0,
        "all next hops are known"
    );
    Ok(())
}

#[test]
fn vips_may_be_routed_to_the_node_without_being_its_addresses() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let topology = Topology {
        vips_on_lo: false,
        ..Topology::two_colors(2)
    };
    let (lab, _backends) = lab(topology)?;
    let node = crate::start(&lab)?;
    carries_traffic_over_flips(&lab, &node)
}

/// One flow of each family and protocol, each after the node has forgotten all neighbours: it is
/// the first that needs them, on the way to the backend and on the way back.
#[test]
fn neighbours_are_resolved_by_the_first_packet_and_it_arrives() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let topologies = [
        ("two interfaces", Topology::two_colors(1)),
        ("hairpin", Topology::hairpin()),
        ("several networks", Topology::several_networks()),
        ("routed", Topology::routed()),
        (
            "routed VIPs",
            Topology {
                vips_on_lo: false,
                ..Topology::two_colors(1)
            },
        ),
    ];
    for (name, topology) in topologies {
        resolves(topology).with_context(|| name)?;
    }
    Ok(())
}

fn resolves(topology: Topology) -> Result<()> {
    let lab = Lab::builder()
        .topology(topology)
        .permanent_neighbours(false)
        .build()?;
    let _backends = Backends::start(&lab)?;
    let node = crate::start(&lab)?;
    let client = Client::new(lab.client());
    // Hosts that look for their gateway make themselves known to it: not while it is looked at.
    for link in &lab.topology().links {
        for family in Family::ALL {
            let node = lab.topology().node_address(family);
            ping(lab.host(link.host)?, node, 8, LIMIT)?;
        }
    }
    for family in Family::ALL {
        for service in [LabService::stream(1), LabService::datagram(2)] {
            lab.node().forget_neighbours()?;
            let before = node.packets("rewritten_no_neighbour")?;
            let target = service.target(&lab, family);
            let load = if service.name == "stream" {
                client.long_lived(
                    target,
                    LongLived {
                        connections: 1,
                        ..LongLived::default()
                    },
                )
            } else {
                client.udp_long_lived(
                    target,
                    UdpLongLived {
                        flows: 1,
                        ..UdpLongLived::default()
                    },
                )
            };
            load.wait_until(LIMIT, |stats| stats.answered >= 5)?;
            let stats = load.finish();
            ensure!(stats.is_clean(), "{target}: {:?}", stats.samples);
            let unresolved = node.packets("rewritten_no_neighbour")? - before;
            ensure!(unresolved >= 1, "{target}: every neighbour was known");
        }
    }
    ensure!(
        node.packets("syn_retransmit")? == 0,
        "a first packet was lost"
    );
    Ok(())
}
