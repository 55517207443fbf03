//! From one image to the next, listener by listener.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use switcher_common::{
    address::WideAddress,
    service::{
        BackendRecord, Color, ENDPOINT_EXCLUSIVE, ENDPOINT_FORMER, ENDPOINT_PRESENT,
        EndpointRecord, LISTENER_PRESENT, LISTENER_PREVIEW, LISTENER_RINGS, LISTENER_SECOND_CHANCE,
        ListenerKey, ListenerRecord, NO_LISTENER, Name, Protocol, SHARED_ENDPOINT,
    },
};

use super::{
    super::{
        error::DataPathError,
        maglev::{self, Member},
    },
    Busy, DrainedBackend, Evolved, Image, Leaving, Place, Slots, at,
    editions::{self, WantedAddresses},
    gaps::Gaps,
    ids::Ids,
    merged,
};
use crate::config::{BackendConfig, Limits, ListenerConfig, ServiceConfig};

const FREE_NAME: Name = Name([0; 64]);

/// An image in the making.
pub(super) struct Evolution<'a> {
    old: &'a Image,
    limits: &'a Limits,
    new: Image,
    service_ids: Ids,
    listener_ids: Ids,
    backend_ids: Ids,
    known_services: HashMap<&'a str, u32>,
    known_backends: HashMap<BackendKey, u32>,
    /// Ids of backends that may have flows.
    in_use: HashSet<u32>,
    addresses: WantedAddresses,
    /// Tables that are still to be placed.
    pending: Vec<(u32, Color, Vec<u32>)>,
}

/// A service whose listeners are being taken in.
struct ServiceInHand<'a> {
    id: u16,
    /// Flags of all its listeners.
    flags: u16,
    drained: HashSet<Drained<'a>>,
}

/// An endpoint, and the list where it is drained; absent: in all.
type Drained<'a> = (SocketAddr, Option<(&'a str, Color)>);

impl<'a> Evolution<'a> {
    pub(super) fn new(old: &'a Image, busy: &Busy, limits: &'a Limits) -> Self {
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
            service_ids: Ids::new(limits.services, "services"),
            listener_ids: Ids::new(limits.listeners, "listeners"),
            backend_ids: Ids::new(limits.backends, "backends"),
            known_services: HashMap::new(),
            known_backends: HashMap::new(),
            in_use: HashSet::new(),
            addresses: WantedAddresses::default(),
            pending: Vec::new(),
        };
        evolution.reserve(busy);
        evolution
    }

    /// Takes all ids that are in use, or still referred to.
    fn reserve(&mut self, busy: &Busy) {
        for (id, backend) in (0..).zip(&self.old.backends) {
            if backend.present != 0 {
                self.known_backends.insert(backend_key(backend), id);
            }
            if backend.present != 0 || busy.backends.contains(&id) {
                self.in_use.insert(id);
                self.backend_ids.take(id);
                self.listener_ids.take(backend.listener);
                self.service_ids.take(u32::from(backend.service));
            }
        }
        for (id, name) in (0..).zip(&self.old.names) {
            if let Some(name) = name.text() {
                self.service_ids.take(id);
                self.known_services.insert(name, id);
            }
        }
        for &id in self.old.listeners.values() {
            self.listener_ids.take(id);
        }
        for &id in &busy.services {
            self.service_ids.take(u32::from(id));
        }
        // An apply that was cut short may have left tables that nothing else tells of.
        for range in self.old.records.iter().flat_map(|record| record.tables) {
            for &id in self.old.slots(range).unwrap_or_default() {
                self.in_use.insert(id);
                self.backend_ids.take(id);
            }
        }
        for backend in &mut self.new.backends {
            backend.present = 0;
        }
    }

    pub(super) fn service(
        &mut self,
        config: &ServiceConfig,
        drained: &BTreeSet<DrainedBackend>,
    ) -> Result<(), DataPathError> {
        let name = config.name.as_str();
        let id = match self.known_services.get(name) {
            Some(&id) => id,
            None => self.service_ids.claim()?,
        };
        let text = Name::new(name).ok_or_else(|| DataPathError::Kernel {
            attempt: format!("writing the name of service {name}"),
            found: "it is longer than a map value holds".to_owned(),
        })?;
        *at(&mut self.new.names, id, FREE_NAME) = text;
        let drained = drained.iter().filter(|backend| backend.service == name);
        let service = ServiceInHand {
            // The limit on services is below 2^16.
            id: u16::try_from(id).unwrap_or(u16::MAX),
            flags: if config.second_chance {
                LISTENER_SECOND_CHANCE
            } else {
                0
            },
            drained: drained.map(in_hand).collect(),
        };
        config
            .listeners
            .iter()
            .try_for_each(|listener| self.listener(&service, listener))
    }

    fn listener(
        &mut self,
        service: &ServiceInHand<'_>,
        config: &ListenerConfig,
    ) -> Result<(), DataPathError> {
        let vip = WideAddress::from_ip(config.vip);
        let key = ListenerKey::at(vip, config.port, config.protocol);
        let id = match self.old.listeners.get(&key) {
            Some(&id) => id,
            None => self.listener_ids.claim()?,
        };
        self.new.listeners.insert(key, id);
        self.addresses
            .vips
            .insert(ListenerKey::any_of(vip, vip.af()), ());
        let preview = if config.preview { LISTENER_PREVIEW } else { 0 };
        let mut record = ListenerRecord {
            service: service.id,
            flags: LISTENER_PRESENT | preview | service.flags,
            ..ListenerRecord::default()
        };
        let before = self.old.records.get(id as usize).copied();
        let before = before.unwrap_or_default();
        for color in Color::ALL {
            let backends = self.backends(service, id, color, config)?;
            record.flags |= self.link_ring(&before, color, &backends);
            if !config.preview {
                self.add_endpoints(id, &key, &backends);
            }
            let members: Vec<_> = backends.into_iter().filter_map(Backend::member).collect();
            let kept = before.tables[color as usize];
            if self.old.filled.get(&(id, color)) == Some(&members) {
                record.tables[color as usize] = kept;
            } else {
                let slots = maglev::fill(&members);
                if self.old.slots(kept) == Some(&slots) {
                    record.tables[color as usize] = kept;
                } else {
                    self.pending.push((id, color, slots));
                }
            }
            self.new.filled.insert((id, color), members);
        }
        *at(&mut self.new.records, id, ListenerRecord::default()) = record;
        Ok(())
    }

    /// The backends of a color, in an order that every node agrees on.
    fn backends(
        &mut self,
        service: &ServiceInHand<'_>,
        listener: u32,
        color: Color,
        config: &ListenerConfig,
    ) -> Result<Vec<Backend>, DataPathError> {
        let mut backends = Vec::new();
        for backend in config.backends(color) {
            let record = BackendRecord {
                address: WideAddress::from_ip(backend.address),
                port_be: backend.port.to_be(),
                weight: backend.weight,
                listener,
                next: [0; 2],
                service: service.id,
                color: color as u8,
                present: 1,
            };
            backends.push(Backend {
                is_drained: service.is_drained(endpoint(backend), &config.name, color),
                member: Member {
                    id: self.backend(&record)?,
                    address: record.address,
                    port_be: record.port_be,
                    weight: record.weight,
                },
            });
        }
        backends.sort_by_key(|backend| (backend.member.address, backend.member.port_be));
        Ok(backends)
    }

    /// Each backend knows the next one that takes fresh flows, which is tried when its own replies
    /// are taken. Returns the flag of the ring that counts: the one of before if it says the same,
    /// else the other one, which no packet reads until the listener's record is replaced.
    fn link_ring(&mut self, before: &ListenerRecord, color: Color, backends: &[Backend]) -> u16 {
        let count = backends.len();
        let next: Vec<(u32, u32)> = (0..count)
            .map(|at| {
                let own = backends[at].member.id;
                let mut later = backends[at + 1..].iter().chain(&backends[..=at]);
                let next = later.find(|backend| !backend.is_drained);
                (own, next.map_or(own, |backend| backend.member.id))
            })
            .collect();
        let is_as_before = |ring: usize| {
            next.iter().all(|&(id, next)| {
                let old = self.old.backends.get(id as usize);
                old.is_some_and(|old| old.present != 0 && old.next[ring] == next)
            })
        };
        let kept = before.ring(color);
        let ring = if is_as_before(kept) { kept } else { 1 - kept };
        for (id, next) in next {
            at(&mut self.new.backends, id, BackendRecord::default()).next[ring] = next;
        }
        if ring == 0 {
            0
        } else {
            LISTENER_RINGS[color as usize]
        }
    }

    /// Notes whose replies come from the endpoints of `backends`: nobody's when listeners share one.
    fn add_endpoints(&mut self, listener: u32, key: &ListenerKey, backends: &[Backend]) {
        for Backend { member, .. } in backends {
            let endpoint = ListenerKey {
                vip: member.address,
                port_be: member.port_be,
                ..*key
            };
            let record = EndpointRecord {
                vip: key.vip,
                backend: member.id,
                port_be: key.port_be,
                flags: ENDPOINT_PRESENT,
            };
            let known = self.addresses.endpoints.entry(endpoint).or_insert(record);
            let owner = self.new.backends.get(known.backend as usize);
            if owner.is_none_or(|owner| owner.listener != listener) {
                known.backend = SHARED_ENDPOINT;
            }
        }
    }

    /// Marks endpoints whose replies are one backend's flows' alone: then a reply tells whose it is.
    fn mark_exclusive(&mut self) {
        let listeners = self.old.listeners.iter().chain(&self.new.listeners);
        let protocols: HashMap<u32, u8> = listeners.map(|(key, id)| (*id, key.protocol)).collect();
        let mut users: HashMap<ListenerKey, u32> = HashMap::new();
        for backend in self.new.backends.iter().filter(|it| it.present != 0) {
            for endpoint in endpoints_of(backend, &protocols) {
                *users.entry(endpoint).or_default() += 1;
            }
        }
        // Those that are configured no more, whose flows may go on.
        let is_leaving = |id: &&u32| {
            let new = self.new.backends.get(**id as usize);
            new.is_some_and(|new| new.present == 0)
        };
        let leaving = self.in_use.iter().filter(is_leaving);
        let leaving = leaving.filter_map(|id| self.old.backends.get(*id as usize));
        let leaving: HashSet<ListenerKey> = leaving
            .flat_map(|backend| endpoints_of(backend, &protocols))
            .collect();
        let known: HashMap<_, _> = editions::endpoints(self.old).collect();
        for (key, record) in &mut self.addresses.endpoints {
            let was_exclusive =
                (known.get(key)).is_some_and(|old| old.is_exclusive_to(record.backend));
            let is_only = users.get(key) == Some(&1) && (was_exclusive || !leaving.contains(key));
            if is_only || cfg!(mutant = "exclusive-though-shared") {
                record.flags |= ENDPOINT_EXCLUSIVE;
            }
        }
    }

    /// Keeps the endpoints that no listener uses any more while their backends may have flows: some of those may
    /// be found by their endpoint only.
    fn keep_former_endpoints(&mut self) {
        for (key, record) in editions::endpoints(self.old) {
            // The id may be another backend's by now.
            let backend = self.old.backends.get(record.backend as usize);
            let is_there = backend.is_some_and(|backend| {
                (backend.address, backend.port_be) == (key.vip, key.port_be)
            });
            let may_have_flows = record.backend != SHARED_ENDPOINT
                && is_there
                && self.in_use.contains(&record.backend);
            if may_have_flows && !cfg!(mutant = "endpoints-forgotten-at-once") {
                let former = EndpointRecord {
                    flags: ENDPOINT_FORMER,
                    ..*record
                };
                self.addresses.endpoints.entry(*key).or_insert(former);
            }
        }
    }

    fn backend(&mut self, record: &BackendRecord) -> Result<u32, DataPathError> {
        let known = self.known_backends.get(&backend_key(record)).copied();
        let id = match known {
            Some(id) => id,
            None => self.backend_ids.claim()?,
        };
        let slot = at(&mut self.new.backends, id, BackendRecord::default());
        // Packets may read the rings of a known one until the new image is visible.
        let next = if known.is_some() { slot.next } else { [0; 2] };
        *slot = BackendRecord { next, ..*record };
        Ok(id)
    }

    /// Keeps what is left of listeners that are configured no more, until it is ended: without slots, and
    /// without endpoints, so that nothing of it begins a flow.
    pub(super) fn keep_removed(&mut self, leaving: &Leaving) {
        for (key, &id) in &self.old.listeners {
            let record = self.old.records.get(id as usize);
            let Some(record) = record.filter(|record| record.is_present()) else {
                continue;
            };
            if self.new.listeners.contains_key(key) {
                continue;
            }
            let name = self.old.names.get(usize::from(record.service));
            let service = name.and_then(|name| name.text()).unwrap_or("");
            let is_ended = Place::of(key).is_none_or(|place| leaving.ended.contains(&place));
            let removed = if record.is_removed() {
                (!is_ended).then_some(*record)
            } else {
                let terms = leaving.terms_of(service);
                terms.map(|terms| record.removed(terms.until, terms.cut_at_end))
            };
            let Some(removed) = removed else {
                continue;
            };
            self.new.listeners.insert(*key, id);
            self.addresses
                .vips
                .insert(ListenerKey::any_of(key.vip, key.af), ());
            *at(&mut self.new.records, id, ListenerRecord::default()) = removed;
            // The name belongs to the id as long as something is shown by it.
            let name = name.copied().unwrap_or(FREE_NAME);
            *at(&mut self.new.names, u32::from(record.service), FREE_NAME) = name;
        }
    }

    /// Places the new tables into slots that neither the old nor the new image uses.
    pub(super) fn finish(mut self) -> Result<Evolved, DataPathError> {
        let records = self.old.records.iter().chain(&self.new.records);
        let used = records.flat_map(|record| record.tables);
        let mut gaps = Gaps::between(used, self.limits.maglev_slots);
        let mut pending = std::mem::take(&mut self.pending);
        // Large ones first, while there are large gaps.
        pending.sort_by_key(|(.., ids)| std::cmp::Reverse(ids.len()));
        let mut slots = Vec::new();
        for (listener, color, ids) in pending {
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
        self.mark_exclusive();
        self.keep_former_endpoints();
        let edited = editions::edit(self.old, &self.addresses);
        *at(
            &mut self.new.records,
            NO_LISTENER,
            ListenerRecord::default(),
        ) = edited.record;
        self.new.addresses = edited.addresses;
        Ok(Evolved {
            image: self.new,
            slots,
            retiring: edited.retiring,
        })
    }
}

/// What keeps its id from one image to the next: a backend of a service, color and listener. One whose listener
/// goes over to another service is another: the flows before are the service's before.
type BackendKey = (u16, u32, u8, WideAddress, u16);

/// The endpoint of a backend; of one whose listener nobody knows any more, with either protocol.
fn endpoints_of(backend: &BackendRecord, protocols: &HashMap<u32, u8>) -> Vec<ListenerKey> {
    let known = protocols.get(&backend.listener);
    let both = [Protocol::Tcp as u8, Protocol::Udp as u8];
    let protocols = known.map_or(&both[..], std::slice::from_ref);
    let endpoint = |&protocol: &u8| ListenerKey {
        vip: backend.address,
        port_be: backend.port_be,
        protocol,
        af: backend.address.af(),
    };
    protocols.iter().map(endpoint).collect()
}

const fn backend_key(record: &BackendRecord) -> BackendKey {
    (
        record.service,
        record.listener,
        record.color,
        record.address,
        record.port_be,
    )
}

fn in_hand(backend: &DrainedBackend) -> Drained<'_> {
    let list = backend.list.as_ref();
    (
        backend.endpoint,
        list.map(|(listener, color)| (listener.as_str(), *color)),
    )
}

impl ServiceInHand<'_> {
    fn is_drained(&self, endpoint: SocketAddr, listener: &str, color: Color) -> bool {
        self.drained.contains(&(endpoint, None))
            || self.drained.contains(&(endpoint, Some((listener, color))))
    }
}

/// A configured backend of a listener and color.
#[derive(Clone, Copy, Debug)]
struct Backend {
    member: Member,
    is_drained: bool,
}

impl Backend {
    /// Its share of the table, if it has one.
    fn member(self) -> Option<Member> {
        (!self.is_drained).then_some(self.member)
    }
}

fn endpoint(backend: &BackendConfig) -> SocketAddr {
    SocketAddr::new(backend.address, backend.port)
}
