//! The rules, told a second time and apart from the code under test, from what has happened.

use super::*;

/// What has happened that the rules are about; instants in milliseconds since the simulation's start.
#[derive(Default)]
pub(super) struct Rules {
    /// When failovers were carried out, in truth.
    flips: Vec<u64>,
    /// The same, and reverts.
    newest: Option<u64>,
    /// The same as an agent knows them that has seen a reboot: what was before counts as at the boot.
    known_flips: Vec<u64>,
    known_newest: Option<u64>,
    pub(super) manual: Option<u64>,
    pub(super) paused_until: u64,
    pub(super) is_off: bool,
    alarm: Option<AlarmKind>,
    /// Since when it has been true that an agent should have changed the active color.
    overdue_since: Option<u64>,
}

/// Longest time in milliseconds from a fault to the failover, while checks are quick and nothing forbids it:
/// `fall` checks, each late by its timeout, and one failure to carry it out, never two in a row.
const RECOVERS_WITHIN_MS: u64 =
    (CHECKS.fall as u64 + 1) * (INTERVAL_MS + TIMEOUT_MS) + RETRY_AFTER_MS;

impl Rules {
    /// Until when something forbids a failover at `t`, of several the longest; `None`: nothing does.
    pub(super) fn forbidden_until(&self, terms: &Terms, t: u64) -> Option<u64> {
        if self.is_off {
            return Some(u64::MAX);
        }
        let spent = (self.known_flips.iter().rev())
            .nth(terms.flips_per_hour as usize - 1)
            .map(|flip| flip + HOUR_MS);
        let ends = [
            Some(self.paused_until),
            self.manual.map(|at| at + terms.manual_freeze_ms),
            self.known_newest.map(|at| at + terms.hold_down_ms),
            spent,
        ];
        ends.into_iter().flatten().max().filter(|end| *end > t)
    }

    /// A failover is decided at `t`.
    pub(super) fn may_fail_over(&self, terms: &Terms, t: u64) {
        assert!(!self.is_off, "it is switched off");
        assert!(self.paused_until <= t, "the service is paused");
        let frozen = self.manual.map(|at| at + terms.manual_freeze_ms);
        assert!(frozen.is_none_or(|end| end <= t), "an operator decides");
        let held = self.newest.map(|at| at + terms.hold_down_ms);
        assert!(held.is_none_or(|end| end <= t), "within the hold-down");
        let used = self.flips.iter().filter(|at| **at + HOUR_MS > t).count();
        assert!(used < terms.flips_per_hour as usize, "beyond the budget");
    }

    pub(super) fn failed_over(&mut self, t: u64) {
        self.flips.push(t);
        self.known_flips.push(t);
        self.reverted(t);
    }

    pub(super) fn reverted(&mut self, t: u64) {
        self.newest = Some(t);
        self.known_newest = Some(t);
    }

    pub(super) fn rebooted(&mut self, terms: &Terms, t: u64) {
        self.known_flips.retain(|at| at + HOUR_MS > t);
        self.known_flips.iter_mut().for_each(|at| *at = t);
        let lasts = |at: Option<u64>, ms| at.filter(|at| at + ms > t).map(|_| t);
        self.known_newest = lasts(self.known_newest, terms.hold_down_ms);
        self.manual = lasts(self.manual, terms.manual_freeze_ms);
        self.paused_until = 0;
    }

    /// Alarms come in pairs, one at a time, and stand for what is.
    pub(super) fn alarms(&mut self, verdict: &Verdict, is_bad: bool, has_target: bool) {
        if let Some(cleared) = verdict.cleared {
            assert_eq!(self.alarm.take(), Some(cleared.kind), "it stood");
        }
        if let Some(raised) = verdict.raised {
            let before = self.alarm.replace(raised.kind);
            assert_eq!(before, None, "one stands already");
        }
        assert_eq!(verdict.next.alarm().map(|it| it.kind), self.alarm);
        let is_open = self.alarm == Some(AlarmKind::FailOpen);
        assert_eq!(is_open, is_bad && !has_target, "fail open is told");
        if let Decision::Stay { why, .. } = verdict.decision {
            let expected = match why {
                _ if !is_bad => None,
                StayReason::NowhereToGo => Some(AlarmKind::FailOpen),
                StayReason::SwitchedOff => Some(AlarmKind::SwitchedOff),
                StayReason::HoldDown => Some(AlarmKind::HoldDown),
                StayReason::BudgetSpent => Some(AlarmKind::BudgetSpent),
                StayReason::Paused
                | StayReason::ManualFreeze
                | StayReason::Enough
                | StayReason::Unknown => None,
            };
            assert_eq!(self.alarm, expected, "{why}");
        }
    }

    /// Clients are without service by the truth, and would not have to be: that must end in bounded time.
    pub(super) fn recovery(&mut self, is_needless: bool, t: u64) {
        if !is_needless {
            self.overdue_since = None;
            return;
        }
        let since = *self.overdue_since.get_or_insert(t);
        assert!(
            t - since <= RECOVERS_WITHIN_MS,
            "a standby that could serve waits for {} ms",
            t - since
        );
    }
}
