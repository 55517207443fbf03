//! Drills: a failover that an operator wants to see, and its end.

use super::{
    Core,
    errors::refused,
    failover::{RETRY_MS, situation},
    record::Deed,
};
use crate::{
    agent::{clock, control::unknown, gate::ConfiguredGate, view::drain_status},
    api::{
        history::{HistoryEntry, What},
        instant,
        requests::Terms,
        types::{ApiError, ErrorCode},
    },
    failover::{Cause, Decision, Evidence},
    switching::{Change, Conditions, Order},
};

impl Core {
    /// What the policy goes by if the active color of the one service of `terms` failed now; an error, unless
    /// that leads to a failover.
    pub(super) fn may_drill(&self, terms: &Terms) -> Result<Evidence, ApiError> {
        let service = terms.services.first().map_or("", String::as_str);
        let policy = self.failover_terms(service)?;
        let config = self.config.services.iter().find(|it| it.name == service);
        let (Some(config), Some(state)) = (config, self.board.services.get(service)) else {
            return Err(unknown(service));
        };
        let verdict = state
            .failover
            .decide(&policy, &situation(config, state, true), clock::now());
        let refused = |why: String| {
            ApiError::new(
                ErrorCode::Refused,
                format!("cannot drill the failover of {service}: {why}; nothing changed"),
                format!("see `switcher failover status {service}`"),
            )
        };
        match verdict.decision {
            Decision::FailOver { .. } if verdict.evidence.cause == Some(Cause::Drill) => {
                Ok(verdict.evidence)
            }
            // The agent is about to carry it out.
            Decision::FailOver { .. } => Err(refused(format!(
                "it has failed in earnest ({})",
                verdict.evidence
            ))),
            Decision::Stay { why, until } => {
                let until = until.map(|until| instant::format(clock::wall(until)));
                let until = until.map_or_else(String::new, |until| format!(" until {until}"));
                Err(refused(format!("{why}{until} ({})", verdict.evidence)))
            }
            Decision::Revert { .. } => Err(refused(
                "its newest flip waits for a confirmation, and a failure would take it back"
                    .to_owned(),
            )),
            Decision::EndSplit => Err(refused(verdict.evidence.to_string())),
        }
    }

    /// Undoes the failovers of drills that are due to end.
    pub(super) fn end_drills(&mut self) -> Vec<HistoryEntry> {
        let due = self.board.drills_to_end(clock::now());
        due.iter()
            .filter_map(|service| self.end_drill(service))
            .collect()
    }

    fn end_drill(&mut self, service: &str) -> Option<HistoryEntry> {
        let now = clock::now();
        let drain = self.board.services.get(service)?.drain.as_ref();
        let receipt = drain.map(|drain| drain_status(service, drain, now));
        let services = vec![service.to_owned()];
        let order = Order {
            drains: self.drain_terms(&services, None, None),
            services: services.clone(),
            conditions: Conditions::default(),
            change: Change::EndDrill,
        };
        let deed = Deed {
            what: What::DrillEnded,
            services,
            by: None,
            reason: None,
            from_generation: self.board.generation,
        };
        let gate = ConfiguredGate::new(&self.config, &self.board);
        let error = match self.board.changed(&order, &gate, now) {
            Ok(next) => {
                if let Err(error) = self.switch_to(next) {
                    tracing::error!(service, %error, "the drill's failover is not undone; the next attempt follows");
                    let drill = self.board.services.get_mut(service)?.drill.as_mut()?;
                    drill.until = now.plus_ms(RETRY_MS);
                    return None;
                }
                tracing::info!(service, generation = self.board.generation, "drill ended");
                None
            }
            Err(refusal) => {
                let drill = self.board.services.get(service)?.drill?;
                // The next scan tries again, until the drill's time is over.
                if drill.until.boot_ms > now.boot_ms {
                    return None;
                }
                let error = refused(&refusal);
                tracing::error!(service, %error, "the drill's failover stands: the color before could not serve");
                self.board.services.get_mut(service)?.drill = None;
                Some(error)
            }
        };
        let mut entry = self.entry(deed, error);
        entry.drain = receipt;
        Some(entry)
    }
}
