//! Listeners that are configured no more, while their last flows still run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use switcher_common::{
    cut::Action,
    service::{ListenerKey, Protocol},
};

use super::{Busy, Image};

/// What becomes of listeners that a configuration has no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// By name of the service.
    pub terms: BTreeMap<String, RemovalTerms>,
    /// Of all other services; absent: their listeners leave at once.
    pub others: Option<RemovalTerms>,
    /// Removed listeners that leave now.
    pub ended: BTreeSet<Place>,
}

impl Leaving {
    /// All leave at once.
    pub const AT_ONCE: &Self = &Self {
        terms: BTreeMap::new(),
        others: None,
        ended: BTreeSet::new(),
    };

    /// The terms of the listeners of `service`.
    pub(super) fn terms_of(&self, service: &str) -> Option<RemovalTerms> {
        self.terms.get(service).copied().or(self.others)
    }
}

/// How long a removed listener stays known, and what comes then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovalTerms {
    /// Tick at which nothing of it is known any more.
    pub until: u32,
    /// What cuts the flows that are left then; absent: they live on.
    pub cut_at_end: Option<Action>,
}

/// Where a listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Address and port.
    pub vip: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Place {
    /// The place of `key`; `None`: it is no listener's.
    pub(super) fn of(key: &ListenerKey) -> Option<Self> {
        let address: IpAddr = key.vip.to_ip();
        Some(Self {
            vip: SocketAddr::new(address, u16::from_be(key.port_be)),
            protocol: Protocol::from_number(key.protocol)?,
        })
    }
}

/// A listener that is configured no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedListener {
    /// Where it listened.
    pub place: Place,
    /// Name of its service.
    pub service: String,
    /// Id of its service.
    pub service_id: u16,
    /// It selected the standby.
    pub preview: bool,
    /// How long it stays known.
    pub terms: RemovalTerms,
    /// Its id, which nothing else gets while it is known.
    pub id: u32,
}

impl Image {
    /// The removed listeners.
    pub(in super::super) fn removed(&self) -> Vec<RemovedListener> {
        let removed = |(key, id): (&ListenerKey, &u32)| {
            let record = self.records.get(*id as usize)?;
            let name = self.names.get(usize::from(record.service));
            record.is_removed().then_some(RemovedListener {
                place: Place::of(key)?,
                service: name.and_then(|it| it.text()).unwrap_or("").to_owned(),
                service_id: record.service,
                preview: record.is_preview(),
                terms: RemovalTerms {
                    until: record.removed_until,
                    cut_at_end: record.cut_at_end(),
                },
                id: *id,
            })
        };
        self.listeners.iter().filter_map(removed).collect()
    }

    /// Flows in flight by listener id, as `busy` has counted them.
    pub(in super::super) fn live_flows(&self, busy: &Busy) -> HashMap<u32, u64> {
        let mut live = HashMap::new();
        for (id, flows) in &busy.live {
            if let Some(backend) = self.backends.get(*id as usize) {
                *live.entry(backend.listener).or_default() += u64::from(*flows);
            }
        }
        live
    }
}
