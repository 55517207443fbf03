//! What ends by itself: pauses, and flips that nobody confirmed; and what follows a while later: orders and tables.

use super::{Core, errors::refused, failover::RETRY_MS, record::Deed};
use crate::{
    agent::{clock, gate::ConfiguredGate},
    api::{
        history::{HistoryEntry, What},
        types::ApiError,
    },
    switching::{Change, Conditions, Order, Service, Switchboard},
};

/// Why a flip was not taken back.
pub(super) enum NotReverted {
    /// The kernel would not.
    ByKernel(ApiError),
    /// The color before could not serve.
    ByGate(ApiError),
}

impl Core {
    /// Carries out what is overdue, and tells readers and the disk.
    pub(super) fn end_overdue(&mut self) {
        let now = clock::now();
        let before = self.board.clone();
        self.board.end_pauses(now);
        let mut entries = self.entries_of_pauses(&before);
        // The program has ended them by itself; their ticks would come again when ticks wrap.
        if self.board != before
            && let Err(error) = self.set_orders()
        {
            tracing::error!(%error, "pauses that have ended stay in the map");
        }
        if self.follow_due.is_some_and(|due| due <= now.boot_ms) {
            self.follow_board();
        }
        if self.patience_ends().is_some_and(|end| end <= now.boot_ms) {
            self.lose_patience();
        }
        for services in self.board.unconfirmed(now).into_values() {
            entries.extend(self.take_back(services));
        }
        entries.extend(self.end_drills());
        entries.extend(self.decide());
        if self.board != before || !entries.is_empty() {
            self.save(entries);
            self.publish(None, None);
        }
    }

    /// An entry for the services whose pauses have ended by themselves.
    fn entries_of_pauses(&mut self, before: &Switchboard) -> Vec<HistoryEntry> {
        let has_ended = |(name, service): &(&String, &Service)| {
            let now = self.board.services.get(*name);
            now.is_some_and(|now| now.pauses.len() < service.pauses.len())
        };
        let ended = before.services.iter().filter(has_ended);
        let services: Vec<String> = ended.map(|(name, _)| name.clone()).collect();
        if services.is_empty() {
            return Vec::new();
        }
        let deed = Deed {
            what: What::PauseEnded,
            services,
            by: None,
            reason: None,
            from_generation: self.board.generation,
        };
        vec![self.entry(deed, None)]
    }

    /// Undoes a flip that was not confirmed in time, in all its services or in none. Of attempts that the kernel
    /// refuses one after the other, the first is told.
    fn take_back(&mut self, services: Vec<String>) -> Option<HistoryEntry> {
        let names = services.join(",");
        let from_generation = self.board.generation;
        let error = match self.revert(&services, |_, _| {}) {
            Ok(()) => {
                tracing::warn!(
                    services = names,
                    generation = self.board.generation,
                    "the flip was not confirmed in time: taken back"
                );
                self.asking.done(&names);
                None
            }
            Err(NotReverted::ByKernel(error)) => {
                tracing::error!(services = names, %error, "the flip was not confirmed in time, and the kernel does not take it back; the next attempt follows");
                let retry = clock::now().plus_ms(RETRY_MS);
                self.board.postpone_confirmation(&services, retry);
                if !self.asking.fails_first(&names) {
                    return None;
                }
                Some(error)
            }
            Err(NotReverted::ByGate(error)) => {
                self.asking.done(&names);
                tracing::error!(services = names, %error, "the flip was not confirmed in time, and stands all the same: the color before could not serve");
                Some(error)
            }
        };
        let deed = Deed {
            what: What::Unconfirmed,
            services,
            by: None,
            reason: None,
            from_generation,
        };
        Some(self.entry(deed, error))
    }

    /// Undoes the unconfirmed flip of `services`, whose states `remember` it. One that the gate does not let go
    /// back at its deadline stands.
    pub(super) fn revert(
        &mut self,
        services: &[String],
        remember: impl Fn(&mut Service, &str),
    ) -> Result<(), NotReverted> {
        let gate = ConfiguredGate::new(&self.config, &self.board);
        let mut order = Order {
            drains: self.drain_terms(services, None, None),
            services: services.to_vec(),
            conditions: Conditions::default(),
            change: Change::Revert,
        };
        match self.board.changed(&order, &gate, clock::now()) {
            Ok(mut next) => {
                for (name, state) in &mut next.services {
                    remember(state, name);
                }
                self.switch_to(next)
                    .map(drop)
                    .map_err(NotReverted::ByKernel)
            }
            Err(refusal) => {
                let is_over = |name: &String| {
                    let service = self.board.services.get(name);
                    let confirm = service.and_then(|it| it.confirm);
                    confirm.is_none_or(|it| it.deadline.boot_ms <= clock::now().boot_ms)
                };
                if services.iter().all(is_over) {
                    order.change = Change::Confirm;
                    if let Ok(next) = self.board.changed(&order, &gate, clock::now()) {
                        self.board = next;
                    }
                }
                Err(NotReverted::ByGate(refused(&refusal)))
            }
        }
    }
}
