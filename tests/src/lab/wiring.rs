//! What a topology is made of: which ends are connected, their addresses, and the routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::topology::{FAR_INTERFACE, Family, Link, NODE, Router};

/// The name of a router's interface on the far host's side.
const ROUTER_FAR: &str = "eth1";

/// One end of a wire: an interface and its addresses, with the prefix that is reached over it.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) host: &'static str,
    pub(super) interface: &'static str,
    pub(super) addresses: Vec<(IpAddr, u8)>,
}

/// Two hosts that are each other's neighbours.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) ends: [End; 2],
    pub(super) mtu: Option<u32>,
}

/// A route of a host. Without a gateway its destination is on the link.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) host: &'static str,
    pub(super) interface: &'static str,
    pub(super) to: (IpAddr, u8),
    pub(super) gateway: Option<IpAddr>,
    /// In bytes, where it is smaller than the interface's.
    pub(super) mtu: Option<u32>,
}

/// Length of the prefix of a network, in bits.
const fn prefix(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// Length of the prefix of a single address, in bits.
pub(super) const fn single(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

const fn default_route(family: Family) -> (IpAddr, u8) {
    match family {
        Family::V4 => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Family::V6 => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

impl End {
    /// With the addresses of both families, each with the length of its prefix.
    fn new(
        host: &'static str,
        interface: &'static str,
        addresses: impl Fn(Family) -> (Vec<IpAddr>, u8),
    ) -> Self {
        let of = |family| {
            let (addresses, prefix) = addresses(family);
            addresses.into_iter().map(move |address| (address, prefix))
        };
        Self {
            host,
            interface,
            addresses: Family::ALL.into_iter().flat_map(of).collect(),
        }
    }
}

impl Link {
    /// From the node outwards.
    pub(super) fn wires(&self) -> Vec<Wire> {
        let far = End::new(self.host, FAR_INTERFACE, |family| {
            (self.far_addresses(family), prefix(family))
        });
        let node = End::new(NODE, self.node_interface, |family| {
            (vec![self.node_address(family)], prefix(family))
        });
        let Some(router) = self.router else {
            return vec![Wire {
                ends: [node, far],
                mtu: None,
            }];
        };
        let near = End::new(router.host, FAR_INTERFACE, |family| {
            (vec![self.transit(family, 2)], prefix(family))
        });
        // The address alone: the route to the network, with its MTU, is among the routes.
        let behind = End::new(router.host, ROUTER_FAR, |family| {
            (vec![self.gateway(family)], single(family))
        });
        vec![
            Wire {
                ends: [node, near],
                mtu: router.near_mtu,
            },
            Wire {
                ends: [behind, far],
                mtu: None,
            },
        ]
    }

    /// The routes that the addresses do not bring along. The far host's are last, so that the node
    /// needs no route to a VIP whose host is not ready.
    pub(super) fn routes(&self) -> Vec<Route> {
        Family::ALL
            .into_iter()
            .flat_map(|it| self.routes_of(it))
            .collect()
    }

    fn routes_of(&self, family: Family) -> Vec<Route> {
        let everything = default_route(family);
        let network = (self.address(family, 0), prefix(family));
        let mut routes = Vec::new();
        if let Some(Router { host, path_mtu, .. }) = self.router {
            routes.extend([
                Route {
                    host: NODE,
                    interface: self.node_interface,
                    to: network,
                    gateway: Some(self.transit(family, 2)),
                    mtu: None,
                },
                Route {
                    host,
                    interface: ROUTER_FAR,
                    to: network,
                    gateway: None,
                    mtu: path_mtu,
                },
                Route {
                    host,
                    interface: FAR_INTERFACE,
                    to: everything,
                    gateway: Some(self.transit(family, 1)),
                    mtu: path_mtu,
                },
            ]);
        }
        routes.push(Route {
            host: self.host,
            interface: FAR_INTERFACE,
            to: everything,
            gateway: Some(self.gateway(family)),
            mtu: None,
        });
        routes
    }
}
