//! Packets that are timed one by one while something else goes on.
//!
//! A virtual machine is paused by its host now and then, for milliseconds and untold. Such a pause meets packets by
//! chance, as often as their part of the time says; so those between packets are counted too.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{spread::Spread, table::Table};

/// What is longer is a pause, for packets and between them: the goal for a packet is a few hundred microseconds.
const PAUSE_NS: f64 = 300e3;

/// What packets cost, the harness and its clock included.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Packets {
    /// Nanoseconds, each packet timed by itself.
    pub(crate) ns: Spread,
    /// How many of them took more than 300 us.
    pub(crate) paused: usize,
    /// How often as much went by between two of them, where no program runs.
    pub(crate) paused_between: usize,
    /// What part of the time was in packets: the part of the pauses that chance would put there.
    pub(crate) share: f64,
    /// Those that are left out because the kernel ran another task meanwhile: no task runs between the beginning and
    /// the end of a program on a network card's queue, but between those of the harness's call it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preempted: Option<Spread>,
}

/// Packets one after the other.
#[derive(Debug, Default)]
pub(super) struct Timed {
    /// Nanoseconds of each packet.
    ns: Vec<f64>,
    preempted: Vec<f64>,
    paused_between: usize,
    /// With what lay between them.
    all: Duration,
}

impl Timed {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.ns.len() + self.preempted.len()
    }

    /// Times by `run`, which returns nanoseconds, as long as `goes_on` says.
    pub(super) fn time(
        &mut self,
        mut goes_on: impl FnMut(usize) -> bool,
        mut run: impl FnMut() -> Result<f64>,
    ) -> Result<()> {
        let (mut before, mut switches_before) = (Instant::now(), switches()?);
        while goes_on(self.len()) {
            let ns = run()?;
            let (now, switches) = (Instant::now(), switches()?);
            self.note(ns, now - before, switches != switches_before);
            (before, switches_before) = (now, switches);
        }
        Ok(())
    }

    /// A packet, and how long it was with what lay between the one before and it.
    fn note(&mut self, ns: f64, with_way: Duration, is_preempted: bool) {
        self.all += with_way;
        if is_preempted {
            self.preempted.push(ns);
            return;
        }
        self.ns.push(ns);
        let between_ns = with_way.as_secs_f64() * 1e9 - ns;
        self.paused_between += usize::from(between_ns > PAUSE_NS);
    }

    pub(super) fn packets(&self) -> Result<Packets> {
        let all = self.ns.iter().chain(&self.preempted);
        Ok(Packets {
            ns: Spread::of(&self.ns).context("no packets")?,
            paused: self.ns.iter().filter(|&&ns| ns > PAUSE_NS).count(),
            paused_between: self.paused_between,
            share: all.sum::<f64>() / 1e9 / self.all.as_secs_f64(),
            preempted: Spread::of(&self.preempted),
        })
    }
}

/// How often the kernel has run another task instead of this thread.
fn switches() -> Result<i64> {
    // SAFETY: plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: of the calling thread; the kernel writes the struct before the call returns.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("asking how often others ran");
    }
    Ok(usage.ru_nivcsw + usage.ru_nvcsw)
}

/// For people.
pub(super) fn table<'a>(rows: impl IntoIterator<Item = (&'a str, Packets)>) -> Table {
    let mut table = Table::new(
        "Packets meanwhile, each timed by itself, harness and clock included; pauses: more than 300 us",
        [
            "",
            "median, ns",
            "p99, ns",
            "longest, us",
            "packets",
            "pauses in packets",
            "between",
            "time in packets",
            "preempted: longest, us",
        ],
    );
    for (what, it) in rows {
        let preempted = it.preempted.map_or_else(
            || "0".to_owned(),
            |it| format!("{}: {:.1}", it.runs, it.max / 1e3),
        );
        table.row([
            what.to_owned(),
            format!("{:.0}", it.ns.median),
            format!("{:.0}", it.ns.p99),
            format!("{:.1}", it.ns.max / 1e3),
            it.ns.runs.to_string(),
            it.paused.to_string(),
            it.paused_between.to_string(),
            format!("{:.0} %", it.share * 100.0),
            preempted,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_counted_where_they_are() -> Result<()> {
        let mut timed = Timed::default();
        for (ns, with_way_us, is_preempted) in [
            (1_000.0, 4, false),
            (400_000.0, 403, false),
            (1_000.0, 1_000, false),
            (9_000_000.0, 9_000, true),
            (598_000.0, 598, false),
        ] {
            timed.note(ns, Duration::from_micros(with_way_us), is_preempted);
        }
        let packets = timed.packets()?;
        assert_eq!((packets.paused, packets.paused_between), (2, 1));
        assert_eq!((packets.ns.runs, packets.ns.max), (4, 598_000.0));
        assert_eq!(packets.preempted.map(|it| it.max), Some(9e6));
        assert!((packets.share - 10.0 / 11.005).abs() < 1e-6, "{packets:?}");
        Ok(())
    }
}
