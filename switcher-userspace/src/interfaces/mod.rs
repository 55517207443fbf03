//! The node's interfaces, as far as the program must know them: read at start and whenever the kernel
//! tells of a change.

mod records;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use switcher_common::interface::{InterfaceRecord, flags};

pub(crate) use self::watch::watch;
use crate::netlink::{Netlink, address, events::Events, link, netdev::Netdev};

/// What was read about the interfaces of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    /// By index.
    by_index: BTreeMap<u32, Known>,
    /// Of all of them.
    addresses: BTreeSet<IpAddr>,
    /// Whether the kernel tells which interfaces take redirected frames.
    features_known: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    name: String,
    record: InterfaceRecord,
}

impl Interfaces {
    /// What the program is told of each interface, by index.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u32, InterfaceRecord)> {
        self.by_index.iter().map(|(index, it)| (*index, it.record))
    }

    /// The node's own addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied()
    }

    /// The name of an interface.
    pub(crate) fn name(&self, index: u32) -> Option<&str> {
        self.by_index.get(&index).map(|it| it.name.as_str())
    }

    /// Whether the interface `name` takes redirected frames; `None` when the kernel does not tell, or
    /// there is no such interface.
    pub(crate) fn takes_redirects(&self, name: &str) -> Option<bool> {
        let mut all = self.by_index.values();
        let known = all.find(|it| it.name == name)?;
        let refuses = known.record.has(flags::NO_REDIRECT);
        (refuses || self.features_known).then_some(!refuses)
    }
}

/// Reads what the kernel says about interfaces, in the network namespace of the thread that opened it.
pub(crate) struct Reader {
    route: Netlink,
    /// `None`: the kernel is too old for it.
    netdev: Option<Netdev>,
}

impl Reader {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            route: Netlink::open(NETLINK_ROUTE)?,
            netdev: Netdev::open()?,
        })
    }

    /// Word of changes; subscribed to before the first reading, nothing is missed.
    pub(crate) fn subscribe(&self) -> io::Result<Vec<Events>> {
        let features = self.netdev.as_ref().map(Netdev::subscribe).transpose()?;
        let others = [link::subscribe()?, address::subscribe()?];
        Ok(features.into_iter().chain(others).collect())
    }

    /// Whether the kernel tells which interfaces take redirected frames.
    pub(crate) fn knows_features(&self) -> bool {
        self.netdev.is_some()
    }

    pub(crate) fn read(&mut self) -> io::Result<Interfaces> {
        // Features first: of an interface that comes in between nothing is known, and the event of
        // its coming makes all of this be read again.
        let features = self.netdev.as_mut().map(Netdev::takes_redirects);
        let features = features.transpose()?;
        let links = link::all(&mut self.route)?;
        let known = |link: &link::Link| {
            let record = records::of(link, &links, features.as_ref());
            let name = link.name.clone();
            (link.index, Known { name, record })
        };
        Ok(Interfaces {
            addresses: address::all(&mut self.route)?,
            by_index: links.iter().map(known).collect(),
            features_known: features.is_some(),
        })
    }
}
