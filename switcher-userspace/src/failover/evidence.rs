//! What a decision was made on.

use std::fmt;

use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, PerColor};

use super::{Fitness, ListenerCount};
use crate::switching::Now;

/// Why a change is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The active color has too few eligible backends.
    ActiveShort,
    /// The standby, which has a share of the clients, has too few.
    StandbyShort,
    /// An operator wants to see it.
    Drill,
    /// The color that a failover left has recovered.
    Failback,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ActiveShort => "the active color has too few eligible backends",
            Self::StandbyShort => {
                "the standby has a share of the clients and too few eligible backends"
            }
            Self::Drill => "a drill takes the active color for unhealthy",
            Self::Failback => "the color that a failover left has recovered",
        })
    }
}

/// A color as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Whether it could serve.
    pub fitness: Fitness,
    /// Since when it is so without a break.
    pub since: Now,
    /// The listener that decided; `None`: the service has none but previews.
    pub listener: Option<ListenerCount>,
}

/// What a decision was made on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Why a change is due, if one is.
    pub cause: Option<Cause>,
    /// The color that was active.
    pub active: Color,
    /// What was known of each color.
    pub sides: PerColor<Side>,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cause) = self.cause {
            write!(f, "{cause}: ")?;
        }
        for (at, color) in [self.active, self.active.other()].into_iter().enumerate() {
            let role = ["active", "; standby"][at];
            write!(f, "{role} {}: ", color.name())?;
            match &self.sides.get(color).listener {
                Some(listener) => write!(f, "{listener}")?,
                None => f.write_str("no listener")?,
            }
        }
        Ok(())
    }
}
