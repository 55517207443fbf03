//! A drain: the old color's flows finishing, with an end in any case (G10).

use serde::{Deserialize, Serialize};
use switcher_common::service::Color;

use super::{DrainTerms, Now};

/// Scans in a row without a live flow that end a drain.
const EMPTY_SCANS: u32 = 2;
/// Scans that begin after a deadline and cut what is left: the second one also cuts what the first one
/// missed, and what was due in the tick in which the first one began.
const CUTTING_SCANS: u32 = 2;

/// What happens at a drain's deadline to the flows that are left.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AtDeadline {
    /// They live on, and are reported as left.
    #[default]
    Keep,
    /// They are cut: both sides of a TCP flow get a RST, a UDP flow selects afresh.
    Reset,
    /// UDP flows select afresh; TCP as [`Self::Keep`].
    Move,
}

impl AtDeadline {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Keep, Self::Reset, Self::Move];

    /// `keep`, `reset` or `move`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Reset => "reset",
            Self::Move => "move",
        }
    }
}

/// What a color's flows came to by being cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cuts {
    /// TCP flows of which a packet came and was answered with a RST.
    pub answered: u64,
    /// TCP flows that were silent.
    pub silent: u64,
    /// UDP flows.
    pub moved: u64,
}

impl Cuts {
    const NONE: Self = Self {
        answered: 0,
        silent: 0,
        moved: 0,
    };

    /// What came since `before`.
    const fn since(self, before: Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(before.answered),
            silent: self.silent.saturating_sub(before.silent),
            moved: self.moved.saturating_sub(before.moved),
        }
    }

    /// Both together.
    const fn plus(self, other: Self) -> Self {
        Self {
            answered: self.answered.saturating_add(other.answered),
            silent: self.silent.saturating_add(other.silent),
            moved: self.moved.saturating_add(other.moved),
        }
    }

    /// TCP flows.
    #[must_use]
    pub const fn reset(&self) -> u64 {
        self.answered + self.silent
    }

    /// Whether nothing was cut.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.reset() == 0 && self.moved == 0
    }
}

/// What is counted of a color without an end, since the data path was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// Flows in flight that ended by themselves.
    pub flows_finished: u64,
    /// Packets in the middle of a stream without a pin.
    pub unpinned_packets: u64,
}

impl Counted {
    /// What came since `before`.
    const fn since(self, before: Self) -> Self {
        Self {
            flows_finished: self.flows_finished.saturating_sub(before.flows_finished),
            unpinned_packets: self
                .unpinned_packets
                .saturating_sub(before.unpinned_packets),
        }
    }
}

/// What the program's counters say of a color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Flows that packets have cut.
    pub cut_by_packets: Cuts,
    /// The rest.
    pub counted: Counted,
}

/// What a scan says of a drain's color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Live flows.
    pub in_flight: u64,
    /// The counters after the scan.
    pub tally: Tally,
    /// Flows that this scan has cut.
    pub cut_by_scan: Cuts,
    /// When the color's newest packet came, if one did.
    pub newest_packet: Option<Now>,
    /// When the first fresh flow began on the other color because of the drain's flip, if one did.
    pub first_new_flow: Option<Now>,
}

/// What has come of a drain so far; after its end, the rest of its receipt (G10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// When the first fresh flow began on the other color.
    pub first_new_flow: Option<Now>,
    /// When the newest packet of the color came.
    pub last_old_packet: Option<Now>,
    /// Since the barrier.
    pub counted: Counted,
}

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
    /// What happens then.
    #[serde(default)]
    pub at_deadline: AtDeadline,
    /// The color's flows that packets had cut before the barrier.
    #[serde(default)]
    pub cut_before: Cuts,
    /// What else was counted of the color before the barrier.
    #[serde(default)]
    pub counted_before: Counted,
    /// Flows that scans have cut during this drain.
    #[serde(default)]
    pub cut_by_scans: Cuts,
    /// When the flip's barrier had passed, in milliseconds of `CLOCK_BOOTTIME`. A scan that began
    /// before may have missed a flow that was being recorded.
    pub barrier_boot_ms: Option<u64>,
    /// Live flows at the newest scan after the barrier.
    pub in_flight: Option<u64>,
    /// Scans in a row that found none. The kernel's iterator may miss an element when the one that
    /// it stands on is removed; two scans do not miss the same.
    pub empty_scans: u32,
    /// Scans that began after the deadline.
    #[serde(default)]
    pub late_scans: u32,
    /// Its deadline was set by hand.
    #[serde(default)]
    pub finished_by_hand: bool,
    /// At the newest scan after the barrier.
    #[serde(default)]
    pub receipt: Option<Receipt>,
    /// How it ended, if it has.
    pub ended: Option<End>,
}

/// The end of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// When.
    pub at: Now,
    /// Flows that were live at the deadline and live on.
    pub flows_left: u64,
    /// What was cut at the deadline.
    #[serde(default)]
    pub cuts: Cuts,
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
    pub const fn begin(color: Color, generation: u64, now: Now, terms: DrainTerms) -> Self {
        Self {
            at_deadline: terms.at_deadline,
            cut_before: Cuts::NONE,
            counted_before: Counted {
                flows_finished: 0,
                unpinned_packets: 0,
            },
            cut_by_scans: Cuts::NONE,
            color,
            generation,
            started: now,
            deadline: now.plus_ms(terms.timeout_ms),
            barrier_boot_ms: None,
            in_flight: None,
            empty_scans: 0,
            late_scans: 0,
            finished_by_hand: false,
            receipt: None,
            ended: None,
        }
    }

    /// Notes the barrier of its flip, if that has not passed before. A deadline does not lie before it:
    /// flows of the old color may begin until then. Its receipt is of what is counted from then on.
    pub(super) fn barrier_passed(&mut self, now: Now, tally: impl FnOnce(Color) -> Tally) {
        if self.barrier_boot_ms.is_none() {
            self.barrier_boot_ms = Some(now.boot_ms);
            let before = tally(self.color);
            self.cut_before = before.cut_by_packets;
            self.counted_before = before.counted;
            if self.deadline.boot_ms < now.boot_ms {
                self.deadline = now;
            }
        }
    }

    /// Takes in a scan; the end if that was it.
    pub(super) fn observe(&mut self, began_boot_ms: u64, seen: &Seen, now: Now) -> Option<End> {
        self.cut_by_scans = self.cut_by_scans.plus(seen.cut_by_scan);
        if self
            .barrier_boot_ms
            .is_none_or(|barrier| began_boot_ms < barrier)
        {
            return None;
        }
        let in_flight = if cfg!(mutant = "drain-without-scan") {
            0
        } else {
            seen.in_flight
        };
        self.in_flight = Some(in_flight);
        self.receipt = Some(self.receipt_of(seen, now));
        self.empty_scans = if in_flight == 0 {
            self.empty_scans + 1
        } else {
            0
        };
        if began_boot_ms >= self.deadline.boot_ms {
            self.late_scans += 1;
        }
        if self.empty_scans < EMPTY_SCANS && self.late_scans < self.scans_after_deadline() {
            return None;
        }
        let end = End {
            at: now,
            flows_left: in_flight,
            cuts: seen
                .tally
                .cut_by_packets
                .since(self.cut_before)
                .plus(self.cut_by_scans),
        };
        self.ended = Some(end);
        Some(end)
    }

    fn receipt_of(&self, seen: &Seen, now: Now) -> Receipt {
        let known = self.receipt.and_then(|receipt| receipt.first_new_flow);
        // What came while the counters were read is not later than what was read.
        let until_now = |instant: Now| {
            if instant.boot_ms > now.boot_ms {
                now
            } else {
                instant
            }
        };
        Receipt {
            first_new_flow: known.or(seen.first_new_flow.map(until_now)),
            last_old_packet: seen.newest_packet.map(until_now),
            counted: seen.tally.counted.since(self.counted_before),
        }
    }

    /// Scans that have to begin after the deadline.
    const fn scans_after_deadline(&self) -> u32 {
        match self.at_deadline {
            AtDeadline::Keep => 1,
            AtDeadline::Reset | AtDeadline::Move => CUTTING_SCANS,
        }
    }
}
