//! The lab that sequences run in: the default one with routes of every kind, and the same as data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope, RouteType};

use super::model::route::{Interface, InterfaceId, Routes, Target, Told};
use super::step::INTERFACES;
use super::world::{self, Ip, at};
use crate::lab::{FAR_INTERFACE, Family, Lab};

/// Forwarding is off on this interface of the node.
const NOT_FORWARDING: &str = "c2";

/// A route that the lab's links do not bring along.
#[derive(Clone, Copy, Debug)]
struct Extra {
    network: u8,
    ip: Ip,
    to: To,
}

#[derive(Clone, Copy, Debug)]
enum To {
    Gateway {
        interface: InterfaceId,
        address: IpAddr,
        mtu: Option<u32>,
    },
    Refused(RouteType),
}

/// Builds it.
pub fn build() -> Result<Lab> {
    Lab::builder().vip_count(world::VIPS).build()
}

/// Adds the routes to the lab's node, and says what all of them are.
pub fn routes(lab: &Lab) -> Result<Routes> {
    let mut routes = links(lab)?;
    for extra in extras() {
        let index = match extra.to {
            To::Gateway { interface, .. } => routes.interfaces[interface].index,
            To::Refused(_) => 0,
        };
        lab.node()
            .block_on(async move { add(extra, index).await })
            .with_context(|| format!("adding {extra:?}"))?;
        routes.prefixes.push(extra.prefix());
    }
    // The client's link-local address, which the lab does not know as a neighbour.
    let mac = lab.client().interface(FAR_INTERFACE)?.mac;
    let index = routes.interfaces[0].index;
    lab.node()
        .block_on(async move { add_neighbour(index, mac).await })?;
    routes.neighbours.insert((0, LINK_LOCAL.into()), mac);
    for family in ["ipv4", "ipv6"] {
        let key = format!("net/{family}/conf/{NOT_FORWARDING}/forwarding");
        lab.node().set_sysctl(&key, "0")?;
    }
    Ok(routes)
}

/// The number of a route's MTU among its metrics (`linux/rtnetlink.h`).
const RTAX_MTU: u32 = 2;

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);

fn extras() -> Vec<Extra> {
    let mut all = Vec::new();
    for ip in [Ip::V4, Ip::V6] {
        let route = |network, to| Extra { network, ip, to };
        let gateway = |interface, address, mtu| To::Gateway {
            interface,
            address,
            mtu,
        };
        all.extend([
            route(world::BEHIND, gateway(0, at(ip, world::CLIENT, 2), None)),
            route(world::BLACKHOLE, To::Refused(RouteType::BlackHole)),
            route(world::UNREACHABLE, To::Refused(RouteType::Unreachable)),
            route(world::PROHIBIT, To::Refused(RouteType::Prohibit)),
            route(
                world::NARROW,
                gateway(2, at(ip, world::BLUE, 11), Some(world::narrow_mtu(ip))),
            ),
        ]);
        if ip == Ip::V6 {
            all.push(route(
                world::BEHIND_LINK_LOCAL,
                gateway(0, LINK_LOCAL.into(), None),
            ));
        }
    }
    all
}

const fn prefix_len(ip: Ip) -> u8 {
    match ip {
        Ip::V4 => 24,
        Ip::V6 => 64,
    }
}

impl Extra {
    fn prefix(&self) -> (IpAddr, u8, Target) {
        let target = match self.to {
            To::Gateway {
                interface,
                address,
                mtu,
            } => Target::Link {
                interface,
                gateway: Some(address),
                mtu,
            },
            To::Refused(_) => Target::Refused,
        };
        (at(self.ip, self.network, 0), prefix_len(self.ip), target)
    }
}

async fn add(extra: Extra, index: u32) -> Result<()> {
    let (network, len, _) = extra.prefix();
    let mut builder = RouteMessageBuilder::<IpAddr>::new().destination_prefix(network, len)?;
    builder = match extra.to {
        To::Gateway { address, .. } => builder.output_interface(index).gateway(address)?,
        To::Refused(kind) => builder.kind(kind).scope(RouteScope::Universe),
    };
    let mut message = builder.build();
    if let To::Gateway { mtu: Some(mtu), .. } = extra.to {
        // Locked: else the kernel forwards by the interface's MTU (`ip_forward_use_pmtu`).
        let metrics = vec![RouteMetric::Lock(1 << RTAX_MTU), RouteMetric::Mtu(mtu)];
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let (connection, handle, _) = rtnetlink::new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    handle.route().add(message).execute().await?;
    Ok(())
}

async fn add_neighbour(index: u32, mac: [u8; 6]) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    let request = handle.neighbours().add(index, LINK_LOCAL.into());
    let added = request.link_layer_address(&mac).replace().execute().await;
    added.context("adding the client's link-local address as a neighbour")
}

/// What the lab's links bring along.
fn links(lab: &Lab) -> Result<Routes> {
    let mut routes = Routes::default();
    for (id, name) in INTERFACES.into_iter().enumerate() {
        let near = lab.node().interface(name)?;
        let mut links = lab.topology().links.iter();
        let link = links.find(|link| link.node_interface == name);
        let link = link.with_context(|| format!("no link at {name}"))?;
        let far = lab.host(link.host)?.interface(FAR_INTERFACE)?.mac;
        routes.interfaces.push(Interface {
            name: near.name,
            index: near.index,
            mac: near.mac,
            mtu: near.mtu,
            forwards: [name != NOT_FORWARDING; 2],
            told: Told::default(),
        });
        for (family, ip) in [(Family::V4, Ip::V4), (Family::V6, Ip::V6)] {
            let own = link.node_address(family);
            routes.own.insert(own);
            routes.prefixes.extend(own_network(id, ip, own));
            if ip == Ip::V4 || name != NOT_FORWARDING {
                routes.prefixes.push(local(last_or_first(own)));
            }
            for address in link.far_addresses(family) {
                routes.neighbours.insert((id, address), far);
            }
        }
    }
    for ip in [Ip::V4, Ip::V6] {
        for index in 0..world::VIPS {
            routes.prefixes.push(local(world::vip(ip, index)));
        }
    }
    routes
        .prefixes
        .push((Ipv4Addr::LOCALHOST.into(), 8, Target::Local));
    Ok(routes)
}

/// A link's network, and the node's address in it.
fn own_network(interface: InterfaceId, ip: Ip, own: IpAddr) -> [(IpAddr, u8, Target); 2] {
    let link = Target::Link {
        interface,
        gateway: None,
        mtu: None,
    };
    [(own, prefix_len(ip), link), local(own)]
}

/// The broadcast of an IPv4 network; the subnet-router anycast of an IPv6 one, which a node has where it
/// forwards.
fn last_or_first(own: IpAddr) -> IpAddr {
    match own {
        IpAddr::V4(it) => Ipv4Addr::from_bits(it.to_bits() | 0xff).into(),
        IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() & !0xff).into(),
    }
}

const fn local(address: IpAddr) -> (IpAddr, u8, Target) {
    let len = if address.is_ipv4() { 32 } else { 128 };
    (address, len, Target::Local)
}
