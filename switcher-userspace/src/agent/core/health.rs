//! News of backends' health: what they change in the tables, and how the history tells them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{
    Core,
    encode::{orders, without_slots},
    errors::refused,
    failover::{RETRY_MS, terms_if_on},
    record::Deed,
};
use crate::{
    agent::{
        checks::HealthNews,
        clock,
        gate::{ConfiguredGate, ejected},
    },
    api::{
        history::{HealthEntry, HistoryEntry, What},
        types::ApiError,
    },
    config::ServiceConfig,
    datapath::{DataPathError, DrainedBackend, Leaving, Wanted},
    failover::{self, Health},
    switching::{Change, Conditions, Gate as _, Order, Service, Shortage, Switchboard},
};

/// Backends that fail within this time leave their tables together: that takes a barrier, which the next news
/// would wait for, and a crash seldom has one backend alone.
const GATHER_MS: u64 = 50;

impl Core {
    /// Takes in what checks have found, of all backends together.
    pub(super) fn take_health(&mut self, news: Vec<HealthNews>) {
        let mut next = self.board.clone();
        let mut told = Vec::new();
        let mut is_settled = false;
        for news in news {
            is_settled |= self.asking.heard(&news.service, news.endpoint);
            is_settled |= self.asking.proved(&news);
            if self.note_health(&mut next, &news) {
                told.push(news);
            }
        }
        if next == self.board {
            if is_settled {
                self.follow_policy();
            }
            return;
        }
        let (old, new) = (
            without_slots(&self.config, &self.board),
            without_slots(&self.config, &next),
        );
        let before = std::mem::replace(&mut self.board, next);
        let ordered_at = self.order_by_health(&before);
        if old.is_subset(&new) {
            // Whoever leaves has left; the tables can wait for others.
            if old != new {
                self.follow_at(clock::now().plus_ms(GATHER_MS).boot_ms);
            }
        } else {
            // Whoever counts again has his slots before somebody relies on him.
            self.follow_board();
        }
        let mut entries: Vec<_> = told.iter().map(|news| self.entry_of_health(news)).collect();
        self.tell_ejections(&mut entries, &told, ordered_at);
        entries.extend(self.decide());
        // The last of a color leaves when the color is left.
        self.tell_ejections(&mut entries, &told, Some(Instant::now()));
        for (service, shortage) in self.short_standbys() {
            let reason = format!(
                "the standby's share has ended: its listener {} has {} eligible backends, {} are needed",
                shortage.listener, shortage.eligible, shortage.min_healthy
            );
            match self.end_split(&service, &reason, None) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    tracing::error!(service, %error, "the share of a standby that fails is not ended; the next news of health try again");
                }
            }
        }
        self.save(entries);
    }

    /// Has no more flows begin at backends that are ejected, cuts the flows of dead ones, if they are to be cut,
    /// and takes back what was ordered of those that have come back. Stores that wait for no program: neither
    /// the next news nor a failover is held up. Returns when it was done, if something was.
    fn order_by_health(&mut self, before: &Switchboard) -> Option<Instant> {
        let wanted = |board| orders(board, &self.ids, &self.config);
        let (old, new) = (wanted(before), wanted(&self.board));
        if old == new {
            return None;
        }
        let has_newly_dead = (new.backends.keys()).any(|it| !old.backends.contains_key(it));
        let ordered = self.give_orders(new);
        // Silent flows are found by a scan, and both their sides are told.
        if has_newly_dead {
            self.collector.pace(self.board.is_draining());
        }
        match ordered {
            Ok(()) => Some(Instant::now()),
            Err(error) => {
                tracing::error!(%error, "ejected backends keep their fresh flows until their tables are filled, and dead ones their flows; the next attempt comes in a second");
                None
            }
        }
    }

    /// Services whose standby has a share of the clients and could not serve them any more. Where automated
    /// failover is on, the policy decides about that.
    fn short_standbys(&self) -> Vec<(String, Shortage)> {
        let gate = ConfiguredGate::new(&self.config, &self.board);
        let short = |(name, service): (&String, &Service)| {
            let shortage = gate.shortage(name, service.standby(), &service.drained_backends)?;
            let is_due = service.split_percent > 0 && !cfg!(mutant = "split-outlives-standby");
            let mut configured = self.config.services.iter();
            if configured.any(|it| it.name == *name && terms_if_on(it, service).is_some()) {
                return None;
            }
            is_due.then(|| (name.clone(), shortage))
        };
        self.board.services.iter().filter_map(short).collect()
    }

    /// Gives all clients of `service` to its active color, and keeps what the policy remembers if it is by
    /// its decision.
    pub(super) fn end_split(
        &mut self,
        service: &str,
        reason: &str,
        remembered: Option<failover::State>,
    ) -> Result<HistoryEntry, ApiError> {
        let order = Order {
            services: vec![service.to_owned()],
            conditions: Conditions::default(),
            change: Change::Split { percent: 0 },
            drains: BTreeMap::new(),
        };
        let deed = Deed {
            what: What::Split,
            services: order.services.clone(),
            by: None,
            reason: Some(reason.to_owned()),
            from_generation: self.board.generation,
        };
        let gate = ConfiguredGate::new(&self.config, &self.board);
        let next = self.board.changed(&order, &gate, clock::now());
        let mut next = next.map_err(|refusal| refused(&refusal))?;
        if let (Some(state), Some(remembered)) = (next.services.get_mut(service), remembered) {
            state.failover = remembered;
        }
        self.switch_to(next)?;
        tracing::warn!(service, reason, "split ended");
        Ok(self.entry(deed, None))
    }

    /// Has orders and tables follow the board at instant `at` or before.
    pub(super) fn follow_at(&mut self, at: u64) {
        self.follow_due = Some(self.follow_due.map_or(at, |due| due.min(at)));
    }

    /// Makes orders and tables what the board wants: slots for those that can serve, if others have them. No
    /// flow is cut by that, and no id gets another meaning. A failure is tried again.
    pub(super) fn follow_board(&mut self) {
        self.follow_due = None;
        if let Err(error) = self.set_orders() {
            tracing::error!(%error, "orders are not what the state wants; the next attempt comes in a second");
        }
        let without = without_slots(&self.config, &self.board);
        if let Err(error) = self.fill_tables(&without) {
            tracing::error!(%error, "unhealthy backends keep their slots; the next attempt comes in a second");
            self.follow_at(clock::now().plus_ms(RETRY_MS).boot_ms);
        }
    }

    /// Gives slots to those that have some with `next` alone, before packets rely on them: which unhealthy
    /// backends stay depends on the active color.
    pub(super) fn give_slots_for(&mut self, next: &Switchboard) {
        let old = without_slots(&self.config, &self.board);
        let new = without_slots(&self.config, next);
        if old.is_subset(&new) {
            return;
        }
        let without = old.intersection(&new).cloned().collect();
        if let Err(error) = self.fill_tables(&without) {
            tracing::error!(%error, "backends that are to get fresh flows have no slots yet");
        }
    }

    /// Fills the tables with all but those that are `without` slots.
    pub(super) fn fill_tables(
        &mut self,
        without: &BTreeSet<DrainedBackend>,
    ) -> Result<(), DataPathError> {
        if cfg!(mutant = "tables-never-follow") {
            return Ok(());
        }
        let wanted = Wanted {
            config: &self.config,
            drained: without,
            leaving: Leaving::AT_ONCE,
        };
        self.path.apply_uncounted(&wanted).map(drop)
    }

    /// Keeps `news` in `next`; whether they are worth telling.
    fn note_health(&self, next: &mut Switchboard, news: &HealthNews) -> bool {
        let is_checked = |service: &&ServiceConfig| {
            service.name == news.service
                && service.check.is_some()
                && service.endpoints().any(|it| it == news.endpoint)
        };
        let service = next.services.get_mut(&news.service);
        // An apply may have taken it away since it was asked.
        let Some(service) =
            service.filter(|_| self.config.services.iter().any(|it| is_checked(&it)))
        else {
            return false;
        };
        // A backend that has failed its checks may die later.
        let is_dead = news.is_dead && news.health == Health::Unhealthy;
        if is_dead {
            let since = service.dead.entry(news.endpoint);
            since.or_insert_with(clock::now);
        } else {
            service.dead.remove(&news.endpoint);
        }
        if service.health_of(news.endpoint) == news.health {
            return false;
        }
        let before = service.health.insert(news.endpoint, news.health);
        let was_bad = before == Some(Health::Unhealthy);
        was_bad != (news.health == Health::Unhealthy)
    }

    fn entry_of_health(&mut self, news: &HealthNews) -> HistoryEntry {
        let health = match news.health {
            Health::Unhealthy => "unhealthy",
            Health::Healthy | Health::Unknown => "healthy",
        };
        tracing::warn!(
            service = news.service,
            backend = %news.endpoint,
            health,
            evidence = news.evidence,
            "a backend's health has changed"
        );
        let deed = Deed {
            what: What::Health,
            services: vec![news.service.clone()],
            by: None,
            reason: Some(format!("{} is {health}: {}", news.endpoint, news.evidence)),
            from_generation: self.board.generation,
        };
        let mut entry = self.entry(deed, None);
        entry.health = Some(HealthEntry {
            backend: news.endpoint,
            is_healthy: news.health != Health::Unhealthy,
            refused_to_ejected_ms: None,
        });
        entry
    }

    /// Tells in the entries of those that are out by now and were not before that they are so since `ejected_at`.
    fn tell_ejections(
        &self,
        entries: &mut [HistoryEntry],
        told: &[HealthNews],
        ejected_at: Option<Instant>,
    ) {
        for (entry, news) in entries.iter_mut().zip(told) {
            if let Some(health) = &mut entry.health
                && health.refused_to_ejected_ms.is_none()
            {
                health.refused_to_ejected_ms = self.refused_to_ejected_ms(news, ejected_at);
            }
        }
    }

    /// How long flows could begin at the backend of `news` after it had refused a connection, until the store at
    /// `ejected_at`.
    fn refused_to_ejected_ms(&self, news: &HealthNews, ejected_at: Option<Instant>) -> Option<u64> {
        let taken = ejected_at?.checked_duration_since(news.refused_at?)?;
        let state = self.board.services.get(&news.service)?;
        let mut services = self.config.services.iter();
        let service = services.find(|it| it.name == news.service)?;
        let out = ejected(service, state);
        let is_out = out.iter().any(|it| it.endpoint == news.endpoint);
        let ms = u64::try_from(taken.as_micros().div_ceil(1_000)).ok();
        ms.filter(|_| is_out && news.health == Health::Unhealthy)
    }
}
