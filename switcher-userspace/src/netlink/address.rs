//! The node's addresses.

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Netlink, events::Events};

/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` of `linux/rtnetlink.h`.
const GROUPS: [u32; 2] = [5, 9];

/// All addresses of the namespace that `netlink`, of the protocol `NETLINK_ROUTE`, belongs to.
pub(crate) fn all(netlink: &mut Netlink) -> io::Result<BTreeSet<IpAddr>> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = netlink.dump(request)?;
    Ok(answers.into_iter().filter_map(address_of).collect())
}

/// Word of changes.
pub(crate) fn subscribe() -> io::Result<Events> {
    Events::subscribe(NETLINK_ROUTE, &GROUPS)
}

/// The node's own end: where a link has two ends, the other attribute is the other one's.
fn address_of(message: RouteNetlinkMessage) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let attributes = message.attributes.iter();
    let local = attributes.clone().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.clone().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}
