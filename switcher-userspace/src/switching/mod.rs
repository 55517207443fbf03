//! The switch as a pure state machine: which color is active, what drains, what a request changes.
//!
//! No I/O and no clock: every function takes the time and what was observed, and returns the next
//! state, which the agent makes true in the kernel and on disk before it keeps it.

mod drain;
mod flip;
mod time;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switcher_common::service::Color;

pub use drain::{AtDeadline, Cuts, Drain, DrainEnded, End, Seen};
pub use flip::{Conditions, FlipOrder, Gate, Refusal, Shortage};
pub use time::Now;

/// The switch state of all services of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switchboard {
    /// Newest committed change.
    pub generation: u64,
    /// By name.
    pub services: BTreeMap<String, Service>,
}

/// The switch state of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The active color.
    pub active: Color,
    /// Color of packets in the middle of a stream without a pin (G9): the color active before a
    /// flip that started while no drain ran, until the last drain ends.
    pub base: Color,
    /// Generation of its newest change.
    pub generation: u64,
    /// The drain that runs, or the newest one that ended.
    pub drain: Option<Drain>,
}

impl Service {
    /// A service that was never switched.
    #[must_use]
    pub const fn new(active: Color) -> Self {
        Self {
            active,
            base: active,
            generation: 0,
            drain: None,
        }
    }

    /// The color that is not active.
    #[must_use]
    pub const fn standby(&self) -> Color {
        self.active.other()
    }

    /// The drain that runs.
    #[must_use]
    pub fn running_drain(&self) -> Option<&Drain> {
        self.drain.as_ref().filter(|drain| drain.ended.is_none())
    }
}

/// What a full scan of the flow tables saw.
pub trait Observation {
    /// When the scan began, in milliseconds of `CLOCK_BOOTTIME`.
    fn began_boot_ms(&self) -> u64;
    /// What it says of a color of a service, preview left out; `None` for a service that was not
    /// scanned.
    fn seen(&self, service: &str, color: Color) -> Option<Seen>;
}

impl Switchboard {
    /// Notes that no running program can see the state any more that the newest flips replaced:
    /// scans that begin from now on may end their drains.
    pub fn barrier_passed(&mut self, now: Now) {
        for service in self.services.values_mut() {
            if let Some(drain) = &mut service.drain {
                drain.barrier_passed(now);
            }
        }
    }

    /// Takes in a scan. Returns the drains that it ended; their services' base color is the active
    /// one from then on, which the caller must make true in the kernel.
    pub fn observe(&mut self, scan: &impl Observation, now: Now) -> Vec<DrainEnded> {
        let mut ended = Vec::new();
        for (name, service) in &mut self.services {
            let Some(drain) = service.drain.as_mut().filter(|d| d.ended.is_none()) else {
                continue;
            };
            let Some(seen) = scan.seen(name, drain.color) else {
                continue;
            };
            if let Some(end) = drain.observe(scan.began_boot_ms(), &seen, now) {
                service.base = service.active;
                ended.push(DrainEnded {
                    service: name.clone(),
                    color: drain.color,
                    end,
                });
            }
        }
        ended
    }

    /// Whether any drain runs.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.services.values().any(|s| s.running_drain().is_some())
    }
}

#[cfg(test)]
mod tests;
