//! The policy under a simulated clock: years of crashes, partial outages, flapping, checks that lie or come
//! late, operators, restarts and reboots. After each event the rules are checked, as they are told a
//! second time in `rules`.
//!
//! Checks of a backend are simulated only while they have something to tell, so that years take seconds.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

mod agent;
mod events;
mod operator;
mod random;
mod rules;
mod world;

use self::{
    events::{Event, SOURCES},
    random::Random,
    rules::Rules,
    world::{BACKENDS, CHECKS, World},
};

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_MS: u64 = 365 * DAY_MS;
/// From the end of a check to the next one.
const INTERVAL_MS: u64 = 200;
/// Longest check, unless the agent is slow.
const TIMEOUT_MS: u64 = 200;
/// Longest check while the agent is slow.
const LATEST_MS: u64 = 5 * SECOND_MS;
/// When a change that could not be carried out is decided on again.
const RETRY_AFTER_MS: u64 = SECOND_MS;
/// Wall clock at the start.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What has happened, so that a run in which nothing did proves nothing.
#[derive(Debug, Default)]
struct Tally {
    health_changes: u64,
    late_results: u64,
    failovers: u64,
    failbacks: u64,
    drills: u64,
    reverts: u64,
    ended_splits: u64,
    /// Failovers at the very end of what had forbidden them.
    waited: u64,
    restarts: u64,
    reboots: u64,
    not_carried_out: u64,
    raised: [u64; 4],
}

/// One service through the years.
struct Simulation {
    random: Random,
    /// Milliseconds since the start; each `_at` and `_until` below is one of these.
    t: u64,
    booted_at: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    queued: u64,
    world: World,
    terms: Terms,
    state: State,
    active: Color,
    split_percent: u8,
    unconfirmed_until: Option<u64>,
    is_drill: bool,
    slow_until: u64,
    /// When a change could not be carried out.
    hindered_at: Option<u64>,
    wake_at: Option<u64>,
    rules: Rules,
    tally: Tally,
}

impl Simulation {
    fn new(seed: u64, terms: Terms) -> Self {
        let mut it = Self {
            random: Random(seed),
            t: 0,
            booted_at: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            world: World::new(),
            terms,
            state: State::default(),
            active: Color::Blue,
            split_percent: 0,
            unconfirmed_until: None,
            is_drill: false,
            slow_until: 0,
            hindered_at: None,
            wake_at: None,
            rules: Rules::default(),
            tally: Tally::default(),
        };
        (0..BACKENDS).for_each(|backend| it.watch(backend));
        for source in SOURCES {
            it.after_about(source.mean_gap_ms, Event::Of(source.what));
        }
        it
    }

    fn run(mut self, until: u64) -> Tally {
        while let Some(Reverse((at, _, event))) = self.queue.pop()
            && at < until
        {
            assert!(at >= self.t, "time goes forward");
            self.t = at;
            self.happen(event);
        }
        self.tally
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((self.t + ms, self.queued, event)));
    }

    fn after_about(&mut self, mean_ms: u64, event: Event) {
        let ms = self.random.between(1, 2 * mean_ms);
        self.after(ms, event);
    }

    fn instant(&self, at: u64) -> Now {
        Now {
            boot_ms: at.saturating_sub(self.booted_at),
            wall_ms: EPOCH_MS + at,
        }
    }
}

/// Simulates two years from `seed`.
fn years(seed: u64, terms: Terms) -> Tally {
    let tally = Simulation::new(seed, terms).run(2 * YEAR_MS);
    println!("seed {seed}: {tally:?}");
    let enough = [
        (tally.health_changes, 10_000, "changes of health"),
        (tally.late_results, 1_000, "late results"),
        (tally.failovers, 500, "failovers"),
        (tally.drills, 20, "drills"),
        (tally.reverts, 20, "reverts"),
        (tally.ended_splits, 20, "ended splits"),
        (tally.waited, 100, "failovers that waited"),
        (tally.restarts, 100, "restarts"),
        (tally.reboots, 10, "reboots"),
        (tally.not_carried_out, 10, "failures to carry out"),
        (
            tally.raised.into_iter().min().unwrap_or(0),
            10,
            "alarms of each kind",
        ),
    ];
    for (count, least, what) in enough {
        assert!(
            count >= least,
            "{count} {what} are too few to prove anything"
        );
    }
    tally
}

#[test]
fn years_of_faults_break_no_rule_of_the_default_terms() {
    for seed in 1..=3 {
        let tally = years(seed, Terms::default());
        assert_eq!(tally.failbacks, 0);
    }
}

#[test]
fn years_of_faults_break_no_rule_with_automatic_failback() {
    let terms = Terms {
        automatic_failback: true,
        hold_down_ms: 5 * MINUTE_MS,
        flips_per_hour: 3,
        manual_freeze_ms: 2 * MINUTE_MS,
        ..Terms::default()
    };
    assert!(years(4, terms).failbacks >= 20);
}
