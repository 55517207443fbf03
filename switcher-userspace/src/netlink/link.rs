//! The node's interfaces.

use std::io;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, VlanProtocol,
    },
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Netlink, events::Events};

/// `RTNLGRP_LINK` of `linux/rtnetlink.h`.
const GROUP_LINK: u32 = 1;

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) is_up: bool,
    pub(crate) has_carrier: bool,
    pub(crate) mtu: u32,
    /// The other end of a veth pair, if it is in this namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) xdp: Vec<XdpProgram>,
    /// What kind of software makes it, such as `veth`; empty: a driver's own.
    pub(crate) kind: String,
    /// Set for a VLAN device.
    pub(crate) vlan: Option<Vlan>,
    /// Index of the bond, bridge or the like that it belongs to.
    pub(crate) master: Option<u32>,
}

/// What a VLAN device adds to the interface below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vlan {
    /// Index of the interface below; `None`: it is in another namespace.
    pub(crate) parent: Option<u32>,
    pub(crate) id: u16,
    /// Its tags are those of IEEE 802.1Q, not 802.1ad.
    pub(crate) is_802_1q: bool,
}

/// A program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpProgram {
    pub(crate) id: u32,
    /// What `ip link set dev X .. off` calls the way it is attached.
    pub(crate) keyword: &'static str,
}

/// All interfaces of the namespace that `netlink`, of the protocol `NETLINK_ROUTE`, belongs to.
pub(crate) fn all(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.dump(request)?;
    Ok(answers.into_iter().filter_map(link_of).collect())
}

/// Word of changes.
pub(crate) fn subscribe() -> io::Result<Events> {
    Events::subscribe(NETLINK_ROUTE, &[GROUP_LINK])
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
    let (mut below, mut is_below_elsewhere) = (None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => below = Some(index),
            LinkAttribute::LinkNetNsId(_) => is_below_elsewhere = true,
            LinkAttribute::LinkInfo(info) => describe(&mut link, &info),
            LinkAttribute::Xdp(xdp) => link.xdp = xdp.iter().filter_map(xdp_program_of).collect(),
            _ => {}
        }
    }
    // One attribute, two meanings: the other end of a pair, or the interface below.
    let here = below.filter(|_| !is_below_elsewhere);
    match &mut link.vlan {
        Some(vlan) => vlan.parent = here,
        None => link.peer = here,
    }
    Some(link)
}

fn describe(link: &mut Link, info: &[LinkInfo]) {
    for attribute in info {
        match attribute {
            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vlan(attributes)) => link.vlan = Some(vlan_of(attributes)),
            _ => {}
        }
    }
}

fn vlan_of(attributes: &[InfoVlan]) -> Vlan {
    let id = attributes.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    });
    let is_other = |it: &InfoVlan| matches!(it, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    Vlan {
        parent: None,
        id: id.unwrap_or(0),
        is_802_1q: !attributes.iter().any(is_other),
    }
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
