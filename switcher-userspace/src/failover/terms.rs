//! What the configuration says of a service's automated failover.

use serde::{Deserialize, Serialize};

/// Terms of a service's failover. `min_healthy` is not among them: the counts bring it along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether there is automated failover at all.
    pub is_enabled: bool,
    /// Least time in milliseconds from an automated change of the active color to the next one.
    pub hold_down_ms: u64,
    /// Most automated changes of the active color within any 60 minutes.
    pub flips_per_hour: u32,
    /// So many milliseconds after an operator changed the active color nothing changes it by itself.
    pub manual_freeze_ms: u64,
    /// The color that a failover left becomes active again when it has recovered.
    pub automatic_failback: bool,
    /// How a failover treats the flows of the color that it leaves.
    pub at_failover: AtFailover,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            is_enabled: true,
            hold_down_ms: 30_000,
            flips_per_hour: 4,
            manual_freeze_ms: 60_000,
            automatic_failback: false,
            at_failover: AtFailover::Cut,
        }
    }
}

/// How a failover treats the flows of the color that it leaves.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AtFailover {
    /// They are cut at once: their backends are dead.
    #[default]
    Cut,
    /// They drain as in a flip.
    Drain,
}

impl AtFailover {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cut, Self::Drain];

    /// `cut` or `drain`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Drain => "drain",
        }
    }
}
