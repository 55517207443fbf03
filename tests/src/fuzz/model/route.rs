//! Where the lab's node sends packets: the lab's routes as data, and what the kernel answers to a
//! look-up in them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Place of an interface in [`Routes::interfaces`].
pub type InterfaceId = usize;

/// An interface of the node.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in the node's namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether IPv4, IPv6 packets that come in by it may be forwarded.
    pub forwards: [bool; 2],
    /// What the program is told of it.
    pub told: Told,
}

/// What the agent tells the program of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Told {
    /// A VLAN device: the interface below, and the VLAN.
    pub vlan: Option<(InterfaceId, u16)>,
    /// The bond or bridge that takes its frames.
    pub master: Option<InterfaceId>,
    /// It cannot take redirected frames.
    pub no_redirect: bool,
    /// It cannot take back what came in by it.
    pub no_transmit: bool,
    /// The program runs there in generic mode.
    pub generic: bool,
}

/// How a frame leaves that the routes send to a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Where it came in.
    Back,
    /// By another interface.
    On,
    /// By the stack, since its tags change.
    OtherTags,
    /// By the stack, since the interface does not take it.
    NotTaken,
}

/// Where a prefix leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Neighbours of an interface, or one of them that knows the way on, with the route's own MTU.
    Link {
        /// The interface.
        interface: InterfaceId,
        /// The router.
        gateway: Option<IpAddr>,
        /// In bytes.
        mtu: Option<u32>,
    },
    /// A route that says no: unreachable, blackhole, prohibit.
    Refused,
    /// The node itself, or a broadcast.
    Local,
}

/// Everything that a look-up depends on.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The node's interfaces.
    pub interfaces: Vec<Interface>,
    /// The node's own addresses, VIPs left out.
    pub own: HashSet<IpAddr>,
    /// Prefixes with their lengths in bits.
    pub prefixes: Vec<(IpAddr, u8, Target)>,
    /// Ethernet addresses of resolved neighbours.
    pub neighbours: HashMap<(InterfaceId, IpAddr), [u8; 6]>,
}

/// The answer to a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Out of an interface, to a neighbour.
    Next {
        /// The interface.
        interface: InterfaceId,
        /// The neighbour's Ethernet address.
        mac: [u8; 6],
    },
    /// The neighbour is not resolved.
    NoNeighbour,
    /// Packets of the incoming interface are not forwarded.
    ForwardingOff,
    /// Larger than the next hop's MTU in bytes.
    TooBig(u32),
    /// The routes say no.
    Refused,
    /// For the stack: local, or no route at all.
    NeedsStack,
}

impl Routes {
    /// The interface of `index`.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<InterfaceId> {
        self.interfaces.iter().position(|it| it.name == name)
    }

    /// Where a packet of `len` bytes goes that came in by `ingress`.
    #[must_use]
    pub fn look_up(&self, ingress: InterfaceId, src: IpAddr, dst: IpAddr, len: usize) -> Route {
        if stays_on_link(src) || stays_on_link(dst) {
            return Route::NeedsStack;
        }
        if !self.interfaces[ingress].forwards[usize::from(dst.is_ipv6())] {
            return Route::ForwardingOff;
        }
        let (interface, gateway, mtu) = match self.target(dst) {
            None | Some(Target::Local) => return Route::NeedsStack,
            Some(Target::Refused) => return Route::Refused,
            Some(Target::Link {
                interface,
                gateway,
                mtu,
            }) => (interface, gateway, mtu),
        };
        let mtu = mtu.unwrap_or(self.interfaces[interface].mtu);
        if len > mtu as usize {
            return Route::TooBig(mtu);
        }
        match self.neighbours.get(&(interface, gateway.unwrap_or(dst))) {
            Some(&mac) => Route::Next { interface, mac },
            None => Route::NoNeighbour,
        }
    }

    /// Rule 7.3, for a frame with the control information of these tags.
    #[must_use]
    pub fn way(&self, ingress: InterfaceId, outgoing: InterfaceId, tags: &[u16]) -> Way {
        let (from, to) = (
            self.interfaces[ingress].told,
            self.interfaces[outgoing].told,
        );
        let ids: Vec<u16> = tags.iter().map(|tag| tag & 0x0fff).collect();
        let is_untagged = ids.is_empty() || ids == [0];
        let is_back = match to.vlan {
            Some((parent, id)) => parent == ingress && ids == [id],
            None => outgoing == ingress && is_untagged,
        };
        let is_native = !from.generic;
        match (is_back, to.vlan) {
            (true, _) if is_native && from.no_transmit => Way::NotTaken,
            (true, _) => Way::Back,
            (false, None) if is_untagged && is_native && to.no_redirect => Way::NotTaken,
            (false, None) if is_untagged => Way::On,
            _ => Way::OtherTags,
        }
    }

    /// The interface by which packets to `address` leave.
    #[must_use]
    pub fn way_back(&self, address: IpAddr) -> Option<InterfaceId> {
        match self.target(address) {
            Some(Target::Link { interface, .. }) => Some(interface),
            _ => None,
        }
    }

    /// Whether a frame with these tags that came in by `ingress` is what the interface by which packets
    /// to `address` leave takes: rule 3.4, second part.
    #[must_use]
    pub fn is_way_back(&self, ingress: InterfaceId, address: IpAddr, tags: &[u16]) -> bool {
        let Some(interface) = self.way_back(address) else {
            return false;
        };
        let ids: Vec<u16> = tags.iter().map(|tag| tag & 0x0fff).collect();
        let (port, is_its_vlan) = match self.interfaces[interface].told.vlan {
            Some((parent, id)) => (parent, ids == [id]),
            None => (interface, ids.is_empty() || ids == [0]),
        };
        let master = self.interfaces[ingress].told.master;
        is_its_vlan && (port == ingress || master == Some(port))
    }

    /// Whether the node itself has `address`.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.target(address) == Some(Target::Local)
    }

    fn target(&self, address: IpAddr) -> Option<Target> {
        let matching = self
            .prefixes
            .iter()
            .filter(|(net, len, _)| contains(*net, *len, address));
        matching
            .max_by_key(|(_, len, _)| *len)
            .map(|(.., target)| *target)
    }
}

/// IPv6 addresses that are not forwarded: link-local, loopback, multicast.
fn stays_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(it) => it.is_unicast_link_local() || it.is_loopback() || it.is_multicast(),
    }
}

fn contains(net: IpAddr, len: u8, address: IpAddr) -> bool {
    match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => {
            let rest = 32 - u32::from(len);
            net.to_bits().checked_shr(rest) == address.to_bits().checked_shr(rest)
        }
        (IpAddr::V6(net), IpAddr::V6(address)) => {
            let rest = 128 - u32::from(len);
            net.to_bits().checked_shr(rest) == address.to_bits().checked_shr(rest)
        }
        _ => false,
    }
}
