//! Long random sequences of situations: what holds after each look.

use proptest::{prelude::*, test_runner::TestCaseError};

use super::*;

#[derive(Clone, Debug)]
struct Step {
    wait_ms: u64,
    standing: [usize; 2],
    split_percent: u8,
    pause_ms: Option<u64>,
    confirm_ms: Option<u64>,
    is_manual: bool,
    is_drill: bool,
    switch: Option<bool>,
    /// Whether what was decided is carried out.
    is_done: bool,
}

fn steps() -> impl Strategy<Value = Step> {
    let rarely = proptest::bool::weighted(0.1);
    let waits = prop_oneof![0..2_000_u64, 0..90_000_u64, 0..HOUR_MS];
    let situation = (
        [0..5_usize, 0..5_usize],
        prop_oneof![3 => Just(0_u8), 1 => 1..=100_u8],
        proptest::option::weighted(0.1, 0..30_000_u64),
        proptest::option::weighted(0.1, 1..30_000_u64),
    );
    let others = (
        rarely,
        proptest::bool::weighted(0.1),
        proptest::option::weighted(0.05, any::<bool>()),
        proptest::bool::weighted(0.9),
    );
    (waits, situation, others).prop_map(|(wait_ms, situation, others)| {
        let (standing, split_percent, pause_ms, confirm_ms) = situation;
        let (is_manual, is_drill, switch, is_done) = others;
        Step {
            wait_ms,
            standing,
            split_percent,
            pause_ms,
            confirm_ms,
            is_manual,
            is_drill,
            switch,
            is_done,
        }
    })
}

fn standing(which: usize) -> Standing {
    match which {
        0 | 1 => enough(),
        2 => unknown(),
        _ => short(),
    }
}

/// What has happened so far, told apart from the state under test.
struct Past {
    now: Now,
    active: Color,
    manual: Option<Now>,
    pause: Option<Now>,
    is_off: bool,
    flips: Vec<u64>,
    newest: Option<u64>,
    alarm: Option<AlarmKind>,
}

impl Past {
    fn take(&mut self, state: &mut State, step: &Step, terms: &Terms) -> Situation {
        self.now = self.now.plus_ms(step.wait_ms);
        if step.is_manual {
            self.active = self.active.other();
            self.manual = Some(self.now);
        }
        if let Some(on) = step.switch {
            let changed = state.switch(on);
            assert_eq!(changed, self.is_off == on);
            self.is_off = !on;
        }
        self.pause = step.pause_ms.map(|ms| self.now.plus_ms(ms)).or(self.pause);
        assert_eq!(state.is_off(terms), self.is_off);
        Situation {
            active: self.active,
            standing: PerColor {
                blue: standing(step.standing[0]),
                green: standing(step.standing[1]),
            },
            split_percent: step.split_percent,
            paused_until: self.pause,
            unconfirmed_until: step.confirm_ms.map(|ms| self.now.plus_ms(ms)),
            newest_manual: self.manual,
            is_drill: step.is_drill,
        }
    }

    /// A failover must be allowed in every respect.
    fn may_fail_over(&self, it: &Situation, terms: &Terms) -> Result<(), TestCaseError> {
        let now = self.now.boot_ms;
        let is_over = |at: Option<Now>| at.is_none_or(|at| at.boot_ms <= now);
        prop_assert!(!self.is_off);
        prop_assert!(is_over(self.pause), "paused");
        prop_assert!(is_over(
            self.manual.map(|at| at.plus_ms(terms.manual_freeze_ms))
        ));
        prop_assert!(self.newest.is_none_or(|at| at + terms.hold_down_ms <= now));
        let used = self.flips.iter().filter(|at| **at + HOUR_MS > now).count();
        prop_assert!(used < terms.flips_per_hour as usize);
        let of = |color| it.standing.get(color).fitness();
        prop_assert_eq!(of(self.active.other()), Fitness::Enough);
        Ok(())
    }

    fn check(
        &mut self,
        it: &Situation,
        verdict: &Verdict,
        terms: &Terms,
    ) -> Result<(), TestCaseError> {
        let of = |color| it.standing.get(color).fitness();
        let is_due = of(self.active) == Fitness::Short || it.is_drill;
        match verdict.decision {
            Decision::Stay { until, .. } => {
                prop_assert!(until.is_none_or(|at| at.boot_ms > self.now.boot_ms));
                prop_assert!(!is_due || self.may_fail_over(it, terms).is_err());
            }
            Decision::FailOver { to, .. } => {
                prop_assert_eq!(to, self.active.other());
                let is_failback = verdict.evidence.cause == Some(Cause::Failback);
                prop_assert!(is_due || (is_failback && terms.automatic_failback));
                self.may_fail_over(it, terms)?;
            }
            Decision::Revert { to } => {
                prop_assert!(is_due && it.unconfirmed_until.is_some() && !self.is_off);
                prop_assert_eq!(of(to), Fitness::Enough);
            }
            Decision::EndSplit => {
                prop_assert!(it.split_percent > 0 && !self.is_off);
                prop_assert_eq!(of(self.active.other()), Fitness::Short);
            }
        }
        if let Some(cleared) = verdict.cleared {
            prop_assert_eq!(
                self.alarm,
                Some(cleared.kind),
                "only what stands is cleared"
            );
        }
        if verdict.raised.is_some() && verdict.cleared.is_none() {
            prop_assert_eq!(self.alarm, None, "one alarm at a time");
        }
        Ok(())
    }

    fn carry_out(&mut self, verdict: &Verdict) {
        let now = self.now.boot_ms;
        match verdict.decision {
            Decision::FailOver { to, .. } => {
                if verdict.evidence.cause != Some(Cause::Drill) {
                    self.flips.push(now);
                    self.newest = Some(now);
                }
                self.active = to;
            }
            Decision::Revert { to } => {
                self.newest = Some(now);
                self.active = to;
            }
            Decision::Stay { .. } | Decision::EndSplit => {}
        }
        self.alarm = verdict.next.alarm().map(|alarm| alarm.kind);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_sequence_of_situations_breaks_a_rule(
        sequence in proptest::collection::vec(steps(), 1..150),
        automatic_failback in any::<bool>(),
    ) {
        let terms = Terms { automatic_failback, ..terms() };
        let mut state = State::default();
        let mut past = Past {
            now: START,
            active: Color::Blue,
            manual: None,
            pause: None,
            is_off: false,
            flips: Vec::new(),
            newest: None,
            alarm: None,
        };
        for step in &sequence {
            let it = past.take(&mut state, step, &terms);
            let verdict = state.decide(&terms, &it, past.now);
            past.check(&it, &verdict, &terms)?;
            if let Decision::Stay { .. } = verdict.decision {
                let again = verdict.next.decide(&terms, &it, past.now);
                prop_assert_eq!(again.decision, verdict.decision);
                prop_assert_eq!((again.raised, again.cleared), (None, None), "told once");
                prop_assert_eq!(&again.next, &verdict.next);
            }
            if step.is_done {
                past.carry_out(&verdict);
                state = verdict.next;
            }
        }
    }
}
