//! What operators do.

use super::{
    world::{BACKENDS, mask_of},
    *,
};

impl Simulation {
    pub(super) fn operate(&mut self) {
        let standby = self.active.other();
        let is_good = self.world.is_good(standby);
        match self.random.between(0, 9) {
            0..=2 => {
                let is_forced = self.random.one_in(10);
                if is_good || is_forced {
                    self.flip();
                }
            }
            3 => self.split_percent = 0,
            4 if is_good => {
                self.split_percent =
                    u8::try_from(self.random.between(1, 100)).expect("a percentage");
                // What is new fails more often than what is old.
                self.often_fails(standby);
            }
            5 => {
                self.rules.paused_until = self.t + self.random.between(SECOND_MS, 30 * SECOND_MS);
                self.often_fails(self.active);
            }
            6 => self.rules.paused_until = self.t,
            7 if self.random.one_in(4) => {
                self.switch(false);
                self.after_about(12 * HOUR_MS, Event::SwitchOn);
            }
            8 => {
                let backends: Vec<usize> = (0..BACKENDS).collect();
                let backend = self.random.pick(&backends);
                self.world.0[backend].is_drained = true;
                self.after_about(HOUR_MS, Event::Resume(backend));
            }
            9 if is_good => {
                self.is_drill = true;
                self.after(2 * MINUTE_MS, Event::DrillEnds);
            }
            _ => self.unconfirmed_until = None,
        }
        self.rules.recovery(false, self.t);
        self.look();
    }

    /// A fault is soon to come, as likely as not.
    fn often_fails(&mut self, color: Color) {
        if self.random.one_in(2) {
            let begins_ms = self.random.between(1, MINUTE_MS);
            let lasts_ms = self.random.between(SECOND_MS, 10 * MINUTE_MS);
            self.after(begins_ms, Event::Hit(mask_of(color)));
            self.after(begins_ms + lasts_ms, Event::Heal(mask_of(color)));
        }
    }

    fn flip(&mut self) {
        self.becomes_active(self.active.other());
        self.rules.manual = Some(self.t);
        if self.random.one_in(2) {
            let within_ms = self.random.between(SECOND_MS, 2 * MINUTE_MS);
            let deadline = self.t + within_ms;
            self.unconfirmed_until = Some(deadline);
            self.after(within_ms, Event::Unconfirmed(deadline));
        }
        self.often_fails(self.active);
    }

    /// The gate may refuse it.
    pub(super) fn roll_back(&mut self) {
        let to = self.active.other();
        if self.world.is_good(to) {
            self.becomes_active(to);
            self.rules.manual = Some(self.t);
            self.look();
        }
    }

    pub(super) fn switch(&mut self, on: bool) {
        self.state.switch(on);
        self.rules.is_off = !on;
        self.look();
    }
}
