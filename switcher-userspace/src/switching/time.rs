//! Instants that survive a restart of the agent.

use serde::{Deserialize, Serialize};

/// One instant on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Now {
    /// Milliseconds of `CLOCK_BOOTTIME`: goes on during suspend, nobody sets it; for deadlines.
    pub boot_ms: u64,
    /// Milliseconds since the Unix epoch; for people.
    pub wall_ms: u64,
}

impl Now {
    /// The instant `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self {
            boot_ms: self.boot_ms.saturating_add(ms),
            wall_ms: self.wall_ms.saturating_add(ms),
        }
    }
}
