//! When the policy of automated failover is asked, and what is waited for before it decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use crate::{
    agent::checks::HealthNews,
    config::Config,
    failover::Health,
    switching::{Now, Switchboard},
};

/// For what an agent that starts does before its first checks.
const START_PATIENCE_MS: u64 = 5_000;

/// When the policy is to be asked, and what is waited for before something is decided.
///
/// Instants are milliseconds of `CLOCK_BOOTTIME`.
#[derive(Default)]
pub(in crate::agent) struct Asking {
    /// Services about which nothing is decided before an instant.
    not_before: BTreeMap<String, u64>,
    /// Backends that an agent before this one has looked at, and this one not yet.
    adopted: BTreeMap<String, BTreeSet<SocketAddr>>,
    /// When to ask again, though nothing has happened.
    next: Option<u64>,
    /// Services whose standby is asked whether it can serve.
    proofs: BTreeMap<String, Proof>,
    /// What could not be carried out at its newest attempt, by the names of its services.
    failing: BTreeSet<String>,
}

/// What the backends of a standby have shown since a failover to it was wanted.
pub(super) struct Proof {
    asked_at: Instant,
    /// Those that have passed a check that began since.
    passed: BTreeSet<SocketAddr>,
    /// Whoever says nothing until then is what he was known to be.
    until: u64,
}

impl Proof {
    /// The end of the wait if it goes on at instant `now`: not yet `min_healthy` of each of `lists` have passed.
    pub(super) fn wait_until(
        &self,
        lists: &[Vec<SocketAddr>],
        min_healthy: u32,
        now: u64,
    ) -> Option<u64> {
        let has_enough = |list: &Vec<SocketAddr>| {
            let passed = list.iter().filter(|it| self.passed.contains(it));
            passed.count() >= min_healthy as usize
        };
        let is_over = self.until <= now || lists.iter().all(has_enough);
        (!is_over).then_some(self.until)
    }
}

impl Asking {
    /// For an agent that starts. What it adopts of health is as old as the one before is gone: nothing is decided
    /// on it until its own checks have found something of each backend, or have had the time to.
    pub(in crate::agent) fn at_start(config: &Config, board: &Switchboard, now: Now) -> Self {
        let mut asking = Self {
            next: Some(now.boot_ms),
            ..Self::default()
        };
        for service in &config.services {
            let (Some(check), Some(state)) = (&service.check, board.services.get(&service.name))
            else {
                continue;
            };
            if !state.health.is_empty() {
                let adopted = state.health.keys().copied().collect();
                // Long enough also where the agent has much to do at its start: what is heard ends it.
                let patience_ms = START_PATIENCE_MS + 4 * check.settles_ms();
                let settled = now.plus_ms(patience_ms).boot_ms;
                asking.not_before.insert(service.name.clone(), settled);
                asking.adopted.insert(service.name.clone(), adopted);
            }
        }
        asking
    }

    /// A check of this agent has a finding about a backend, new or not. Returns whether that was the last one of its
    /// service that was missing.
    pub(super) fn heard(&mut self, service: &str, backend: SocketAddr) -> bool {
        let Some(adopted) = self.adopted.get_mut(service) else {
            return false;
        };
        adopted.remove(&backend);
        let is_complete = adopted.is_empty();
        if is_complete {
            self.adopted.remove(service);
            self.not_before.remove(service);
        }
        is_complete
    }

    /// Takes in what a check has found of a backend that may be asked. Returns whether it was.
    pub(super) fn proved(&mut self, news: &HealthNews) -> bool {
        let Some(proof) = self.proofs.get_mut(&news.service) else {
            return false;
        };
        let is_passed = news.health == Health::Healthy && news.began_at >= proof.asked_at;
        is_passed && proof.passed.insert(news.endpoint)
    }

    /// Something is not carried out: whether this is its first attempt that fails.
    pub(super) fn fails_first(&mut self, services: &str) -> bool {
        self.failing.insert(services.to_owned())
    }

    /// It was carried out, or is wanted no more.
    pub(super) fn done(&mut self, services: &str) {
        self.failing.remove(services);
    }

    /// Asks the standby of a service from now on, until `until`.
    pub(super) fn ask_proof(&mut self, service: &str, until: u64) {
        let proof = Proof {
            asked_at: Instant::now(),
            passed: BTreeSet::new(),
            until,
        };
        self.proofs.insert(service.to_owned(), proof);
    }

    /// What the standby of a service has shown, if it is asked.
    pub(super) fn proof(&self, service: &str) -> Option<&Proof> {
        self.proofs.get(service)
    }

    /// Nobody wants to know any more.
    pub(super) fn forget_proof(&mut self, service: &str) {
        self.proofs.remove(service);
    }

    /// Asks again at `next`, though nothing has happened.
    pub(super) const fn ask_at(&mut self, next: Option<u64>) {
        self.next = next;
    }

    /// When to ask again.
    pub(super) const fn next(&self) -> Option<u64> {
        self.next
    }

    /// Decides nothing about a service before `until`.
    pub(super) fn hold(&mut self, service: &str, until: u64) {
        self.not_before.insert(service.to_owned(), until);
    }

    /// Until when nothing is decided about a service.
    pub(super) fn held(&mut self, service: &str, now: Now) -> Option<u64> {
        let until = self.not_before.get(service).copied()?;
        if until > now.boot_ms {
            return Some(until);
        }
        self.not_before.remove(service);
        None
    }
}
