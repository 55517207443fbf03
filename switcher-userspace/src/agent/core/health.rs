//! News of backends' health: what they change in the tables, and how the history tells them.

use std::{collections::BTreeMap, time::Instant};

use super::{
    Core,
    encode::{ejection_orders, without_slots},
    errors::refused,
    failover::terms_if_on,
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
    datapath::{Leaving, Wanted},
    failover::{self, Health},
    switching::{Change, Conditions, Gate as _, Order, Service, Shortage, Switchboard},
};

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
        let is_same =
            without_slots(&self.config, &self.board) == without_slots(&self.config, &next);
        let before = std::mem::replace(&mut self.board, next);
        self.are_slots_old |= !is_same;
        let mut entries: Vec<_> = told.iter().map(|news| self.entry_of_health(news)).collect();
        // Before the slots: whoever fails over does not wait for tables to be filled.
        entries.extend(self.decide());
        let renewed_at = self.renew_slots();
        for (entry, news) in entries.iter_mut().zip(&told) {
            let taken = self.refused_to_ejected_ms(news, renewed_at);
            if let Some(health) = &mut entry.health {
                health.refused_to_ejected_ms = taken;
            }
        }
        self.cut_dead(&before);
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

    /// Cuts the flows of backends that have died, if they are to be cut, and takes back what was ordered of
    /// those that have come back.
    fn cut_dead(&mut self, before: &Switchboard) {
        let wanted = |board| ejection_orders(board, &self.ids, &self.config);
        let (old, new) = (wanted(before), wanted(&self.board));
        if old == new {
            return;
        }
        if let Err(error) = self.set_orders() {
            tracing::error!(%error, "flows of a dead backend are not cut; the next change of orders tries again");
        }
        // Silent flows are found by a scan, and both their sides are told.
        if new.keys().any(|it| !old.contains_key(it)) {
            self.collector.pace(self.board.is_draining());
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

    /// Gives slots to those that can serve, if others have them. No flow is cut, and no id gets another
    /// meaning. A failure is tried again after the next scan. Returns when it was done, if something was.
    pub(super) fn renew_slots(&mut self) -> Option<Instant> {
        if !self.are_slots_old {
            return None;
        }
        let wanted = Wanted {
            config: &self.config,
            drained: &without_slots(&self.config, &self.board),
            leaving: Leaving::AT_ONCE,
        };
        match self.path.apply_uncounted(&wanted) {
            Ok(replaced) => {
                self.are_slots_old = false;
                replaced.map(|it| it.stored_at)
            }
            Err(error) => {
                tracing::error!(%error, "unhealthy backends keep their slots; the next scan tries again");
                None
            }
        }
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

    /// How long the backend of `news`, which a store at `renewed_at` has taken out of its tables, was in them
    /// after it had refused a connection.
    fn refused_to_ejected_ms(&self, news: &HealthNews, renewed_at: Option<Instant>) -> Option<u64> {
        let taken = renewed_at?.checked_duration_since(news.refused_at?)?;
        let state = self.board.services.get(&news.service)?;
        let mut services = self.config.services.iter();
        let service = services.find(|it| it.name == news.service)?;
        let out = ejected(service, state);
        let is_out = out.iter().any(|it| it.endpoint == news.endpoint);
        let ms = u64::try_from(taken.as_micros().div_ceil(1_000)).ok();
        ms.filter(|_| is_out && news.health == Health::Unhealthy)
    }
}
