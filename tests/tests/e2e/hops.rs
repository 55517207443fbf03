//! The way to hosts changes under load, which the program keeps for established flows: connections notice nothing,
//! but that some segments are sent again.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Host, Lab, Router, Topology, add_link},
    node::LabService,
    skip_unless_lab,
    traffic::{Backends, Client, HttpNew, Load, LongLived},
};

use crate::mixed::LIMIT;

/// A link address that a host gets instead of its own, or that nobody has.
pub(crate) const OTHER_MAC: &str = "02:00:00:00:99:01";

/// A second way from the node to a host: names of the link's ends, their addresses, and who is reached by it.
struct SecondWay {
    host: &'static str,
    near: &'static str,
    far: &'static str,
    ends: [[&'static str; 2]; 2],
    destinations: Vec<IpAddr>,
}

/// The client is behind a router, blue's host is not.
pub(crate) fn behind_a_router(backends_per_color: u8) -> Topology {
    let mut topology = Topology::two_colors(backends_per_color);
    topology.links[0].router = Some(Router {
        host: "client-router",
        near_mtu: None,
        path_mtu: None,
    });
    topology
}

/// Has a host's `ip` do something.
pub(crate) fn ip(host: &Host, arguments: &str) -> Result<()> {
    let status = host.command("ip").args(arguments.split(' ')).status()?;
    ensure!(
        status.success(),
        "`ip {arguments}` on {}: {status}",
        host.name()
    );
    Ok(())
}

/// A host on the node's interface `near` gets another link address, and the node hears of it.
fn change_mac(lab: &Lab, host: &str, near: &str, addresses: &[IpAddr]) -> Result<()> {
    ip(
        lab.host(host)?,
        &format!("link set dev {FAR_INTERFACE} address {OTHER_MAC}"),
    )?;
    for address in addresses {
        ip(
            lab.node(),
            &format!("neigh replace {address} lladdr {OTHER_MAC} dev {near} nud permanent"),
        )?;
    }
    Ok(())
}

impl SecondWay {
    /// The node's ways go by the link, which is made here.
    fn take(&self, lab: &Lab) -> Result<()> {
        let (node, host) = (lab.node(), lab.host(self.host)?);
        let Self { near, far, .. } = self;
        add_link(node, near, host, far, lab.topology().mtu)?;
        for (end, (host, name)) in [(node, near), (host, far)].into_iter().enumerate() {
            let [v4, v6] = self.ends.map(|it| it[end]);
            ip(host, &format!("addr add {v4}/24 dev {name}"))?;
            ip(host, &format!("addr add {v6}/64 dev {name} nodad"))?;
            ip(host, &format!("link set dev {name} up"))?;
        }
        for destination in &self.destinations {
            let gateway = self.ends[Family::of(*destination) as usize][1];
            ip(
                node,
                &format!("route add {destination} via {gateway} dev {near}"),
            )?;
        }
        Ok(())
    }
}

/// Each has more answers than before, and no connection is left out.
fn all_go_on(loads: &[(&'static str, Load)]) -> Result<()> {
    let before: Vec<_> = loads.iter().map(|(_, load)| load.snapshot()).collect();
    for ((what, load), before) in loads.iter().zip(before) {
        load.wait_until(LIMIT, |now| {
            let mut of_each = now.connections.iter().zip(&before.connections);
            of_each.all(|(now, before)| now.answered > before.answered)
                && now.answered >= before.answered + 20
        })
        .with_context(|| (*what).to_owned())?;
    }
    Ok(())
}

fn ways_change_under_load(is_agent_killed: bool) -> Result<()> {
    let lab = Lab::builder().topology(behind_a_router(2)).build()?;
    let _backends = Backends::start(&lab)?;
    let mut node = crate::start(&lab)?;
    let client = Client::new(lab.client());
    let mut loads = Vec::new();
    for family in Family::ALL {
        let web = LabService::web(0).target(&lab, family);
        let stream = LabService::stream(1).target(&lab, family);
        loads.extend([
            ("requests", client.http_new(web, HttpNew::per_second(50))),
            (
                "lasting connections",
                client.long_lived(stream, LongLived::default()),
            ),
        ]);
    }
    all_go_on(&loads)?;
    if is_agent_killed {
        node.kill_agent()?;
    }
    let blues: Vec<_> = Family::ALL
        .into_iter()
        .flat_map(|family| lab.backends(Color::Blue, family))
        .collect();
    let routers: [IpAddr; 2] = ["10.101.0.2".parse()?, "fe80::1:2".parse()?];
    let [to_blue, to_client] = [
        SecondWay {
            host: "blue",
            near: "b9",
            far: "eth9",
            ends: [["10.99.0.1", "10.99.0.2"], ["fd00:99::1", "fd00:99::2"]],
            destinations: blues.clone(),
        },
        SecondWay {
            host: "client-router",
            near: "c9",
            far: "eth9",
            ends: [["10.98.0.1", "10.98.0.2"], ["fd00:98::1", "fd00:98::2"]],
            destinations: Family::ALL
                .into_iter()
                .flat_map(|family| lab.topology().links[0].far_addresses(family))
                .collect(),
        },
    ];
    let changes: [(&str, &dyn Fn() -> Result<()>); 6] = [
        ("another link address of the backends", &|| {
            change_mac(&lab, "blue", "b", &blues)
        }),
        ("another link address of the client's gateway", &|| {
            change_mac(&lab, "client-router", "c1", &routers)
        }),
        (
            "another route to the backends, by another interface",
            &|| to_blue.take(&lab),
        ),
        (
            "another route to the client's gateway, by another interface",
            &|| to_client.take(&lab),
        ),
        ("the interface to the backends is gone", &|| {
            ip(lab.node(), &format!("link del dev {}", to_blue.near))
        }),
        ("the interface to the client's gateway is down", &|| {
            ip(lab.node(), &format!("link set dev {} down", to_client.near))
        }),
    ];
    for (what, change) in changes {
        change().context(what)?;
        all_go_on(&loads).with_context(|| format!("after {what}"))?;
    }
    for (what, load) in loads {
        let stats = load.finish();
        ensure!(stats.is_clean(), "{what}: {:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn no_connection_breaks_when_the_way_to_a_backend_or_client_changes_under_load() -> Result<()> {
    skip_unless_lab!(Ok(()));
    ways_change_under_load(false)
}

#[test]
fn g4_no_connection_breaks_when_ways_change_under_load_and_the_agent_was_killed() -> Result<()> {
    skip_unless_lab!(Ok(()));
    ways_change_under_load(true)
}
