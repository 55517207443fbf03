//! What the policy remembers of a service, over restarts too.

use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, PerColor};

use super::{Fitness, Situation, StayReason, Terms, stay::Obstacle};
use crate::switching::Now;

/// The window of [`Terms::flips_per_hour`].
const HOUR_MS: u64 = 60 * 60 * 1_000;
/// Flips that are kept in the kernel; the disk has the others.
const ABRIDGED_FLIPS: usize = 2;

/// What an alarm tells: the active color has too few eligible backends, and nothing is done about it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// The standby could not serve either: the active color keeps all its backends (G6).
    #[error("neither color has enough eligible backends; the active one keeps all (fail open)")]
    FailOpen,
    /// The hour's automated flips are used up.
    #[error("a failover is due, and the hour's automated flips are used up")]
    BudgetSpent,
    /// The last one is too recent.
    #[error("a failover is due, and waits for the hold-down")]
    HoldDown,
    /// Failover is switched off.
    #[error("a failover is due, and failover is switched off")]
    SwitchedOff,
}

/// An alarm that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// What it tells.
    pub kind: AlarmKind,
    /// When it was raised.
    pub since: Now,
}

/// The color that a failover left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Left {
    pub(super) color: Color,
    pub(super) at: Now,
}

/// How fit a color is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    pub(super) fitness: Fitness,
    pub(super) since: Now,
}

/// What the policy remembers of a service. The next one comes with each verdict, and is kept once the
/// verdict's decision has been carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Failovers and failbacks of the last hour, the oldest first; never more than the budget.
    pub(super) flips: Vec<Now>,
    /// The newest automated change of the active color, a revert too.
    pub(super) newest: Option<Now>,
    /// An operator has switched failover off.
    pub(super) is_switched_off: bool,
    pub(super) alarm: Option<Alarm>,
    pub(super) left: Option<Left>,
    pub(super) seen: PerColor<Option<Seen>>,
}

impl State {
    /// An operator switches failover on or off. Returns whether that changed something.
    pub fn switch(&mut self, on: bool) -> bool {
        let before = std::mem::replace(&mut self.is_switched_off, !on);
        before == on
    }

    /// Whether the configuration or an operator has switched failover off.
    #[must_use]
    pub const fn is_off(&self, terms: &Terms) -> bool {
        !terms.is_enabled || self.is_switched_off
    }

    /// Whether an operator has switched failover off.
    #[must_use]
    pub const fn is_switched_off(&self) -> bool {
        self.is_switched_off
    }

    /// The alarm that stands.
    #[must_use]
    pub const fn alarm(&self) -> Option<Alarm> {
        self.alarm
    }

    /// The end of the newest hold-down, which may be over.
    #[must_use]
    pub fn hold_down_until(&self, terms: &Terms) -> Option<Now> {
        self.newest.map(|at| at.plus_ms(terms.hold_down_ms))
    }

    /// How many automated flips the hour that ends now has left.
    #[must_use]
    pub fn flips_left(&self, terms: &Terms, now: Now) -> u32 {
        let used = u32::try_from(self.within_hour(now).count()).unwrap_or(u32::MAX);
        terms.flips_per_hour.saturating_sub(used)
    }

    /// The state of a service after a reboot, which set `CLOCK_BOOTTIME` back: instants are told by the
    /// wall clock. Waits that are over end; the others begin anew at the boot at the earliest.
    #[must_use]
    pub fn after_reboot(mut self, terms: &Terms, now: Now) -> Self {
        let age_ms = |at: &Now| now.wall_ms.saturating_sub(at.wall_ms);
        self.flips.retain(|at| age_ms(at) < HOUR_MS);
        self.newest = (self.newest).filter(|at| age_ms(at) < terms.hold_down_ms);
        let told = |at: &mut Now| at.boot_ms = now.boot_ms.saturating_sub(age_ms(at));
        self.flips.iter_mut().for_each(told);
        self.newest.iter_mut().for_each(told);
        self.left.iter_mut().for_each(|left| told(&mut left.at));
        self.alarm.iter_mut().for_each(|it| told(&mut it.since));
        self.unseen()
    }

    /// The state of a service for an agent that starts: whether a color was as fit all the time nobody knows.
    #[must_use]
    pub fn unseen(mut self) -> Self {
        self.seen = PerColor::default();
        self
    }

    /// The same as far as it has room in the kernel, until the disk has it all.
    #[must_use]
    pub fn abridged(&self) -> Self {
        let skip = self.flips.len().saturating_sub(ABRIDGED_FLIPS);
        Self {
            flips: self.flips[skip..].to_vec(),
            alarm: None,
            seen: PerColor::default(),
            ..self.clone()
        }
    }

    /// What was [abridged](Self::abridged), with what the disk has of an `older` state.
    #[must_use]
    pub fn completed(&self, older: &Self) -> Self {
        let is_older = |at: &&Now| (self.flips.first()).is_none_or(|it| at.boot_ms < it.boot_ms);
        let older_flips = older.flips.iter().filter(is_older);
        Self {
            flips: older_flips.chain(&self.flips).copied().collect(),
            // The history has told of this one.
            alarm: older.alarm,
            ..self.clone()
        }
    }

    /// Notes that the active color was changed with that of another service, whose flip was taken back.
    pub fn reverted(&mut self, now: Now) {
        self.newest = Some(now);
    }

    /// Ends the alarm that stands, as nobody looks any more. Returns it.
    pub fn forget_alarm(&mut self) -> Option<Alarm> {
        self.alarm.take()
    }

    /// The budget, if it has no flip left.
    pub(super) fn spent_budget(&self, terms: &Terms, now: Now) -> Option<Obstacle> {
        if self.flips_left(terms, now) > 0 {
            return None;
        }
        // With the terms lowered there may be more than they allow: so many must be an hour old first.
        let newest_first = self.within_hour(now).rev();
        let frees = terms.flips_per_hour.checked_sub(1);
        let flip = frees.and_then(|at| newest_first.clone().nth(at as usize));
        Some(Obstacle {
            why: StayReason::BudgetSpent,
            until: flip.map(|flip| flip.plus_ms(HOUR_MS)),
        })
    }

    fn within_hour(&self, now: Now) -> impl DoubleEndedIterator<Item = Now> + Clone {
        let is_within = move |at: &Now| at.plus_ms(HOUR_MS).boot_ms > now.boot_ms;
        self.flips.iter().copied().filter(is_within)
    }

    /// Takes in how things are now.
    pub(super) fn look(&mut self, situation: &Situation, now: Now) {
        self.flips = self.within_hour(now).collect();
        for color in Color::ALL {
            let fitness = situation.standing.get(color).fitness();
            let seen = self.seen.get_mut(color);
            if seen.is_none_or(|seen| seen.fitness != fitness) {
                *seen = Some(Seen {
                    fitness,
                    since: now,
                });
            }
        }
        // What an operator chose since then is home.
        let is_chosen = |left: &Left| {
            (situation.newest_manual).is_some_and(|at| at.boot_ms >= left.at.boot_ms)
                || left.color == situation.active
        };
        if self.left.as_ref().is_some_and(is_chosen) {
            self.left = None;
        }
    }

    /// Notes an automated change away from `from`. A revert answers an operator's own flip: it is not of
    /// the budget.
    pub(super) fn changed(&mut self, from: Color, is_revert: bool, now: Now) {
        self.newest = Some(now);
        if !is_revert {
            self.flips.push(now);
            let is_return = self.left.take().is_some();
            self.left = (!is_return).then_some(Left {
                color: from,
                at: now,
            });
        }
    }

    /// Makes the alarm that stands one of `kind`. Returns what was cleared and what was raised.
    pub(super) fn alarm_is(
        &mut self,
        kind: Option<AlarmKind>,
        now: Now,
    ) -> (Option<Alarm>, Option<Alarm>) {
        if self.alarm.map(|alarm| alarm.kind) == kind {
            return (None, None);
        }
        let raised = kind.map(|kind| Alarm { kind, since: now });
        (std::mem::replace(&mut self.alarm, raised), raised)
    }
}
