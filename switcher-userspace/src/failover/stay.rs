//! Why the active color stays as it is.

use serde::{Deserialize, Serialize};

use super::{AlarmKind, Situation, State, Terms};
use crate::switching::Now;

/// Why the active color stays as it is.
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
pub enum StayReason {
    /// It has enough eligible backends.
    #[error("the active color has enough eligible backends")]
    Enough,
    /// It has too few, but backends without a result could make it enough.
    #[error("the active color has backends whose health is not known yet")]
    Unknown,
    /// The standby could not serve either, or is not known to.
    #[error("the standby has too few eligible backends too")]
    NowhereToGo,
    /// The configuration or an operator has switched failover off.
    #[error("automated failover is switched off")]
    SwitchedOff,
    /// Fresh flows are held.
    #[error("the service is paused")]
    Paused,
    /// An operator changed the active color a short while ago.
    #[error("an operator has just changed the active color")]
    ManualFreeze,
    /// The agent changed it a short while ago.
    #[error("the last automated change of the active color is too recent (hold-down)")]
    HoldDown,
    /// The agent has changed it as often as it may within an hour.
    #[error("there were as many automated changes of the active color as an hour may have")]
    BudgetSpent,
}

impl StayReason {
    /// The alarm that tells of it while the active color has too few eligible backends. An operator's
    /// pause and freeze raise none: they are known to whoever made them, and end by themselves soon.
    pub(super) const fn alarm(self) -> Option<AlarmKind> {
        match self {
            Self::NowhereToGo => Some(AlarmKind::FailOpen),
            Self::SwitchedOff => Some(AlarmKind::SwitchedOff),
            Self::HoldDown => Some(AlarmKind::HoldDown),
            Self::BudgetSpent => Some(AlarmKind::BudgetSpent),
            Self::Enough | Self::Unknown | Self::Paused | Self::ManualFreeze => None,
        }
    }
}

/// Something that forbids an automated change of the active color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) why: StayReason,
    /// When it ends by itself; `None`: never.
    pub(super) until: Option<Now>,
}

impl State {
    /// What forbids a change now. Of several, the one that lasts longest: the others' ends change nothing.
    pub(super) fn obstacle(
        &self,
        terms: &Terms,
        situation: &Situation,
        now: Now,
    ) -> Option<Obstacle> {
        let timed = |why, until: Option<Now>| {
            let until = until.filter(|until| until.boot_ms > now.boot_ms)?;
            Some(Obstacle {
                why,
                until: Some(until),
            })
        };
        let frozen = (situation.newest_manual).map(|at| at.plus_ms(terms.manual_freeze_ms));
        let held = self.hold_down_until(terms);
        let all = [
            timed(StayReason::Paused, situation.paused_until),
            timed(StayReason::ManualFreeze, frozen).filter(|_| !cfg!(mutant = "no-freeze")),
            timed(StayReason::HoldDown, held).filter(|_| !cfg!(mutant = "no-hold-down")),
            self.spent_budget(terms, now)
                .filter(|_| !cfg!(mutant = "no-budget")),
            self.is_off(terms).then_some(Obstacle {
                why: StayReason::SwitchedOff,
                until: None,
            }),
        ];
        let ends = |it: &Obstacle| it.until.map_or(u64::MAX, |until| until.boot_ms);
        all.into_iter().flatten().max_by_key(ends)
    }
}
