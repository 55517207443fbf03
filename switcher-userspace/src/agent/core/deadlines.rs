//! What ends by itself: pauses, and flips that nobody confirmed.

use super::{Core, errors::refused, record::Deed};
use crate::{
    agent::{clock, gate::ConfiguredGate},
    api::{
        history::{HistoryEntry, What},
        types::ApiError,
    },
    switching::{Change, Conditions, Order, Service, Switchboard},
};

/// How long a flip that the kernel would not take back waits for the next attempt.
const RETRY_MS: u64 = 1_000;

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
        for services in self.board.unconfirmed(now).into_values() {
            entries.push(self.take_back(services));
        }
        self.save(entries);
        self.publish(None, None);
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

    /// Undoes a flip that was not confirmed in time, in all its services or in none.
    fn take_back(&mut self, services: Vec<String>) -> HistoryEntry {
        let deed = Deed {
            what: What::Unconfirmed,
            services: services.clone(),
            by: None,
            reason: None,
            from_generation: self.board.generation,
        };
        let error = self.try_to_take_back(services);
        self.entry(deed, error)
    }

    /// Why that did not go, if it did not.
    fn try_to_take_back(&mut self, services: Vec<String>) -> Option<ApiError> {
        let names = services.join(",");
        let gate = ConfiguredGate::new(&self.config, &self.board);
        let mut order = Order {
            drains: self.drain_terms(&services, None, None),
            services,
            conditions: Conditions::default(),
            change: Change::Revert,
        };
        match self.board.changed(&order, &gate, clock::now()) {
            Ok(next) => match self.switch_to(next) {
                Ok(_) => {
                    tracing::warn!(
                        services = names,
                        generation = self.board.generation,
                        "the flip was not confirmed in time: taken back"
                    );
                    None
                }
                Err(error) => {
                    tracing::error!(services = names, %error, "the flip was not confirmed in time, and the kernel does not take it back; the next attempt follows");
                    let retry = clock::now().plus_ms(RETRY_MS);
                    self.board.postpone_confirmation(&order.services, retry);
                    Some(error)
                }
            },
            Err(refusal) => {
                let error = refused(&refusal);
                tracing::error!(services = names, %error, "the flip was not confirmed in time, and stands all the same: the color before could not serve");
                order.change = Change::Confirm;
                if let Ok(next) = self.board.changed(&order, &gate, clock::now()) {
                    self.board = next;
                }
                Some(error)
            }
        }
    }
}
