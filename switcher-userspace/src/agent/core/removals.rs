//! Listeners that an apply has removed: what is left of each stays known while its flows run, at most for its
//! service's drain timeout.
//!
//! The maps are the only place that knows of them, so they outlive the agent and end with the boot. The
//! program enforces their time by itself; the agent sees when the last flow has ended, and tidies up.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use switcher_common::{
    cut::Action,
    service::{Color, ServiceSwitch},
};

use super::{
    Core, Scanned,
    encode::{encode, without_slots},
    record::Deed,
};
use crate::{
    agent::{clock, view::removed_listener},
    api::history::{HistoryEntry, What},
    config::{Config, DEFAULT_DRAIN_TIMEOUT, ServiceConfig},
    datapath::{Busy, DataPath, DataPathError, Leaving, RemovalTerms, RemovedListener, Wanted},
    switching::{AtDeadline, DrainTerms, Now, Switchboard},
};

/// Scans in a row without a live flow that end a removal: one scan may miss an element.
const EMPTY_SCANS: u32 = 2;
/// Scans that begin after the deadline and cut what is left.
const CUTTING_SCANS: u32 = 2;

/// A removed listener, and how far it is.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::agent) struct Removal {
    pub(in crate::agent) listener: RemovedListener,
    /// When it ends at the latest.
    pub(in crate::agent) until: Now,
    /// Live flows at the newest scan.
    pub(in crate::agent) in_flight: Option<u64>,
    empty_scans: u32,
    late_scans: u32,
}

/// What is left of removed listeners.
#[derive(Debug)]
pub(in crate::agent) struct Removals {
    all: Vec<Removal>,
    /// Switch states of services that are configured no more.
    states: BTreeMap<u16, ServiceSwitch>,
    /// Scans that began before may have missed a flow that was being recorded.
    since: Instant,
}

impl Removals {
    /// Those that the maps hold, of which `known` may have seen some before.
    pub(in crate::agent) fn of(
        path: &DataPath,
        ids: &BTreeMap<String, u16>,
        known: Option<&Self>,
    ) -> Result<Self, DataPathError> {
        let ids: BTreeSet<u16> = ids.values().copied().collect();
        let now = clock::now();
        let known = known.map_or(&[][..], |known| &known.all);
        let known: HashMap<_, _> = known.iter().map(|it| (it.listener.place, it)).collect();
        let known = |listener: &RemovedListener| {
            let known = known.get(&listener.place).copied();
            known.filter(|it| it.listener == *listener).cloned()
        };
        let all: Vec<Removal> = (path.removed().into_iter())
            .map(|listener| {
                known(&listener).unwrap_or_else(|| Removal {
                    until: clock::instant_of_tick(listener.terms.until, now),
                    listener,
                    in_flight: None,
                    empty_scans: 0,
                    late_scans: 0,
                })
            })
            .collect();
        let states = if all.is_empty() {
            Vec::new()
        } else {
            path.switch_states()?
        };
        let state = |it: &Removal| {
            let id = it.listener.service_id;
            let state = *states.get(usize::from(id))?;
            (!ids.contains(&id)).then_some((id, state))
        };
        Ok(Self {
            states: all.iter().filter_map(state).collect(),
            all,
            since: Instant::now(),
        })
    }

    /// All.
    pub(in crate::agent) fn all(&self) -> &[Removal] {
        &self.all
    }

    /// The color that was active in a service that is configured no more.
    pub(super) fn active(&self, service: &str) -> Option<Color> {
        let mut all = self.all.iter().map(|it| &it.listener);
        let of = all.find(|listener| listener.service == service)?;
        let state = self.states.get(&of.service_id)?;
        Some(Color::from_bit(state.active))
    }

    /// The switch state of the services of `board`, and of those that are configured no more.
    pub(super) fn encode(
        &self,
        board: &Switchboard,
        ids: &BTreeMap<String, u16>,
    ) -> Vec<ServiceSwitch> {
        let mut states = encode(board, ids);
        for (&id, state) in &self.states {
            let id = usize::from(id);
            if states.len() <= id {
                states.resize(id + 1, ServiceSwitch::default());
            }
            states[id] = *state;
        }
        states
    }

    /// Takes in a scan that has counted by backend. Returns those that it ended.
    fn observe(&mut self, scanned: &Scanned, path: &DataPath) -> Vec<Removal> {
        let Some(busy) = &scanned.busy else {
            return Vec::new();
        };
        if scanned.scan.began_at < self.since {
            return Vec::new();
        }
        let live = path.live_flows(busy);
        let mut ended = Vec::new();
        for removal in &mut self.all {
            let in_flight = live.get(&removal.listener.id).copied().unwrap_or(0);
            if removal.observe(scanned.began_boot_ms, in_flight) {
                ended.push(removal.clone());
            }
        }
        ended
    }
}

impl Removal {
    /// Takes in a scan; whether that was the end.
    fn observe(&mut self, began_boot_ms: u64, in_flight: u64) -> bool {
        self.in_flight = Some(in_flight);
        self.empty_scans = if in_flight == 0 {
            self.empty_scans + 1
        } else {
            0
        };
        if began_boot_ms >= self.until.boot_ms {
            self.late_scans += 1;
        }
        let late_scans = match self.listener.terms.cut_at_end {
            None => 1,
            Some(_) => CUTTING_SCANS,
        };
        self.empty_scans >= EMPTY_SCANS || self.late_scans >= late_scans
    }

    /// What happens at its deadline to the flows that are left.
    pub(in crate::agent) fn at_deadline(&self) -> AtDeadline {
        match self.listener.terms.cut_at_end {
            None => AtDeadline::Keep,
            Some(Action::Reset | Action::ResetAnswered) => AtDeadline::Reset,
            Some(Action::Move) => AtDeadline::Move,
        }
    }
}

impl Core {
    /// Learns which removed listeners the maps hold now.
    pub(super) fn learn_removals(&mut self) {
        match Removals::of(&self.path, &self.ids, Some(&self.removals)) {
            Ok(removals) => self.removals = removals,
            Err(error) => {
                tracing::error!(%error, "removed listeners are not shown; they end when the agent is started again");
            }
        }
        self.collector.set_removing(!self.removals.all.is_empty());
    }

    /// Takes in a scan, and makes the maps forget what it ended.
    pub(super) fn observe_removals(&mut self, scanned: &Scanned) {
        let ended = self.removals.observe(scanned, &self.path);
        let (false, Some(busy)) = (ended.is_empty(), &scanned.busy) else {
            return;
        };
        if let Err(error) = self.forget(&ended, busy) {
            tracing::error!(%error, "removed listeners have ended, and are still known; the next scan tries again");
            return;
        }
        let entry = self.entry_of_removals(&ended);
        self.save(vec![entry]);
    }

    fn forget(&mut self, ended: &[Removal], busy: &Busy) -> Result<(), DataPathError> {
        let leaving = Leaving {
            ended: ended.iter().map(|it| it.listener.place).collect(),
            ..Leaving::default()
        };
        let wanted = Wanted {
            config: &self.config,
            drained: &without_slots(&self.config, &self.board),
            leaving: &leaving,
        };
        self.path.apply_counted(&wanted, busy, |_, _| Ok(()))?;
        self.learn_removals();
        self.collector.pace(self.board.is_draining());
        self.set_orders()
    }

    fn entry_of_removals(&mut self, ended: &[Removal]) -> HistoryEntry {
        for removal in ended {
            tracing::info!(
                service = removal.listener.service,
                vip = %removal.listener.place.vip,
                protocol = removal.listener.place.protocol.name(),
                in_flight = removal.in_flight,
                "a removed listener is known no more"
            );
        }
        let services: BTreeSet<&String> = ended.iter().map(|it| &it.listener.service).collect();
        let deed = Deed {
            what: What::RemovalEnded,
            services: services.into_iter().cloned().collect(),
            by: None,
            reason: None,
            from_generation: self.board.generation,
        };
        let mut entry = self.entry(deed, None);
        entry.removed = ended.iter().map(|it| removed_listener(it, true)).collect();
        entry
    }
}

/// How long the listeners that `config` has no more stay known: as drains of their services take. Services
/// that it has no more go by what they were `before`, or by the defaults where nobody knows.
pub(in crate::agent) fn leaving(before: Option<&Config>, config: &Config) -> Leaving {
    let now = clock::now();
    let terms = |terms: DrainTerms| RemovalTerms {
        until: clock::tick_of(now.plus_ms(terms.timeout_ms)),
        cut_at_end: match terms.at_deadline {
            AtDeadline::Keep => None,
            AtDeadline::Reset => Some(Action::Reset),
            AtDeadline::Move => Some(Action::Move),
        },
    };
    let of_service = |service: &ServiceConfig| {
        let drain = DrainTerms {
            timeout_ms: service.drain_timeout.as_millis(),
            at_deadline: service.at_deadline,
        };
        (service.name.clone(), terms(drain))
    };
    let before = before.map_or(&[][..], |before| &before.services);
    Leaving {
        terms: (before.iter().chain(&config.services))
            .map(of_service)
            .collect(),
        others: Some(terms(DrainTerms {
            timeout_ms: DEFAULT_DRAIN_TIMEOUT.as_millis(),
            at_deadline: AtDeadline::default(),
        })),
        ..Leaving::default()
    }
}
