//! The configuration as the maps hold it, and how it evolves: a pure function from what the kernel
//! has and what the operator wants to what the kernel gets.
//!
//! What stays keeps its id, and no id is given out again while a flow refers to it (G2).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use switcher_common::{
    address::WideAddress,
    service::{
        BackendRecord, Color, LISTENER_PRESENT, LISTENER_PREVIEW, ListenerKey, ListenerRecord,
        NO_LISTENER, Name, TableRange,
    },
};

use super::{
    error::DataPathError,
    maglev::{self, Member},
};
use crate::config::{Config, Limits, ListenerConfig};

/// Content of the maps that the agent writes on an apply. Vectors are indexed by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) names: Vec<Name>,
    pub(super) listeners: BTreeMap<ListenerKey, u32>,
    pub(super) records: Vec<ListenerRecord>,
    pub(super) backends: Vec<BackendRecord>,
    /// Slots of all tables, up to the last one that a record refers to.
    pub(super) maglev: Vec<u32>,
}

/// What flows refer to, which must not get another meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Busy {
    pub(super) backends: HashSet<u32>,
    pub(super) services: HashSet<u16>,
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
}

const FREE_NAME: Name = Name([0; 64]);

impl Image {
    /// Id of a service.
    pub(super) fn service_id(&self, name: &str) -> Option<u16> {
        let id = self.names.iter().position(|n| n.text() == Some(name))?;
        u16::try_from(id).ok()
    }

    /// Whether it already says what `config` wants.
    pub(super) fn matches(&self, config: &Config, limits: &Limits) -> bool {
        // Ids are stable, so an image that matches evolves into itself.
        evolve(self, config, &Busy::default(), limits)
            .is_ok_and(|evolved| evolved.image == *self && evolved.slots.is_empty())
    }

    /// The slots of a table; `None` when they are not all there.
    fn slots(&self, range: TableRange) -> Option<&[u32]> {
        let start = range.start as usize;
        self.maglev
            .get(start..start.checked_add(range.len as usize)?)
    }
}

/// The image for `config`.
pub(super) fn evolve(
    old: &Image,
    config: &Config,
    busy: &Busy,
    limits: &Limits,
) -> Result<Evolved, DataPathError> {
    let mut evolution = Evolution::new(old, busy, limits);
    for service in &config.services {
        let id = evolution.service(&service.name)?;
        for listener in &service.listeners {
            evolution.listener(id, listener)?;
        }
    }
    evolution.finish()
}

struct Evolution<'a> {
    old: &'a Image,
    limits: &'a Limits,
    new: Image,
    service_ids: BTreeSet<u32>,
    listener_ids: BTreeSet<u32>,
    backend_ids: BTreeSet<u32>,
    known_backends: HashMap<(u32, u8, WideAddress, u16), u32>,
    /// Tables that are still to be placed.
    pending: Vec<(u32, Color, Vec<u32>)>,
}

impl<'a> Evolution<'a> {
    fn new(old: &'a Image, busy: &Busy, limits: &'a Limits) -> Self {
        let mut new = Image {
            names: vec![FREE_NAME; old.names.len()],
            backends: old.backends.clone(),
            ..Image::default()
        };
        new.records
            .resize(old.records.len(), ListenerRecord::default());
        let mut evolution = Self {
            old,
            limits,
            new,
            service_ids: BTreeSet::new(),
            listener_ids: BTreeSet::new(),
            backend_ids: BTreeSet::new(),
            known_backends: HashMap::new(),
            pending: Vec::new(),
        };
        evolution.reserve(busy);
        evolution
    }

    /// Takes all ids that are in use, or still referred to.
    fn reserve(&mut self, busy: &Busy) {
        for (id, backend) in (0..).zip(&self.old.backends) {
            if backend.present != 0 {
                let key = (
                    backend.listener,
                    backend.color,
                    backend.address,
                    backend.port_be,
                );
                self.known_backends.insert(key, id);
            }
            if backend.present != 0 || busy.backends.contains(&id) {
                self.backend_ids.insert(id);
                self.listener_ids.insert(backend.listener);
                self.service_ids.insert(u32::from(backend.service));
            }
        }
        let named = (0..)
            .zip(&self.old.names)
            .filter(|(_, name)| name.text().is_some());
        self.service_ids.extend(named.map(|(id, _)| id));
        self.listener_ids.extend(self.old.listeners.values());
        self.service_ids
            .extend(busy.services.iter().copied().map(u32::from));
        // An apply that was cut short may have left tables that nothing else tells of.
        for record in &self.old.records {
            let slots = record
                .tables
                .iter()
                .filter_map(|range| self.old.slots(*range));
            self.backend_ids.extend(slots.flatten());
        }
        for backend in &mut self.new.backends {
            backend.present = 0;
        }
    }

    fn service(&mut self, name: &str) -> Result<u16, DataPathError> {
        let id = match self.old.service_id(name) {
            Some(id) => u32::from(id),
            None => claim(&mut self.service_ids, self.limits.services, "services")?,
        };
        let text = Name::new(name).ok_or_else(|| DataPathError::Kernel {
            attempt: format!("writing the name of service {name}"),
            found: "it is longer than a map value holds".to_owned(),
        })?;
        *at(&mut self.new.names, id, FREE_NAME) = text;
        // The limit on services is below 2^16.
        Ok(u16::try_from(id).unwrap_or(u16::MAX))
    }

    fn listener(&mut self, service: u16, config: &ListenerConfig) -> Result<(), DataPathError> {
        let vip = WideAddress::from_ip(config.vip);
        let key = ListenerKey {
            vip,
            port_be: config.port.to_be(),
            protocol: config.protocol as u8,
            af: vip.af(),
        };
        let id = match self.old.listeners.get(&key) {
            Some(&id) => id,
            None => claim(&mut self.listener_ids, self.limits.listeners, "listeners")?,
        };
        self.new.listeners.insert(key, id);
        self.new
            .listeners
            .insert(ListenerKey::any_of(vip, vip.af()), NO_LISTENER);
        let preview = if config.preview { LISTENER_PREVIEW } else { 0 };
        let mut record = ListenerRecord {
            service,
            flags: LISTENER_PRESENT | preview,
            ..ListenerRecord::default()
        };
        for color in Color::ALL {
            let members = self.members(service, id, color, config)?;
            self.link_ring(&members);
            let slots = maglev::fill(&members);
            let kept = self.old_range(id, color);
            if self.old.slots(kept) == Some(&slots) {
                record.tables[color as usize] = kept;
            } else {
                self.pending.push((id, color, slots));
            }
        }
        *at(&mut self.new.records, id, ListenerRecord::default()) = record;
        Ok(())
    }

    fn old_range(&self, listener: u32, color: Color) -> TableRange {
        let record = self.old.records.get(listener as usize);
        record.map_or_else(TableRange::default, |record| record.tables[color as usize])
    }

    /// The backends of a color, in an order that every node agrees on.
    fn members(
        &mut self,
        service: u16,
        listener: u32,
        color: Color,
        config: &ListenerConfig,
    ) -> Result<Vec<Member>, DataPathError> {
        let mut members = Vec::new();
        for backend in config.backends(color) {
            let record = BackendRecord {
                address: WideAddress::from_ip(backend.address),
                port_be: backend.port.to_be(),
                weight: backend.weight,
                listener,
                next: 0,
                service,
                color: color as u8,
                present: 1,
            };
            members.push(Member {
                id: self.backend(&record)?,
                address: record.address,
                port_be: record.port_be,
                weight: record.weight,
            });
        }
        members.sort_by_key(|member| (member.address, member.port_be));
        Ok(members)
    }

    /// Each backend knows the next one, which is tried when its own replies are taken.
    fn link_ring(&mut self, members: &[Member]) {
        let next = members.iter().cycle().skip(1);
        for (member, next) in members.iter().zip(next) {
            at(&mut self.new.backends, member.id, BackendRecord::default()).next = next.id;
        }
    }

    fn backend(&mut self, record: &BackendRecord) -> Result<u32, DataPathError> {
        let key = (
            record.listener,
            record.color,
            record.address,
            record.port_be,
        );
        let id = match self.known_backends.get(&key) {
            Some(&id) => id,
            None => claim(&mut self.backend_ids, self.limits.backends, "backends")?,
        };
        *at(&mut self.new.backends, id, BackendRecord::default()) = *record;
        Ok(id)
    }

    /// Places the new tables into slots that neither the old nor the new image uses.
    fn finish(mut self) -> Result<Evolved, DataPathError> {
        let mut gaps = Gaps::new(self.limits.maglev_slots);
        for record in self.old.records.iter().chain(&self.new.records) {
            record.tables.iter().for_each(|range| gaps.take(*range));
        }
        let mut slots = Vec::new();
        for (listener, color, ids) in std::mem::take(&mut self.pending) {
            let range = gaps.place(ids.len())?;
            let record = at(&mut self.new.records, listener, ListenerRecord::default());
            record.tables[color as usize] = range;
            if !ids.is_empty() {
                slots.push(Slots {
                    start: range.start,
                    ids,
                });
            }
        }
        self.new.maglev = merged(&self.old.maglev, &slots);
        Ok(Evolved {
            image: self.new,
            slots,
        })
    }
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

/// The lowest id from 1 to `limit` that is not taken.
fn claim(taken: &mut BTreeSet<u32>, limit: u32, what: &'static str) -> Result<u32, DataPathError> {
    let id = (1..=limit)
        .find(|id| !taken.contains(id))
        .ok_or(DataPathError::Full { what, limit })?;
    taken.insert(id);
    Ok(id)
}

/// Element `id` of a vector that grows as needed.
fn at<T: Clone>(all: &mut Vec<T>, id: u32, empty: T) -> &mut T {
    let index = id as usize;
    if index >= all.len() {
        all.resize(index + 1, empty);
    }
    &mut all[index]
}

/// Ranges of slots that nobody uses.
struct Gaps {
    /// Used ranges, by start.
    used: BTreeMap<u32, u32>,
    limit: u32,
}

impl Gaps {
    fn new(limit: u32) -> Self {
        Self {
            used: BTreeMap::new(),
            limit,
        }
    }

    fn take(&mut self, range: TableRange) {
        if range.len > 0 {
            self.used.insert(range.start, range.len);
        }
    }

    /// Takes the first gap that is large enough.
    fn place(&mut self, len: usize) -> Result<TableRange, DataPathError> {
        let full = DataPathError::Full {
            what: "maglev_slots",
            limit: self.limit,
        };
        let Ok(len) = u32::try_from(len) else {
            return Err(full);
        };
        let mut start = 0;
        for (&used_start, &used_len) in &self.used {
            if used_start.saturating_sub(start) >= len {
                break;
            }
            start = used_start + used_len;
        }
        if start.saturating_add(len) > self.limit {
            return Err(full);
        }
        let range = if len == 0 {
            TableRange::default()
        } else {
            TableRange { start, len }
        };
        self.take(range);
        Ok(range)
    }
}

#[cfg(test)]
mod tests;
