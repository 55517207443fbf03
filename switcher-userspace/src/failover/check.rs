//! The health of one backend, from the results of its checks.

use serde::{Deserialize, Serialize};

/// Health of a backend.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No check has decided yet: not healthy, and not a failure.
    #[default]
    Unknown,
    /// Passes its checks.
    Healthy,
    /// Fails its checks.
    Unhealthy,
}

/// How many results in a row change a backend's health. Zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckTerms {
    /// Failures until it is unhealthy.
    pub fall: u32,
    /// Passes until an unhealthy one is healthy again.
    pub rise: u32,
}

/// A backend's health turned over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// Before.
    pub from: Health,
    /// From now on.
    pub to: Health,
}

/// What is known of a backend. It survives a restart of the agent, so that a restart makes nothing
/// unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// Its health.
    pub health: Health,
    /// Newest results in a row that speak against it.
    #[serde(default)]
    pub against: u32,
}

impl Checked {
    /// Takes in the result of a check. Results come in the order in which their checks began.
    ///
    /// The first pass makes an unknown backend healthy: there is nothing to outweigh, and a service that
    /// starts should not wait. `fall` failures in a row make any backend unhealthy, `rise` passes in a row
    /// an unhealthy one healthy.
    pub fn observe(&mut self, passed: bool, terms: CheckTerms) -> Option<HealthChange> {
        let (to, needed) = match (self.health, passed) {
            (Health::Healthy, true) | (Health::Unhealthy, false) => {
                self.against = 0;
                return None;
            }
            (Health::Unknown, true) => (Health::Healthy, 1),
            (Health::Unhealthy, true) => (Health::Healthy, terms.rise),
            (Health::Unknown | Health::Healthy, false) => (Health::Unhealthy, terms.fall),
        };
        self.against = self.against.saturating_add(1);
        let is_decided = self.against >= needed || cfg!(mutant = "first-result-decides");
        is_decided.then(|| self.becomes(to)).flatten()
    }

    /// Makes the backend unhealthy at once: the data path suspected it, and the check that followed
    /// failed, or several clients were refused.
    pub fn fail(&mut self) -> Option<HealthChange> {
        self.becomes(Health::Unhealthy)
    }

    fn becomes(&mut self, to: Health) -> Option<HealthChange> {
        self.against = 0;
        let from = std::mem::replace(&mut self.health, to);
        (from != to).then_some(HealthChange { from, to })
    }
}
