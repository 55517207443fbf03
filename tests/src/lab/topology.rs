//! Who is connected to whom, under which names and addresses. Data only.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use switcher_common::service::Color;

use super::wiring::single;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The version of `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The name of every far host's interface, and of every router's on the node's side.
pub const FAR_INTERFACE: &str = "eth0";

/// The node's name.
pub(super) const NODE: &str = "node";

/// The host that is a switch for links that share an interface of the node.
pub(super) const SWITCH: &str = "switch";

/// What a host is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects to VIPs.
    Client,
    /// Serves one color.
    Backends(Color),
}

/// The way between the node and another host.
///
/// The far host's networks are `10.<number>.0.0/24` and `fd00:<number>::/64`; its gateway, the node
/// or a router, is number 1 in both. Links that name the same interface of the node share it by a
/// switch: their hosts see each other's frames, yet reach each other over their gateways only.
#[derive(Clone, Debug)]
pub struct Link {
    /// The host at the far end, where the interface is called [`FAR_INTERFACE`].
    pub host: &'static str,
    /// What that host is there for.
    pub role: Role,
    /// The name of the node's interface.
    pub node_interface: &'static str,
    /// The number of the link's networks, at most 100.
    pub number: u8,
    /// The last part of each address of the far host, in both networks.
    pub far: Vec<u8>,
    /// What stands between the node and the far host.
    pub router: Option<Router>,
}

/// A router between the node and a host.
///
/// The node and the router are each other's next hop: in IPv4 by addresses of `10.<100 + number of
/// the link>.0.0/24`, in IPv6 by link-local ones.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    /// The router's name.
    pub host: &'static str,
    /// MTU of the link between the node and the router, in bytes; `None` is [`Topology::mtu`].
    pub near_mtu: Option<u32>,
    /// The largest packet that the router forwards, in bytes, when it is smaller than its links
    /// take: as if a narrow link lay behind it, in both directions.
    pub path_mtu: Option<u32>,
}

impl Link {
    /// Address `last` of the far host's network; 0 is the network's own.
    pub(super) fn address(&self, family: Family, last: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, self.number, 0, last).into(),
            Family::V6 => {
                let (number, last) = (u16::from(self.number), u16::from(last));
                Ipv6Addr::new(0xfd00, number, 0, 0, 0, 0, 0, last).into()
            }
        }
    }

    /// Address `last` between the node (1) and a router (2).
    pub(super) fn transit(&self, family: Family, last: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 100 + self.number, 0, last).into(),
            Family::V6 => {
                let (number, last) = (u16::from(self.number), u16::from(last));
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, number, last).into()
            }
        }
    }

    /// The far host's gateway: the node, or the router.
    #[must_use]
    pub fn gateway(&self, family: Family) -> IpAddr {
        self.address(family, 1)
    }

    /// The node's address on this link.
    #[must_use]
    pub fn node_address(&self, family: Family) -> IpAddr {
        if self.router.is_some() {
            self.transit(family, 1)
        } else {
            self.gateway(family)
        }
    }

    /// The far host's addresses on this link.
    #[must_use]
    pub fn far_addresses(&self, family: Family) -> Vec<IpAddr> {
        self.far
            .iter()
            .map(|&last| self.address(family, last))
            .collect()
    }
}

/// A node with its links and VIPs.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The links of the node.
    pub links: Vec<Link>,
    /// How many VIPs of each family there are, at most 250.
    pub vip_count: u8,
    /// Whether the VIPs are addresses of the node's `lo`; else they are only routed to the node.
    pub vips_on_lo: bool,
    /// MTU of all links, in bytes.
    pub mtu: u32,
}

impl Topology {
    /// Two clients and one host for each color with `backends_per_color` addresses per family.
    #[must_use]
    pub fn two_colors(backends_per_color: u8) -> Self {
        let link = |host, role, node_interface, number, far| Link {
            host,
            role,
            node_interface,
            number,
            far,
            router: None,
        };
        let client = |host, interface, number| link(host, Role::Client, interface, number, vec![2]);
        let color = |color: Color, interface, number| {
            let far = (11..=10 + backends_per_color).collect();
            link(color.name(), Role::Backends(color), interface, number, far)
        };
        let links = vec![
            client("client", "c1", 1),
            client("client2", "c2", 2),
            color(Color::Blue, "b", 3),
            color(Color::Green, "g", 4),
        ];
        Self {
            links,
            vip_count: 3,
            vips_on_lo: true,
            mtu: 1500,
        }
    }

    /// Everything behind one interface of the node, on a switch.
    #[must_use]
    pub fn hairpin() -> Self {
        let mut topology = Self::two_colors(2);
        for link in &mut topology.links {
            link.node_interface = "x";
        }
        topology
    }

    /// Each color has backends in two networks, on two interfaces of the node.
    #[must_use]
    pub fn several_networks() -> Self {
        let mut topology = Self::two_colors(2);
        let more = [(2, "blue2", "b2", 5), (3, "green2", "g2", 6)];
        for (like, host, node_interface, number) in more {
            topology.links.push(Link {
                host,
                node_interface,
                number,
                ..topology.links[like].clone()
            });
        }
        topology
    }

    /// Each backend is a host of its own, at an interface of its own: four of blue, two of green.
    #[must_use]
    pub fn host_per_backend() -> Self {
        let mut topology = Self::two_colors(1);
        let more = [
            (2, "blue2", "b2", 5),
            (2, "blue3", "b3", 6),
            (2, "blue4", "b4", 7),
            (3, "green2", "g2", 8),
        ];
        for (like, host, node_interface, number) in more {
            topology.links.push(Link {
                host,
                node_interface,
                number,
                ..topology.links[like].clone()
            });
        }
        topology
    }

    /// The first client and both colors are behind routers, the second client is not.
    #[must_use]
    pub fn routed() -> Self {
        let mut topology = Self::two_colors(2);
        let routers = [
            (0, "client-router"),
            (2, "blue-router"),
            (3, "green-router"),
        ];
        for (link, host) in routers {
            topology.links[link].router = Some(Router {
                host,
                near_mtu: None,
                path_mtu: None,
            });
        }
        topology
    }

    /// The routers of the links of which `which` holds, to be changed.
    pub fn routers_of(
        &mut self,
        which: impl Fn(Role) -> bool,
    ) -> impl Iterator<Item = &mut Router> {
        let links = self.links.iter_mut().filter(move |link| which(link.role));
        links.filter_map(|link| link.router.as_mut())
    }

    /// The names of the node's interfaces, in the order of the links.
    #[must_use]
    pub fn node_interfaces(&self) -> Vec<&'static str> {
        let mut seen = BTreeSet::new();
        let names = self.links.iter().map(|link| link.node_interface);
        names.filter(|name| seen.insert(*name)).collect()
    }

    /// Those that several links share.
    pub(super) fn shared_interfaces(&self) -> BTreeSet<&'static str> {
        let mut seen = BTreeSet::new();
        let names = self.links.iter().map(|link| link.node_interface);
        names.filter(|name| !seen.insert(*name)).collect()
    }

    /// All hosts, the node first.
    pub(super) fn hosts(&self) -> Vec<&'static str> {
        let mut hosts = vec![NODE];
        hosts.extend(self.links.iter().map(|link| link.host));
        hosts.extend(self.routers());
        if !self.shared_interfaces().is_empty() {
            hosts.push(SWITCH);
        }
        hosts
    }

    /// The names of the routers.
    pub(super) fn routers(&self) -> impl Iterator<Item = &'static str> {
        let routers = self.links.iter().filter_map(|link| link.router);
        routers.map(|router| router.host)
    }

    /// An address of the node that is no VIP, reached by every host.
    #[must_use]
    pub fn node_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(198, 51, 100, 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
        }
    }

    /// VIP number `index`, counted from 0: an address of the documentation networks.
    ///
    /// # Panics
    /// Where there are fewer.
    #[must_use]
    pub fn vip(&self, family: Family, index: u8) -> IpAddr {
        assert!(
            index < self.vip_count,
            "VIP {index} of {}: ask for more",
            self.vip_count
        );
        match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, index + 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(index) + 1).into(),
        }
    }

    /// The addresses of the node's `lo`, as those of a single host.
    pub(super) fn lo_addresses(&self) -> Vec<(IpAddr, u8)> {
        let vips = if self.vips_on_lo { self.vip_count } else { 0 };
        let of = |family| {
            let vips = (0..vips).map(move |index| self.vip(family, index));
            let all = std::iter::once(self.node_address(family)).chain(vips);
            all.map(move |address| (address, single(family)))
        };
        Family::ALL.into_iter().flat_map(of).collect()
    }
}
