//! The node's interfaces, routes and neighbours, as far as the checks ask for them.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{
    Netlink,
    link::{self, Link},
};

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
        let links = link::all(&mut netlink)?;
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
