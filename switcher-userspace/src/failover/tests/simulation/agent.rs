//! What the agent does with the policy: looks, carries out, keeps.

use super::*;

impl Simulation {
    fn situation(&self) -> Situation {
        let at = |at: u64| self.instant(at);
        let paused_until = self.rules.paused_until;
        Situation {
            active: self.active,
            standing: PerColor::from_fn(|color| self.world.standing(color)),
            split_percent: self.split_percent,
            paused_until: (paused_until > self.t).then(|| at(paused_until)),
            unconfirmed_until: self.unconfirmed_until.map(at),
            newest_manual: self.rules.manual.map(at),
            is_drill: self.is_drill,
        }
    }

    /// Decides and carries out, until there is nothing more to do.
    pub(super) fn look(&mut self) {
        for _ in 0..4 {
            let now = self.instant(self.t);
            let verdict = self.state.decide(&self.terms, &self.situation(), now);
            self.examine(&verdict);
            let is_change = !matches!(verdict.decision, Decision::Stay { .. });
            let was_hindered = (self.hindered_at).is_some_and(|at| self.t - at < MINUTE_MS);
            if is_change && !was_hindered && self.random.one_in(30) {
                self.hindered_at = Some(self.t);
                self.tally.not_carried_out += 1;
                self.after(RETRY_AFTER_MS, Event::Retry);
                return;
            }
            self.carry_out(verdict);
            if !is_change {
                return;
            }
        }
        panic!("one change after the other without an end");
    }

    /// Whether what is decided is what the rules say.
    fn examine(&self, verdict: &Verdict) {
        let (t, rules, world) = (self.t, &self.rules, &self.world);
        let standby = self.active.other();
        let is_bad = world.is_bad(self.active);
        let is_due = is_bad || self.is_drill;
        let has_target = world.is_good(standby);
        let is_revertible = self.unconfirmed_until.is_some() && !rules.is_off;
        let loses_share = self.split_percent > 0 && world.is_bad(standby) && !rules.is_off;
        match verdict.decision {
            Decision::Revert { to } => {
                assert!(
                    is_due && is_revertible && to == standby,
                    "nothing to revert"
                );
                assert!(has_target, "reverted to a bad color");
            }
            Decision::EndSplit => assert!(loses_share, "the standby may keep its share"),
            Decision::FailOver { to, .. } => {
                assert_eq!(to, standby);
                assert!(has_target, "failed over to a bad color");
                let cause = verdict.evidence.cause;
                let expected = match (is_bad, self.is_drill) {
                    (true, _) => Cause::ActiveShort,
                    (false, true) => Cause::Drill,
                    (false, false) => Cause::Failback,
                };
                assert_eq!(cause, Some(expected));
                assert!(expected != Cause::Failback || self.terms.automatic_failback);
                rules.may_fail_over(&self.terms, t);
            }
            Decision::Stay { why, until } => {
                assert!(!loses_share, "a bad standby keeps its share");
                if is_due && has_target {
                    assert!(!is_revertible, "an unconfirmed flip stands: {why}");
                    let end = rules.forbidden_until(&self.terms, t);
                    let end = end.unwrap_or_else(|| panic!("nothing forbids it: {why}"));
                    let told = until.map_or(u64::MAX, |until| until.boot_ms + self.booted_at);
                    assert_eq!(told, end, "{why}");
                }
            }
        }
    }

    fn carry_out(&mut self, verdict: Verdict) {
        let t = self.t;
        let (is_bad, has_target) = (
            self.world.is_bad(self.active),
            self.world.is_good(self.active.other()),
        );
        self.rules.alarms(&verdict, is_bad, has_target);
        if let Some(raised) = verdict.raised {
            self.tally.raised[raised.kind as usize] += 1;
        }
        self.state = verdict.next;
        let woken_at = self.wake_at.take();
        match verdict.decision {
            Decision::Stay { until, .. } => {
                self.wake_at = until.map(|until| until.boot_ms + self.booted_at);
                if let Some(at) = self.wake_at {
                    self.after(at - t, Event::Wake);
                }
            }
            Decision::FailOver { to, .. } => {
                self.becomes_active(to);
                match verdict.evidence.cause {
                    Some(Cause::Drill) => self.tally.drills += 1,
                    Some(Cause::Failback) => self.tally.failbacks += 1,
                    _ => self.tally.failovers += 1,
                }
                if verdict.evidence.cause != Some(Cause::Drill) {
                    self.rules.failed_over(t);
                }
                self.tally.waited += u64::from(woken_at == Some(t));
                self.after_failover();
            }
            Decision::Revert { to } => {
                self.becomes_active(to);
                self.rules.reverted(t);
                self.tally.reverts += 1;
            }
            Decision::EndSplit => {
                self.split_percent = 0;
                self.tally.ended_splits += 1;
            }
        }
    }

    pub(super) fn becomes_active(&mut self, to: Color) {
        self.active = to;
        self.split_percent = 0;
        self.unconfirmed_until = None;
        self.world.tables_are_sound(to);
    }

    /// A failover is often followed by more: the new color fails too, an operator acts.
    fn after_failover(&mut self) {
        if std::mem::take(&mut self.is_drill) {
            self.after_about(MINUTE_MS, Event::RollBack);
        } else if self.random.one_in(4) {
            self.after_about(HOUR_MS, Event::RollBack);
        }
        if self.random.one_in(4) {
            let mask = world::mask_of(self.active);
            let begins_ms = self.random.between(1, MINUTE_MS);
            let lasts_ms = self.random.between(SECOND_MS, 10 * MINUTE_MS);
            self.after(begins_ms, Event::Hit(mask));
            self.after(begins_ms + lasts_ms, Event::Heal(mask));
        }
    }

    /// The time to confirm a flip is over.
    pub(super) fn not_confirmed(&mut self, deadline: u64) {
        if self.unconfirmed_until != Some(deadline) {
            return;
        }
        let to = self.active.other();
        if self.world.is_good(to) {
            self.becomes_active(to);
        } else {
            let deadline = self.t + 10 * SECOND_MS;
            self.unconfirmed_until = Some(deadline);
            self.after(10 * SECOND_MS, Event::Unconfirmed(deadline));
        }
        self.look();
    }

    pub(super) fn restart(&mut self) {
        let text = serde_json::to_string(&self.state).expect("JSON");
        let adopted = serde_json::from_str(&text).expect("the same");
        assert_eq!(std::mem::replace(&mut self.state, adopted), self.state);
        self.world.restart();
        self.tally.restarts += 1;
        self.look();
    }

    pub(super) fn reboot(&mut self) {
        if self.t - self.booted_at < 3 * HOUR_MS {
            return;
        }
        self.booted_at = self.t;
        self.rules.rebooted(&self.terms, self.t);
        let state = std::mem::take(&mut self.state);
        self.state = state.after_reboot(&self.terms, self.instant(self.t));
        self.tally.reboots += 1;
        self.look();
    }

    /// What is true of the backends, whatever checks say.
    pub(super) fn truth(&mut self) {
        let is_plain = self.t >= self.slow_until + LATEST_MS
            && self.world.is_honest()
            && self.rules.forbidden_until(&self.terms, self.t).is_none();
        let is_needless = is_plain
            && !self.world.could_serve(self.active)
            && self.world.could_serve(self.active.other());
        self.rules.recovery(is_needless, self.t);
    }
}
