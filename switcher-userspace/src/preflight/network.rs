//! The node's interfaces, routes and neighbours, as far as the checks ask for them.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Netlink;

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) is_up: bool,
    pub(super) has_carrier: bool,
    pub(super) mtu: u32,
    /// The other end of a veth pair, if it is in this namespace.
    pub(super) peer: Option<u32>,
    pub(super) xdp: Vec<XdpProgram>,
}

/// A program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct XdpProgram {
    pub(super) id: u32,
    /// What `ip link set dev X .. off` calls the way it is attached.
    pub(super) keyword: &'static str,
}

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To this node itself.
    Local,
    /// Out of an interface.
    Out { link: u32, next_hop: IpAddr },
    /// Nowhere; the kernel's words.
    Nowhere(String),
}

/// A view of the network namespace of the thread that opened it.
pub(super) struct Network {
    netlink: Netlink,
    links: Vec<Link>,
}

impl Network {
    pub(super) fn open() -> io::Result<Self> {
        let mut netlink = Netlink::open(NETLINK_ROUTE)?;
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let links = netlink
            .dump(request)?
            .into_iter()
            .filter_map(link_of)
            .collect();
        Ok(Self { netlink, links })
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(super) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Those of `names` that exist.
    pub(super) fn existing<'n>(&self, names: &'n [String]) -> Vec<&'n str> {
        let names = names.iter().map(String::as_str);
        names
            .filter(|name| self.link_named(name).is_some())
            .collect()
    }

    pub(super) fn route_to(&mut self, address: IpAddr) -> Route {
        let request = RouteNetlinkMessage::GetRoute(route_request(address));
        match self.netlink.get(request) {
            Ok(RouteNetlinkMessage::NewRoute(route)) => route_of(&route, address),
            Ok(_) => Route::Nowhere("an answer of another kind".to_owned()),
            Err(error) => Route::Nowhere(error.to_string()),
        }
    }

    /// Neighbours that do not answer, by interface and address, with the kernel's word for it.
    pub(super) fn silent_neighbours(
        &mut self,
    ) -> io::Result<BTreeMap<(u32, IpAddr), &'static str>> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answers = self.netlink.dump(request)?;
        Ok(answers
            .into_iter()
            .filter_map(silent_neighbour_of)
            .collect())
    }
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        is_up: message.header.flags.contains(LinkFlags::Up),
        has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    let mut is_peer_elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkNetNsId(_) => is_peer_elsewhere = true,
            LinkAttribute::Xdp(xdp) => link.xdp = xdp.iter().filter_map(xdp_program_of).collect(),
            _ => {}
        }
    }
    if is_peer_elsewhere {
        link.peer = None;
    }
    Some(link)
}

/// The kernel names each program by the way it is attached, and one of them once more without it.
fn xdp_program_of(attribute: &LinkXdp) -> Option<XdpProgram> {
    let (id, keyword) = match *attribute {
        LinkXdp::DrvProgId(id) => (id, "xdp"),
        LinkXdp::SkbProgId(id) => (id, "xdpgeneric"),
        LinkXdp::HwProgId(id) => (id, "xdpoffload"),
        _ => return None,
    };
    Some(XdpProgram { id, keyword })
}

fn route_request(address: IpAddr) -> RouteMessage {
    let mut request = RouteMessage::default();
    let (family, bits, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    request.header.address_family = family;
    request.header.destination_prefix_length = bits;
    request.attributes = vec![RouteAttribute::Destination(destination)];
    request
}

fn route_of(route: &RouteMessage, address: IpAddr) -> Route {
    let link = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => Some(*link),
            _ => None,
        });
    match (route.header.kind, link) {
        (RouteType::Local, _) => Route::Local,
        (RouteType::Unicast, Some(link)) => Route::Out {
            link,
            next_hop: gateway_of(route).unwrap_or(address),
        },
        (kind, _) => Route::Nowhere(format!("the route is of kind {kind:?}")),
    }
}

fn gateway_of(route: &RouteMessage) -> Option<IpAddr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })
}

fn silent_neighbour_of(message: RouteNetlinkMessage) -> Option<((u32, IpAddr), &'static str)> {
    let RouteNetlinkMessage::NewNeighbour(neighbour) = message else {
        return None;
    };
    let state = match neighbour.header.state {
        NeighbourState::Failed => "FAILED",
        NeighbourState::Incomplete => "INCOMPLETE",
        _ => return None,
    };
    let address = neighbour
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })?;
    Some(((neighbour.header.ifindex, address), state))
}
