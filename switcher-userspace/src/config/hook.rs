//! `[[agent.hook]]`: commands that the agent runs when something has happened.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::duration::Span;

/// `[[agent.hook]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// What it is run for.
    pub on: Vec<HookEvent>,
    /// An absolute path and its arguments; no shell reads them.
    pub command: Vec<String>,
    /// A command that runs longer is killed, with what it has started.
    #[serde(default = "HookConfig::default_timeout")]
    pub timeout: Span,
}

/// `on` of `[[agent.hook]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEvent {
    /// The agent has changed the active color by itself.
    Failover,
    /// An alarm was raised, or cleared.
    Alarm,
    /// A backend has become unhealthy.
    Ejection,
    /// A backend is healthy again.
    Recovery,
    /// A drain has ended.
    DrainEnd,
}

impl HookEvent {
    /// As the configuration has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Alarm => "alarm",
            Self::Ejection => "ejection",
            Self::Recovery => "recovery",
            Self::DrainEnd => "drain_end",
        }
    }
}

impl HookConfig {
    const fn default_timeout() -> Span {
        Span::from_secs(10)
    }
}

impl fmt::Display for HookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<_> = self.on.iter().map(|event| event.name()).collect();
        let command = &self.command;
        write!(
            f,
            "on {}: {command:?}, timeout {}",
            on.join(", "),
            self.timeout
        )
    }
}
