//! When the agent changes the active color by itself.

use switcher_common::service::{Color, PerColor};

use super::{
    Alarm, AtFailover, Cause, Evidence, Fitness, Side, Standing, State, StayReason, Terms,
};
use crate::switching::Now;

/// How things are with a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The active color.
    pub active: Color,
    /// What each color's backends come to.
    pub standing: PerColor<Standing>,
    /// Share of the clients, in percent, whose fresh flows go to the standby.
    pub split_percent: u8,
    /// Fresh flows are held until then; of several pauses the one that lasts longest.
    pub paused_until: Option<Now>,
    /// The newest flip is taken back then, unless it is confirmed before.
    pub unconfirmed_until: Option<Now>,
    /// When an operator changed the active color last: flip, promote or rollback.
    pub newest_manual: Option<Now>,
    /// The active color is to be taken for unhealthy.
    pub is_drill: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Stay {
        /// Why.
        why: StayReason,
        /// When to look again, though nothing has happened.
        until: Option<Now>,
    },
    /// The standby becomes active.
    FailOver {
        /// The standby.
        to: Color,
        /// What becomes of the flows on the other color.
        at_failover: AtFailover,
    },
    /// The flip that nobody has confirmed yet is taken back.
    Revert {
        /// The color that was active before.
        to: Color,
    },
    /// The standby's share of the clients ends.
    EndSplit,
}

/// A decision, and what comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be done.
    pub decision: Decision,
    /// What it was decided on.
    pub evidence: Evidence,
    /// The alarm that stood and is over.
    pub cleared: Option<Alarm>,
    /// The alarm that stands from now on.
    pub raised: Option<Alarm>,
    /// What to remember once all of this has been carried out. If that failed, keep the state before:
    /// the next look then decides anew.
    pub next: State,
}

/// What the active color's backends ask for.
enum Course {
    Stay { why: StayReason, until: Option<Now> },
    Go(Cause),
}

impl State {
    /// Decides. To be asked whenever something of `situation` has changed, and at the instant that the
    /// newest [`Decision::Stay`] names. In this order:
    ///
    /// 1. A flip that awaits its confirmation and whose color is short is taken back at once, whatever
    ///    pause, freeze, hold-down or budget say: the operator asked for that.
    /// 2. A standby with a share of the clients that is short loses the share, at once too: no active
    ///    color changes by it.
    /// 3. An active color that is short is left for a standby that has enough, unless something forbids
    ///    it (`stay.rs`): failover is switched off, a pause, the freeze after an operator's
    ///    change, the hold-down, the hour's budget.
    /// 4. With automatic failback, the color that a failover left becomes active again when it has had
    ///    enough for the hold-down's time without a break, and the budget keeps one flip for a failover.
    ///
    /// Both colors short: all stays, and an alarm tells (G6). What is unknown is neither left nor gone to.
    /// While failover is switched off nothing is changed, and an alarm tells what would be due.
    #[must_use]
    pub fn decide(&self, terms: &Terms, situation: &Situation, now: Now) -> Verdict {
        let mut next = self.clone();
        next.look(situation, now);
        let active = situation.active;
        let standby = active.other();
        let course = next.course(terms, situation, now);
        let alarm = match &course {
            // A drill's belief is no alarm.
            Course::Stay { why, .. } if situation.fitness(active) == Fitness::Short => why.alarm(),
            _ => None,
        };
        let (decision, cause) = match next.at_once(terms, situation) {
            Some((decision, cause)) => (decision, Some(cause)),
            None => match course {
                Course::Stay { why, until } => (Decision::Stay { why, until }, None),
                Course::Go(cause) => {
                    let at_failover = match cause {
                        // The color that is left now serves well: its flows need not be cut.
                        Cause::Failback => AtFailover::Drain,
                        _ => terms.at_failover,
                    };
                    let decision = Decision::FailOver {
                        to: standby,
                        at_failover,
                    };
                    (decision, Some(cause))
                }
            },
        };
        let evidence = Evidence {
            cause,
            active,
            sides: PerColor::from_fn(|color| next.side(situation, color, now)),
        };
        let alarm = match decision {
            Decision::FailOver { .. } | Decision::Revert { .. } => None,
            Decision::Stay { .. } | Decision::EndSplit => alarm,
        };
        let (cleared, raised) = next.alarm_is(alarm, now);
        match decision {
            // Who proves the standby stays as protected as before: a drill is of no hold-down and no budget.
            Decision::FailOver { .. } if cause == Some(Cause::Drill) => {}
            Decision::FailOver { .. } => next.changed(active, false, now),
            Decision::Revert { .. } => next.changed(active, true, now),
            Decision::Stay { .. } | Decision::EndSplit => {}
        }
        Verdict {
            decision,
            evidence,
            cleared,
            raised,
            next,
        }
    }

    /// Rules 1 and 2.
    fn at_once(&self, terms: &Terms, situation: &Situation) -> Option<(Decision, Cause)> {
        if self.is_off(terms) {
            return None;
        }
        let standby = situation.active.other();
        let fitness = situation.fitness(standby);
        if situation.unconfirmed_until.is_some()
            && fitness == Fitness::Enough
            && let Some(cause) = situation.due()
        {
            return Some((Decision::Revert { to: standby }, cause));
        }
        (situation.split_percent > 0 && fitness == Fitness::Short)
            .then_some((Decision::EndSplit, Cause::StandbyShort))
    }

    /// Rules 3 and 4.
    fn course(&self, terms: &Terms, situation: &Situation, now: Now) -> Course {
        let Some(cause) = situation.due() else {
            return self.failback(terms, situation, now);
        };
        let is_target = situation.fitness(situation.active.other()) == Fitness::Enough;
        if !is_target && !cfg!(mutant = "failover-to-bad") {
            return Course::Stay {
                why: StayReason::NowhereToGo,
                until: None,
            };
        }
        match self.obstacle(terms, situation, now) {
            Some(obstacle) => Course::Stay {
                why: obstacle.why,
                until: obstacle.until,
            },
            None => Course::Go(cause),
        }
    }

    fn failback(&self, terms: &Terms, situation: &Situation, now: Now) -> Course {
        let why = match situation.fitness(situation.active) {
            Fitness::Unknown => StayReason::Unknown,
            Fitness::Enough | Fitness::Short => StayReason::Enough,
        };
        let stay = |until| Course::Stay { why, until };
        let home = self.left.filter(|_| terms.automatic_failback);
        let Some(seen) = home.and_then(|left| *self.seen.get(left.color)) else {
            return stay(None);
        };
        // An operator who tries something out decides by himself.
        let is_tried = situation.split_percent > 0 || situation.unconfirmed_until.is_some();
        if seen.fitness != Fitness::Enough || is_tried {
            return stay(None);
        }
        if let Some(obstacle) = self.obstacle(terms, situation, now) {
            return stay(obstacle.until);
        }
        let proven = seen.since.plus_ms(terms.hold_down_ms);
        if proven.boot_ms > now.boot_ms {
            return stay(Some(proven));
        }
        let spared = Terms {
            flips_per_hour: terms.flips_per_hour.saturating_sub(1),
            ..*terms
        };
        match self.spent_budget(&spared, now) {
            Some(obstacle) => stay(obstacle.until),
            None => Course::Go(Cause::Failback),
        }
    }

    fn side(&self, situation: &Situation, color: Color, now: Now) -> Side {
        let standing = situation.standing.get(color);
        Side {
            fitness: standing.fitness(),
            since: self.seen.get(color).map_or(now, |seen| seen.since),
            listener: standing.decisive().cloned(),
        }
    }
}

impl Situation {
    fn fitness(&self, color: Color) -> Fitness {
        self.standing.get(color).fitness()
    }

    /// Why the active color is to be left, if it is.
    fn due(&self) -> Option<Cause> {
        match self.fitness(self.active) {
            Fitness::Short => Some(Cause::ActiveShort),
            Fitness::Enough | Fitness::Unknown => self.is_drill.then_some(Cause::Drill),
        }
    }
}
