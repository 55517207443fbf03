//! The configuration as the maps hold it, and how it evolves: a pure function from what the kernel
//! has and what the operator wants to what the kernel gets.
//!
//! What stays keeps its id, and no id is given out again while a flow refers to it (G2).

mod editions;
mod evolution;
mod gaps;
mod ids;
mod removed;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use switcher_common::service::{
    BackendRecord, Color, ListenerKey, ListenerRecord, Name, TableRange,
};

pub(super) use self::editions::Addresses;
use self::evolution::Evolution;
pub use self::removed::{Leaving, Place, RemovalTerms, RemovedListener};
use super::{error::DataPathError, maglev::Member};
use crate::config::{Config, Limits};

/// What the operator wants the data path to do.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Services, listeners, backends.
    pub config: &'a Config,
    /// Backends that take no fresh flows.
    pub drained: &'a BTreeSet<DrainedBackend>,
    /// Listeners that are in the maps and not in the configuration.
    pub leaving: &'a Leaving,
}

/// A backend that takes no fresh flows, and whose flows go on: drained by hand, or ejected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrainedBackend {
    /// Name of the service.
    pub service: String,
    /// Address and port.
    pub endpoint: SocketAddr,
    /// The listener and color where it is so; absent: in all of its service's.
    pub list: Option<(String, Color)>,
}

/// Content of the maps that the agent writes on an apply. Vectors are indexed by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) names: Vec<Name>,
    pub(super) listeners: BTreeMap<ListenerKey, u32>,
    pub(super) addresses: Addresses,
    pub(super) records: Vec<ListenerRecord>,
    pub(super) backends: Vec<BackendRecord>,
    /// Slots of all tables, up to the last one that a record refers to.
    pub(super) maglev: Vec<u32>,
    /// What this agent has filled the tables of, by listener: as long as that stays, so does the table. What
    /// another agent has filled is filled once more.
    pub(super) filled: BTreeMap<(u32, Color), Vec<Member>>,
}

/// What flows refer to, which must not get another meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    pub(super) backends: HashSet<u32>,
    pub(super) services: HashSet<u16>,
    /// Flows in flight by backend.
    pub(super) live: HashMap<u32, u32>,
}

/// Slots of one table, to be written before the image becomes visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) start: u32,
    pub(super) ids: Vec<u32>,
}

/// What the kernel is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evolved {
    pub(super) image: Image,
    pub(super) slots: Vec<Slots>,
    /// Addresses to be removed when the image is visible; until then they are to be there so.
    pub(super) retiring: Addresses,
}

impl Image {
    /// Ids and names of the services.
    pub(super) fn services(&self) -> Vec<(u16, String)> {
        (0..)
            .zip(&self.names)
            .filter_map(|(id, name)| Some((id, name.text()?.to_owned())))
            .collect()
    }

    /// Everything that is there, as if flows referred to it.
    pub(super) fn busy(&self) -> Busy {
        let services = (0..).zip(&self.names);
        let named = services.filter(|(_, name)| name.text().is_some());
        let backends = (0..).zip(&self.backends);
        // Also those that are configured no more: their flows may go on.
        let known = backends.filter(|(_, backend)| **backend != BackendRecord::default());
        Busy {
            services: named.map(|(id, _)| id).collect(),
            backends: known.map(|(id, _)| id).collect(),
            ..Busy::default()
        }
    }

    /// The slots of a table; `None` when they are not all there.
    fn slots(&self, range: TableRange) -> Option<&[u32]> {
        let start = range.start as usize;
        self.maglev
            .get(start..start.checked_add(range.len as usize)?)
    }
}

/// The image for what is wanted.
pub(super) fn evolve(
    old: &Image,
    wanted: &Wanted<'_>,
    busy: &Busy,
    limits: &Limits,
) -> Result<Evolved, DataPathError> {
    let mut evolution = Evolution::new(old, busy, limits);
    for service in &wanted.config.services {
        evolution.service(service, wanted.drained)?;
    }
    evolution.keep_removed(wanted.leaving);
    evolution.finish()
}

/// `old` with `tables` written over it.
fn merged(old: &[u32], tables: &[Slots]) -> Vec<u32> {
    let mut all = old.to_vec();
    for table in tables {
        let start = table.start as usize;
        let end = start + table.ids.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[start..end].copy_from_slice(&table.ids);
    }
    all
}

/// Element `id` of a vector that grows as needed.
fn at<T: Clone>(all: &mut Vec<T>, id: u32, empty: T) -> &mut T {
    let index = id as usize;
    if index >= all.len() {
        all.resize(index + 1, empty);
    }
    &mut all[index]
}

#[cfg(test)]
mod tests;
