//! Automated failover: the policy is asked whenever something has changed that it goes by, and what it decides
//! goes the way of every change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use switcher_common::service::Color;

use super::{
    Core,
    deadlines::NotReverted,
    errors::refused,
    record::{Deed, told},
};
use crate::{
    agent::{
        checks::WantedProof,
        clock,
        gate::{ConfiguredGate, is_eligible, standings},
    },
    api::{
        history::{HistoryEntry, What},
        types::ApiError,
    },
    config::{BackendConfig, ListenerConfig, ServiceConfig},
    failover::{Alarm, AtFailover, Cause, Decision, Evidence, Situation, Terms, Verdict},
    switching::{
        AtDeadline, Change, Conditions, DrainTerms, Now, Order, Origin, Service, Switchboard,
    },
};

/// How long a change that the kernel would not make waits for the next attempt.
pub(super) const RETRY_MS: u64 = 1_000;
/// For a check of the standby to begin and its result to come, beside the time that it may take.
const PROOF_PATIENCE_MS: u64 = 500;
/// No situation leads to more changes of one service in a row.
const MOST_IN_A_ROW: usize = 4;

/// How things are with a service.
pub(in crate::agent) fn situation(
    config: &ServiceConfig,
    state: &Service,
    is_drill: bool,
) -> Situation {
    Situation {
        active: state.active,
        standing: standings(config, state),
        split_percent: state.split_percent,
        paused_until: (state.pauses.iter().map(|pause| pause.until)).max_by_key(|at| at.boot_ms),
        unconfirmed_until: state.confirm.map(|confirm| confirm.deadline),
        newest_manual: state.newest_manual,
        is_drill,
    }
}

/// The terms of a service's failover, unless the configuration or an operator has switched it off.
pub(super) fn terms_if_on(config: &ServiceConfig, state: &Service) -> Option<Terms> {
    let terms = config.failover?.terms();
    (!state.failover.is_off(&terms)).then_some(terms)
}

/// A decision as the history tells it.
fn what_of(decision: Decision, evidence: &Evidence) -> What {
    match decision {
        Decision::FailOver { .. } if evidence.cause == Some(Cause::Failback) => What::Failback,
        Decision::FailOver { .. } | Decision::Stay { .. } => What::Failover,
        Decision::Revert { .. } => What::Revert,
        Decision::EndSplit => What::Split,
    }
}

/// What comes after a decision.
enum Next {
    /// Something has changed, so the policy is asked once more.
    Again,
    /// Nothing, until an instant in milliseconds of `CLOCK_BOOTTIME` if there is one.
    Rest(Option<u64>),
}

impl Core {
    /// Carries out what the policy wants, and what of drills is due.
    pub(super) fn follow_policy(&mut self) {
        let mut entries = self.end_drills();
        entries.extend(self.decide());
        if !entries.is_empty() {
            self.save(entries);
            self.publish(None, None);
        }
    }

    /// Asks the policy about each service until it wants nothing more of it. What it remembers without having
    /// decided anything goes to disk with whatever is next.
    pub(super) fn decide(&mut self) -> Vec<HistoryEntry> {
        let config = self.config.clone();
        let mut entries = Vec::new();
        let mut next: Option<u64> = None;
        for service in &config.services {
            let at = self.decide_on(service, &mut entries);
            next = [next, at].into_iter().flatten().min();
        }
        self.asking.ask_at(next);
        entries
    }

    fn decide_on(
        &mut self,
        service: &ServiceConfig,
        entries: &mut Vec<HistoryEntry>,
    ) -> Option<u64> {
        let Some(terms) = service.failover.map(|it| it.terms()) else {
            entries.extend(self.end_alarm(&service.name));
            return None;
        };
        if let Some(until) = self.asking.held(&service.name, clock::now()) {
            return Some(until);
        }
        for _ in 0..MOST_IN_A_ROW {
            let now = clock::now();
            let state = self.board.services.get(&service.name)?;
            let goes_on = cfg!(mutant = "drill-goes-on") && state.drill.is_some();
            let situation = situation(service, state, goes_on);
            let verdict = state.failover.decide(&terms, &situation, now);
            if let Decision::FailOver { to, .. } = verdict.decision
                && let Err(until) = self.prove(service, to, now)
            {
                return Some(until);
            }
            self.asking.forget_proof(&service.name);
            if let Next::Rest(until) = self.carry_out(&service.name, verdict, now, entries) {
                return until;
            }
        }
        tracing::error!(
            service = service.name,
            "the policy wants one change after the other: it is asked again later"
        );
        Some(self.hold(&service.name))
    }

    /// Whether the color `to` of `service` has shown since the failover was wanted that it can serve. What is known
    /// of it may be as old as a check, and both colors may have failed together: it is asked once more, and until
    /// when is the error.
    fn prove(&mut self, service: &ServiceConfig, to: Color, now: Now) -> Result<(), u64> {
        let Some(state) = self.board.services.get(&service.name) else {
            return Ok(());
        };
        if cfg!(mutant = "unproven-standby") {
            return Ok(());
        }
        let eligible = |listener: &ListenerConfig| -> Vec<SocketAddr> {
            let backends = listener.backends(to).iter();
            backends
                .filter(|it| is_eligible(it, service, state, &state.drained_backends))
                .map(BackendConfig::endpoint)
                .collect()
        };
        let listeners = service.listeners.iter().filter(|it| !it.preview);
        let candidates: Vec<Vec<SocketAddr>> = listeners.map(eligible).collect();
        if let Some(proof) = self.asking.proof(&service.name) {
            let wait = proof.wait_until(&candidates, service.min_healthy, now.boot_ms);
            return wait.map_or(Ok(()), Err);
        }
        let timeout_ms = service
            .check
            .as_ref()
            .map_or(0, |it| it.timeout.as_millis());
        let until = now.plus_ms(timeout_ms + PROOF_PATIENCE_MS).boot_ms;
        self.asking.ask_proof(&service.name, until);
        let endpoints: BTreeSet<SocketAddr> = candidates.into_iter().flatten().collect();
        // Too many are asked already: then what is known decides when the time is over.
        let _ = self.prover.try_send(WantedProof {
            service: service.name.clone(),
            endpoints: endpoints.into_iter().collect(),
        });
        Err(until)
    }

    /// Decides nothing about a service for a moment; its end.
    fn hold(&mut self, service: &str) -> u64 {
        let until = clock::now().plus_ms(RETRY_MS).boot_ms;
        self.asking.hold(service, until);
        until
    }

    /// Makes a verdict true, and keeps what the policy remembers of it in the same write.
    fn carry_out(
        &mut self,
        service: &str,
        verdict: Verdict,
        now: Now,
        entries: &mut Vec<HistoryEntry>,
    ) -> Next {
        let (cleared, raised) = (verdict.cleared, verdict.raised);
        let (decision, evidence) = (verdict.decision, verdict.evidence.clone());
        let done = match decision {
            Decision::Stay { until, .. } => {
                if let Some(state) = self.board.services.get_mut(service) {
                    state.failover = verdict.next;
                }
                // Never an instant that has passed: it would be asked for without an end.
                let later = |until: Now| until.boot_ms.max(now.boot_ms + 1);
                Ok((None, Next::Rest(until.map(later))))
            }
            Decision::FailOver { to, at_failover } => self
                .fail_over(service, to, at_failover, verdict, now)
                .map(|entry| (Some(entry), Next::Again)),
            Decision::Revert { .. } => self
                .revert_by_policy(service, verdict, now)
                .map(|entry| (Some(entry), Next::Again)),
            Decision::EndSplit => self
                .end_split(
                    service,
                    &verdict.evidence.to_string(),
                    Some(verdict.next.clone()),
                )
                .map(|mut entry| {
                    entry.evidence = Some(told(&verdict.evidence));
                    (Some(entry), Next::Again)
                }),
        };
        match done {
            Ok((entry, next)) => {
                self.asking.done(service);
                entries.extend(entry);
                entries.extend(cleared.map(|it| self.alarm_ended(service, it, Some(&evidence))));
                entries.extend(raised.map(|it| self.alarm_raised(service, it, &evidence)));
                next
            }
            Err(error) => {
                tracing::error!(service, %error, %evidence, "what automated failover has decided is not carried out; the next attempt follows");
                // Of attempts one after the other the first is told.
                if self.asking.fails_first(service) {
                    let deed = self.deed(what_of(decision, &evidence), service, &evidence);
                    let mut entry = self.entry(deed, Some(error));
                    entry.evidence = Some(told(&evidence));
                    entries.push(entry);
                }
                Next::Rest(Some(self.hold(service)))
            }
        }
    }

    fn fail_over(
        &mut self,
        service: &str,
        to: Color,
        at_failover: AtFailover,
        verdict: Verdict,
        now: Now,
    ) -> Result<HistoryEntry, ApiError> {
        let what = what_of(verdict.decision, &verdict.evidence);
        let origin = match what {
            What::Failback => Origin::Failback,
            _ => Origin::Failover,
        };
        let deed = self.deed(what, service, &verdict.evidence);
        let order = Order {
            drains: self.failover_drain(service, at_failover),
            services: vec![service.to_owned()],
            conditions: Conditions::default(),
            change: Change::FailOver { to, origin },
        };
        let gate = ConfiguredGate::new(&self.config, &self.board);
        let next = self.board.changed(&order, &gate, now);
        let mut next = next.map_err(|refusal| refused(&refusal))?;
        if let Some(state) = next.services.get_mut(service) {
            state.failover = verdict.next;
        }
        if !cfg!(mutant = "failover-told-only") {
            self.switch_to(next)?;
        }
        tracing::warn!(
            service,
            to = to.name(),
            generation = self.board.generation,
            evidence = %verdict.evidence,
            "{}",
            what.name()
        );
        let mut entry = self.entry(deed, None);
        entry.evidence = Some(told(&verdict.evidence));
        Ok(entry)
    }

    /// How the color drains that a failover leaves.
    fn failover_drain(
        &self,
        service: &str,
        at_failover: AtFailover,
    ) -> BTreeMap<String, DrainTerms> {
        let (timeout_ms, at_deadline) = match at_failover {
            AtFailover::Cut => (Some(0), Some(AtDeadline::Reset)),
            AtFailover::Drain => (None, None),
        };
        self.drain_terms(&[service.to_owned()], timeout_ms, at_deadline)
    }

    /// Takes back the unconfirmed flip of `service`, in all its services.
    fn revert_by_policy(
        &mut self,
        service: &str,
        verdict: Verdict,
        now: Now,
    ) -> Result<HistoryEntry, ApiError> {
        let mut deed = self.deed(What::Revert, service, &verdict.evidence);
        deed.services = self.confirmed_with(service);
        let others: BTreeSet<String> = deed.services.iter().cloned().collect();
        let evidence = verdict.evidence;
        let remember = |state: &mut Service, name: &str| {
            if name == service {
                state.failover = verdict.next.clone();
            } else if others.contains(name) {
                state.failover.reverted(now);
            }
        };
        let (NotReverted::ByKernel(error) | NotReverted::ByGate(error)) = match self
            .revert(&deed.services, remember)
        {
            Ok(()) => {
                tracing::warn!(
                    services = deed.services.join(","),
                    generation = self.board.generation,
                    %evidence,
                    "the flip awaited its confirmation, and its color could not serve: taken back"
                );
                let mut entry = self.entry(deed, None);
                entry.evidence = Some(told(&evidence));
                return Ok(entry);
            }
            Err(error) => error,
        };
        Err(error)
    }

    /// The services of the flip that `service` waits for the confirmation of.
    fn confirmed_with(&self, service: &str) -> Vec<String> {
        let flip_of = |state: &Service| state.confirm.map(|confirm| confirm.flip);
        let flip = self.board.services.get(service).and_then(flip_of);
        let services = self.board.services.iter();
        services
            .filter(|(_, state)| flip.is_some() && flip_of(state) == flip)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn deed(&self, what: What, service: &str, evidence: &Evidence) -> Deed {
        Deed {
            what,
            services: vec![service.to_owned()],
            by: None,
            reason: Some(evidence.to_string()),
            from_generation: self.board.generation,
        }
    }

    fn alarm_raised(&mut self, service: &str, alarm: Alarm, evidence: &Evidence) -> HistoryEntry {
        tracing::error!(service, alarm = %alarm.kind, %evidence, "alarm");
        let mut deed = self.deed(What::AlarmRaised, service, evidence);
        deed.reason = Some(format!("{}: {evidence}", alarm.kind));
        let mut entry = self.entry(deed, None);
        entry.evidence = Some(told(evidence));
        entry.alarm = Some(alarm.kind);
        entry
    }

    fn alarm_ended(
        &mut self,
        service: &str,
        alarm: Alarm,
        evidence: Option<&Evidence>,
    ) -> HistoryEntry {
        let reason = match evidence {
            Some(evidence) => format!("over: {}; now {evidence}", alarm.kind),
            None => format!(
                "over: {}; there is no [service.failover] any more",
                alarm.kind
            ),
        };
        tracing::warn!(service, reason, "the alarm is over");
        let deed = Deed {
            what: What::AlarmCleared,
            services: vec![service.to_owned()],
            by: None,
            reason: Some(reason),
            from_generation: self.board.generation,
        };
        let mut entry = self.entry(deed, None);
        entry.evidence = evidence.map(told);
        entry.alarm = Some(alarm.kind);
        entry
    }

    /// Ends the alarm of a service that has no failover any more.
    fn end_alarm(&mut self, service: &str) -> Option<HistoryEntry> {
        let state = self.board.services.get_mut(service)?;
        let alarm = state.failover.forget_alarm()?;
        Some(self.alarm_ended(service, alarm, None))
    }

    /// Ends the alarms of the services that only the state `before` has.
    pub(super) fn end_alarms_of_removed(&mut self, before: &Switchboard) -> Vec<HistoryEntry> {
        let is_removed = |name: &String| !self.board.services.contains_key(name);
        let removed = before.services.iter().filter(|(name, _)| is_removed(name));
        let alarms = removed.filter_map(|(name, state)| Some((name, state.failover.alarm()?)));
        let alarms: Vec<(&String, Alarm)> = alarms.collect();
        let ended = alarms.into_iter();
        ended
            .map(|(name, alarm)| self.alarm_ended(name, alarm, None))
            .collect()
    }
}
