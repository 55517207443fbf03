//! Figures of a scenario, from what clients saw and what the agent's history tells.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use switcher_tests::traffic::{Attempt, Identity};

use crate::{load::Seen, plan::RECOVERED};

/// The moment of the first fault, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Instant,
    pub(crate) wall: SystemTime,
}

impl Fault {
    pub(crate) fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Milliseconds from the fault to `wall`.
    pub(crate) fn ms_to(&self, wall: SystemTime) -> f64 {
        match wall.duration_since(self.wall) {
            Ok(later) => ms(later),
            // The history tells whole milliseconds.
            Err(_) => 0.0,
        }
    }
}

/// What one run of a scenario, or of a rival, came to. Times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether it ended as it must.
    pub(crate) ok: bool,
    /// What is wrong otherwise.
    pub(crate) problems: Vec<String>,
    /// From the fault to the ejection or failover; `null`: none was due.
    pub(crate) detect_ms: Option<f64>,
    /// From the first refused SYN, as the program saw it, to the ejection; `null`: nothing was refused.
    pub(crate) refused_to_ejected_ms: Option<f64>,
    /// From the fault to the beginning of the first of 100 connections in a row that were answered; `null`: there
    /// were none.
    pub(crate) recovered_ms: Option<f64>,
    /// Connections without an answer, connected or not.
    pub(crate) failed_requests: usize,
    /// Those that were not connected.
    pub(crate) failed_connects: usize,
    /// Long-lived connections that broke, but for those to backends that failed.
    pub(crate) broken_connections: usize,
    /// Longest time from `connect()` to the answer, of a connection that was answered.
    pub(crate) slowest_connect_ms: f64,
    /// Connections that were tried.
    pub(crate) requests: usize,
    /// Those among them that began after the fault.
    pub(crate) requests_after: usize,
    /// SYNs that were sent to another backend than the first time; `null`: nobody counts them.
    pub(crate) second_chances: Option<u64>,
    /// Backends that left their table.
    pub(crate) ejections: usize,
    /// Times that the active color was changed.
    pub(crate) flips: usize,
    /// From the fault to the alarm; `null`: none was raised.
    pub(crate) alarm_ms: Option<f64>,
}

impl Figures {
    /// What clients saw of a fault of `failed`; the rest is not known yet.
    pub(crate) fn of(name: &'static str, fault: Fault, failed: &[Identity], seen: &Seen) -> Self {
        let is_late = |it: &&Attempt| it.began + Duration::from_secs(1) >= fault.at;
        let durations = seen.attempts.iter().filter(is_late);
        let slowest = durations
            .filter_map(|it| it.answered.map(|answered| answered - it.began))
            .max();
        let unanswered = seen.attempts.iter().filter(|it| !it.is_answered());
        let broken = seen.long_lived.iter().filter(|it| it.broken.is_some());
        let unexpected = broken.filter(|it| it.identity.is_none_or(|by| !failed.contains(&by)));
        let after = seen.attempts.iter().filter(|it| it.began >= fault.at);
        Self {
            name,
            ok: true,
            problems: Vec::new(),
            detect_ms: None,
            refused_to_ejected_ms: None,
            recovered_ms: recovered(&seen.attempts, fault.at).map(ms),
            failed_requests: unanswered.clone().count(),
            failed_connects: unanswered.filter(|it| it.connected.is_none()).count(),
            broken_connections: unexpected.count(),
            slowest_connect_ms: slowest.map_or(0.0, ms),
            requests: seen.attempts.len(),
            requests_after: after.count(),
            second_chances: None,
            ejections: 0,
            flips: 0,
            alarm_ms: None,
        }
    }

    /// Notes what is wrong unless `holds`.
    pub(crate) fn expect(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.ok = false;
            self.problems.push(what.into());
        }
    }
}

/// From `fault` to the beginning of the first of so many connections in a row that were answered.
fn recovered(attempts: &[Attempt], fault: Instant) -> Option<Duration> {
    let mut first = None;
    let mut in_a_row = 0;
    for attempt in attempts.iter().filter(|it| it.began >= fault) {
        if !attempt.is_answered() {
            (first, in_a_row) = (None, 0);
            continue;
        }
        let began = *first.get_or_insert(attempt.began);
        in_a_row += 1;
        if in_a_row == RECOVERED {
            return Some(began - fault);
        }
    }
    None
}

pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovered_is_where_a_hundred_in_a_row_begin() {
        let fault = Instant::now();
        let attempt = |number: u32, is_answered: bool| {
            let began = fault + Duration::from_millis(number.into());
            Attempt {
                began,
                connected: Some(began),
                answered: is_answered.then_some(began),
                by: None,
            }
        };
        let all = |failed: &[u32]| -> Vec<Attempt> {
            let numbers = 0..200;
            numbers
                .map(|it| attempt(it, !failed.contains(&it)))
                .collect()
        };
        assert_eq!(recovered(&all(&[]), fault), Some(Duration::ZERO));
        let late = recovered(&all(&[0, 7, 99]), fault);
        assert_eq!(late, Some(Duration::from_millis(100)));
        assert_eq!(recovered(&all(&[50, 120]), fault), None);
    }
}
