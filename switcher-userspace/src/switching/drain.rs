//! A drain: the old color's flows finishing, with an end in any case (G10).

use serde::{Deserialize, Serialize};
use switcher_common::service::Color;

use super::Now;

/// Scans in a row without a live flow that end a drain.
const EMPTY_SCANS: u32 = 2;

/// A drain that runs or has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// The color that drains.
    pub color: Color,
    /// Generation of the flip that began it.
    pub generation: u64,
    /// When it began.
    pub started: Now,
    /// When it ends at the latest.
    pub deadline: Now,
    /// When the flip's barrier had passed, in milliseconds of `CLOCK_BOOTTIME`. A scan that began
    /// before may have missed a flow that was being recorded.
    pub barrier_boot_ms: Option<u64>,
    /// Live flows at the newest scan after the barrier.
    pub in_flight: Option<u64>,
    /// Scans in a row that found none. The kernel's iterator may miss an element when the one that
    /// it stands on is removed; two scans do not miss the same.
    pub empty_scans: u32,
    /// How it ended, if it has.
    pub ended: Option<End>,
}

/// The end of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// When.
    pub at: Now,
    /// Flows that were live at the deadline and live on; 0: all had finished.
    pub flows_left: u64,
}

/// A drain that has just ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainEnded {
    /// Of this service.
    pub service: String,
    /// The color that drained.
    pub color: Color,
    /// How.
    pub end: End,
}

impl Drain {
    /// A drain that begins now.
    #[must_use]
    pub const fn begin(color: Color, generation: u64, now: Now, timeout_ms: u64) -> Self {
        Self {
            color,
            generation,
            started: now,
            deadline: now.plus_ms(timeout_ms),
            barrier_boot_ms: None,
            in_flight: None,
            empty_scans: 0,
            ended: None,
        }
    }

    /// Takes in a scan; the end if that was it.
    pub(super) fn observe(&mut self, began_boot_ms: u64, in_flight: u64, now: Now) -> Option<End> {
        if self
            .barrier_boot_ms
            .is_none_or(|barrier| began_boot_ms < barrier)
        {
            return None;
        }
        let in_flight = if cfg!(mutant = "drain-without-scan") {
            0
        } else {
            in_flight
        };
        self.in_flight = Some(in_flight);
        self.empty_scans = if in_flight == 0 {
            self.empty_scans + 1
        } else {
            0
        };
        if self.empty_scans < EMPTY_SCANS && now.boot_ms < self.deadline.boot_ms {
            return None;
        }
        let end = End {
            at: now,
            flows_left: in_flight,
        };
        self.ended = Some(end);
        Some(end)
    }
}
