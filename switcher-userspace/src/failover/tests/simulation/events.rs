//! What happens to the backends and their checks.

use super::{
    world::{BACKENDS, LISTENERS, Mask, mask_of, mask_of_listener},
    *,
};

/// Something that happens again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A backend, or two of a listener, or all of it.
    PartialOutage,
    /// All of a color.
    Outage,
    /// All of both.
    BothOut,
    /// Backends come and go.
    Flapping,
    /// The colors take turns in failing.
    Seesaw,
    /// Checks of a backend that serves fail.
    FalseFailures,
    /// Checks' results come late, and many fail.
    SlowChecks,
    /// An operator does something.
    Operator,
    Restart,
    Reboot,
}

pub(super) struct Source {
    pub(super) what: What,
    pub(super) mean_gap_ms: u64,
}

const fn source(what: What, mean_gap_ms: u64) -> Source {
    Source { what, mean_gap_ms }
}

pub(super) const SOURCES: &[Source] = &[
    source(What::PartialOutage, DAY_MS),
    source(What::Outage, 4 * DAY_MS),
    source(What::BothOut, 15 * DAY_MS),
    source(What::Flapping, 10 * DAY_MS),
    source(What::Seesaw, 10 * DAY_MS),
    source(What::FalseFailures, 8 * HOUR_MS),
    source(What::SlowChecks, 5 * DAY_MS),
    source(What::Operator, 4 * HOUR_MS),
    source(What::Restart, 3 * DAY_MS),
    source(What::Reboot, 40 * DAY_MS),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Of(What),
    /// A check begins.
    Check(usize),
    /// It ends.
    Result(usize, bool),
    Hit(Mask),
    Heal(Mask),
    /// Backends go for a time, again and again until an instant.
    Flap {
        mask: Mask,
        until: u64,
    },
    /// A color goes while the other one comes, until an instant.
    Swing {
        bad: Color,
        until: u64,
    },
    /// The instant that the policy has named.
    Wake,
    /// A change could not be carried out before.
    Retry,
    /// A flip has not been confirmed until now.
    Unconfirmed(u64),
    SwitchOn,
    Resume(usize),
    /// A drill ends, whether it was seen or not.
    DrillEnds,
    RollBack,
}

impl Simulation {
    /// Simulates checks of a backend until they have nothing more to tell.
    pub(super) fn watch(&mut self, backend: usize) {
        if !std::mem::replace(&mut self.world.0[backend].is_watched, true) {
            let phase = self.random.between(1, INTERVAL_MS);
            self.after(phase, Event::Check(backend));
        }
    }

    fn watch_all(&mut self, mask: Mask) {
        world::members(mask).for_each(|backend| self.watch(backend));
        // The truth has changed: whoever had to notice the one before has to notice this one.
        self.rules.recovery(false, self.t);
    }

    fn hit_for(&mut self, mask: Mask, ms: u64) {
        self.after(0, Event::Hit(mask));
        self.after(ms, Event::Heal(mask));
    }

    /// From seconds to `longest_ms`, short times being as likely as long ones.
    fn a_while(&mut self, longest_ms: u64) -> u64 {
        let longest_ms = self.random.between(SECOND_MS, longest_ms);
        self.random.between(SECOND_MS, longest_ms)
    }

    pub(super) fn color(&mut self) -> Color {
        self.random.pick(&Color::ALL)
    }

    fn some_of_a_listener(&mut self) -> Mask {
        let color = self.color();
        let listener = self.random.between(0, LISTENERS.len() as u64 - 1);
        let all = mask_of_listener(color, usize::try_from(listener).expect("an index"));
        loop {
            let mask = all & u32::try_from(self.random.between(1, 1 << BACKENDS)).expect("bits");
            if mask != 0 {
                return mask;
            }
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Of(what) => {
                let mut sources = SOURCES.iter();
                let source = sources.find(|it| it.what == what).expect("a source");
                self.after_about(source.mean_gap_ms, event);
                self.recurs(what);
            }
            Event::Check(backend) => self.check_begins(backend),
            Event::Result(backend, passed) => self.check_ends(backend, passed),
            Event::Hit(mask) => {
                self.world.hit(mask);
                self.watch_all(mask);
            }
            Event::Heal(mask) => {
                self.world.heal(mask);
                self.watch_all(mask);
            }
            Event::Flap { mask, until } => {
                let down_ms = self.random.between(100, 20 * SECOND_MS);
                self.hit_for(mask, down_ms);
                let gap_ms = down_ms + self.random.between(100, 40 * SECOND_MS);
                if self.t + gap_ms < until {
                    self.after(gap_ms, event);
                }
            }
            Event::Swing { bad, until } => {
                let ms = self.random.between(2 * SECOND_MS, 2 * MINUTE_MS);
                self.hit_for(mask_of(bad), ms);
                if self.t + ms < until {
                    let bad = bad.other();
                    self.after(ms, Event::Swing { bad, until });
                }
            }
            Event::Wake => {
                if self.wake_at == Some(self.t) {
                    self.look();
                }
            }
            Event::Retry => self.look(),
            Event::Unconfirmed(deadline) => self.not_confirmed(deadline),
            Event::SwitchOn => self.switch(true),
            Event::Resume(backend) => {
                self.world.0[backend].is_drained = false;
                self.rules.recovery(false, self.t);
                self.look();
            }
            Event::DrillEnds => {
                self.is_drill = false;
                self.look();
            }
            Event::RollBack => self.roll_back(),
        }
        self.truth();
    }

    fn recurs(&mut self, what: What) {
        match what {
            What::PartialOutage => {
                let (mask, ms) = (self.some_of_a_listener(), self.a_while(2 * HOUR_MS));
                self.hit_for(mask, ms);
            }
            What::Outage => {
                let (color, ms) = (self.color(), self.a_while(3 * HOUR_MS));
                self.hit_for(mask_of(color), ms);
            }
            What::BothOut => {
                for color in Color::ALL {
                    let ms = self.a_while(HOUR_MS);
                    self.hit_for(mask_of(color), ms);
                }
            }
            What::Flapping => {
                let mask = if self.random.one_in(2) {
                    self.some_of_a_listener()
                } else {
                    mask_of(self.color())
                };
                let until = self.t + self.a_while(HOUR_MS);
                self.after(0, Event::Flap { mask, until });
            }
            What::Seesaw => {
                let bad = self.color();
                let until = self.t + self.a_while(2 * HOUR_MS);
                self.after(0, Event::Swing { bad, until });
            }
            What::FalseFailures => {
                let backends: Vec<usize> = (0..BACKENDS).collect();
                let backend = self.random.pick(&backends);
                let failures = self.random.between(1, 4);
                self.world.0[backend].false_failures += u32::try_from(failures).expect("few");
                self.watch(backend);
            }
            What::SlowChecks => {
                self.slow_until = self.t + self.random.between(10 * SECOND_MS, 3 * MINUTE_MS);
                (0..BACKENDS).for_each(|backend| self.watch(backend));
            }
            What::Operator => self.operate(),
            What::Restart => self.restart(),
            What::Reboot => self.reboot(),
        }
    }

    pub(super) fn is_slow(&self) -> bool {
        self.t < self.slow_until
    }

    fn check_begins(&mut self, backend: usize) {
        let is_slow = self.is_slow();
        let it = &mut self.world.0[backend];
        let lies = it.false_failures > 0;
        it.false_failures = it.false_failures.saturating_sub(1);
        let mut passed = it.serves() && !lies;
        let mut takes_ms = self.random.between(1, TIMEOUT_MS);
        if is_slow {
            // The result is of the check's beginning, and much may happen until it comes.
            takes_ms = self.random.between(1, LATEST_MS);
            passed &= self.random.one_in(2);
            self.tally.late_results += u64::from(takes_ms > TIMEOUT_MS);
        }
        self.after(takes_ms, Event::Result(backend, passed));
    }

    fn check_ends(&mut self, backend: usize, passed: bool) {
        let is_slow = self.is_slow();
        let it = &mut self.world.0[backend];
        let changed = it.observe(passed);
        it.is_watched = is_slow || !it.is_settled();
        if it.is_watched {
            self.after(INTERVAL_MS, Event::Check(backend));
        }
        if changed {
            self.tally.health_changes += 1;
            self.world.tables_are_sound(self.active);
            self.look();
        }
    }
}
