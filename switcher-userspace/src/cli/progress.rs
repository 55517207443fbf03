//! Drains in words, and the display of their progress on standard error.

use std::time::{Duration, SystemTime};

use super::Console;
use crate::api::{
    instant,
    types::{DrainEnd, DrainStatus},
};

/// One line about the drain of `service`.
pub(super) fn line(service: &str, drain: Option<&DrainStatus>) -> String {
    match drain {
        None => format!("{service}: no drain ran yet"),
        Some(drain) => format!("{service}: {}", describe(drain)),
    }
}

/// `draining blue, 42 in flight, 3.2 s of 30 s`, or how it ended.
pub(super) fn describe(drain: &DrainStatus) -> String {
    let color = drain.color.name();
    match drain.ended {
        None => format!(
            "draining {color}, {}, {}",
            in_flight(drain.in_flight),
            clock(drain)
        ),
        Some(DrainEnd::Drained) => format!("{color} drained after {}", seconds(drain.elapsed_ms)),
        Some(DrainEnd::FinishedNow) => format!(
            "the drain of {color} was finished by hand, {} left{}",
            flows_left(drain),
            cuts(drain)
        ),
        Some(DrainEnd::Deadline) => format!(
            "the drain of {color} ended at its deadline, {} left{}",
            flows_left(drain),
            cuts(drain)
        ),
    }
}

/// What was cut at the deadline, as the end of a sentence.
fn cuts(drain: &DrainStatus) -> String {
    let reset = match (drain.flows_reset, drain.flows_silent.unwrap_or(0)) {
        (Some(reset @ 1..), silent) => format!(", {reset} reset ({silent} of them silent)"),
        _ => String::new(),
    };
    match drain.flows_moved {
        Some(moved @ 1..) => format!("{reset}, {moved} moved"),
        _ => reset,
    }
}

/// What is left of a drain that ended at its deadline.
pub(super) fn left(drain: &DrainStatus) -> String {
    format!(
        "{}: {} of {} left",
        drain.service,
        flows_left(drain),
        drain.color.name()
    )
}

fn flows_left(drain: &DrainStatus) -> String {
    match drain.flows_left {
        Some(1) => "1 flow".to_owned(),
        Some(left) => format!("{left} flows"),
        None => "an unknown number of flows".to_owned(),
    }
}

fn in_flight(flows: Option<u64>) -> String {
    flows.map_or_else(
        || "counting flows".to_owned(),
        |flows| format!("{flows} in flight"),
    )
}

/// `3.2 s of 30 s`; by this process's clock, which is the agent's: they share a node.
fn clock(drain: &DrainStatus) -> String {
    let started = instant::parse(&drain.started_at);
    let since = |later: SystemTime| started.and_then(|started| later.duration_since(started).ok());
    let elapsed = since(SystemTime::now()).map_or(drain.elapsed_ms, milliseconds);
    match instant::parse(&drain.deadline_at).and_then(since) {
        Some(total) => format!(
            "{} of {}",
            seconds(elapsed),
            round_seconds(milliseconds(total))
        ),
        None => seconds(elapsed),
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

/// As [`seconds`], without a digit that says nothing.
fn round_seconds(ms: u64) -> String {
    if ms.is_multiple_of(1_000) {
        format!("{} s", ms / 1_000)
    } else {
        seconds(ms)
    }
}

/// Shows how drains proceed: one line that is drawn again on a terminal, else a line per change.
pub(super) struct Progress<'a, 'b> {
    console: &'a mut Console<'b>,
    drawn: bool,
}

impl<'a, 'b> Progress<'a, 'b> {
    pub(super) fn new(console: &'a mut Console<'b>) -> Self {
        let drawn = false;
        Self { console, drawn }
    }

    /// Whether time passing is worth a call of [`Progress::tick`].
    pub(super) fn live(&self) -> bool {
        self.console.live
    }

    /// Tells that `drain` replaces `before`.
    pub(super) fn changed(&mut self, before: Option<&DrainStatus>, drain: &DrainStatus) {
        let same = before.is_some_and(|before| {
            (before.generation, before.in_flight, before.ended)
                == (drain.generation, drain.in_flight, drain.ended)
        });
        // A terminal has the live line, and the answer at the end.
        if !same && !self.live() {
            self.console.note(&line(&drain.service, Some(drain)));
        }
    }

    /// Draws the live line: the drains that run, or what is waited for where none does.
    pub(super) fn tick<'d>(
        &mut self,
        drains: impl Iterator<Item = &'d DrainStatus>,
        pending: &str,
    ) {
        if !self.live() {
            return;
        }
        let running: Vec<_> = drains.filter(|drain| drain.ended.is_none()).collect();
        let text = match running.as_slice() {
            [] => format!("waiting: {pending}"),
            [drain] => line(&drain.service, Some(drain)),
            // A line that wraps could not be drawn again: several drains are summed.
            [first, ..] => {
                let flows = running.iter().map(|drain| drain.in_flight).sum();
                format!(
                    "{} services draining, {}, {}",
                    running.len(),
                    in_flight(flows),
                    clock(first)
                )
            }
        };
        self.console.draw(&format!("\r{text}\x1b[K"));
        self.drawn = true;
    }

    /// Takes the live line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.console.draw("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_seconds_keep_their_digit_and_round_limits_lose_it() {
        for (ms, elapsed, limit) in [
            (0, "0.0 s", "0 s"),
            (3_249, "3.2 s", "3.2 s"),
            (30_000, "30.0 s", "30 s"),
        ] {
            assert_eq!(
                (seconds(ms), round_seconds(ms)),
                (elapsed.to_owned(), limit.to_owned())
            );
        }
    }
}
