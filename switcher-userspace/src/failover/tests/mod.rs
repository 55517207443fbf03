//! The state machines by themselves: rows for their rules, random sequences, and years of simulated time.

use switcher_common::service::{Color, PerColor};

use super::*;
use crate::switching::Now;

mod checks;
mod ejection;
mod refusals;
mod rules;
mod sequences;
mod simulation;
mod waits;

const START: Now = Now {
    boot_ms: 10_000_000,
    wall_ms: 1_700_000_000_000,
};
const HOUR_MS: u64 = 3_600_000;

/// A listener's count of a color with `min_healthy` 1: healthy, unknown and unhealthy backends.
fn counted(healthy: usize, unknown: usize, unhealthy: usize) -> Standing {
    Standing(vec![listener("http", healthy, unknown, unhealthy)])
}

fn listener(name: &str, healthy: usize, unknown: usize, unhealthy: usize) -> ListenerCount {
    let backends: Vec<Candidate> = [
        (healthy, Health::Healthy),
        (unknown, Health::Unknown),
        (unhealthy, Health::Unhealthy),
    ]
    .into_iter()
    .flat_map(|(count, health)| vec![candidate(health); count])
    .collect();
    ListenerCount::of(name, &backends, 1)
}

fn candidate(health: Health) -> Candidate {
    Candidate {
        health: Some(health),
        is_drained: false,
        is_dead: false,
    }
}

fn enough() -> Standing {
    counted(2, 0, 0)
}

fn short() -> Standing {
    counted(0, 0, 2)
}

fn unknown() -> Standing {
    counted(0, 2, 0)
}

/// Blue is active, nothing is going on.
fn situation(blue: Standing, green: Standing) -> Situation {
    Situation {
        active: Color::Blue,
        standing: PerColor { blue, green },
        split_percent: 0,
        paused_until: None,
        unconfirmed_until: None,
        newest_manual: None,
        is_drill: false,
    }
}

fn terms() -> Terms {
    Terms::default()
}

fn to_green() -> Decision {
    Decision::FailOver {
        to: Color::Green,
        at_failover: AtFailover::Cut,
    }
}

fn stay(why: StayReason, until: Option<Now>) -> Decision {
    Decision::Stay { why, until }
}

/// What a state without a past decides.
fn decided(situation: &Situation) -> Verdict {
    State::default().decide(&terms(), situation, START)
}

/// A state that has just failed over from blue to green.
fn failed_over(at: Now) -> State {
    let verdict = State::default().decide(&terms(), &situation(short(), enough()), at);
    assert_eq!(verdict.decision, to_green());
    verdict.next
}

/// Green is active and short, blue has enough.
fn green_is_short() -> Situation {
    Situation {
        active: Color::Green,
        ..situation(enough(), short())
    }
}
