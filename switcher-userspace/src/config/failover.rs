//! `[service.failover]`: when the agent changes the active color by itself.

use std::fmt;

use serde::Deserialize;

use crate::{
    duration::Span,
    failover::{AtFailover, Terms},
};

/// `[service.failover]`; without one, the agent changes no active color by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverConfig {
    /// `false`: nothing is changed, and an alarm tells what would be due.
    pub enabled: bool,
    /// Least time from one automated change of the active color to the next.
    pub hold_down: Span,
    /// Most automated changes of the active color within any 60 minutes.
    pub flips_per_hour: u32,
    /// So long after an operator has changed the active color the agent leaves it alone.
    pub manual_freeze: Span,
    /// The color that a failover left becomes active again when it has recovered.
    pub automatic_failback: bool,
    /// What becomes of the flows on the color that a failover leaves.
    pub at_failover: AtFailover,
}

impl FailoverConfig {
    /// As the policy takes them.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            is_enabled: self.enabled,
            hold_down_ms: self.hold_down.as_millis(),
            flips_per_hour: self.flips_per_hour,
            manual_freeze_ms: self.manual_freeze.as_millis(),
            automatic_failback: self.automatic_failback,
            at_failover: self.at_failover,
        }
    }
}

impl Default for FailoverConfig {
    fn default() -> Self {
        let Terms {
            is_enabled,
            hold_down_ms,
            flips_per_hour,
            manual_freeze_ms,
            automatic_failback,
            at_failover,
        } = Terms::default();
        Self {
            enabled: is_enabled,
            hold_down: Span::from_millis(hold_down_ms),
            flips_per_hour,
            manual_freeze: Span::from_millis(manual_freeze_ms),
            automatic_failback,
            at_failover,
        }
    }
}

impl fmt::Display for FailoverConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            enabled,
            hold_down,
            flips_per_hour,
            manual_freeze,
            automatic_failback,
            at_failover,
        } = self;
        f.write_str(if *enabled { "on" } else { "off" })?;
        write!(
            f,
            ", hold-down {hold_down}, {flips_per_hour} an hour, manual freeze {manual_freeze}, {}",
            at_failover.name()
        )?;
        f.write_str(if *automatic_failback {
            ", automatic failback"
        } else {
            ""
        })
    }
}
