//! Packets that are timed one by one while something else goes on.
//!
//! A virtual machine is paused by its host now and then, for milliseconds and untold. Such a pause meets packets by
//! chance, as often as their part of the time says; so as long times between packets are counted too.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{spread::Spread, table::Table};

/// The goal for a packet is a few hundred microseconds at most.
const LONG_NS: f64 = 300e3;

/// What packets cost, the harness and its clock included.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Packets {
    /// Nanoseconds, each packet timed by itself.
    pub(crate) ns: Spread,
    /// How many took more than 300 us.
    pub(crate) over_300us: usize,
    /// How often more than 300 us went by between two packets, where no program runs, and no other task ran.
    pub(crate) between_over_300us: usize,
    /// What part of the time was in packets, without anything that took more than 300 us: the part of the machine's
    /// pauses that would meet packets by chance.
    pub(crate) share: f64,
}

/// Packets one after the other.
#[derive(Debug, Default)]
pub(super) struct Timed {
    /// Nanoseconds of each packet.
    ns: Vec<f64>,
    between_over_300us: usize,
    /// Nanoseconds in packets and between them, without the long ones.
    short_ns: [f64; 2],
}

/// What a turn of the loop took.
struct Turn {
    /// Nanoseconds of the packet.
    ns: f64,
    /// With the way from the packet before.
    with_way: Duration,
    /// Another task ran between this packet and the one before, so that the way is not the loop's alone.
    is_shared: bool,
}

impl Timed {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.ns.len()
    }

    /// Times by `run`, which returns nanoseconds, as long as `goes_on` says.
    pub(super) fn time(
        &mut self,
        mut goes_on: impl FnMut(usize) -> bool,
        mut run: impl FnMut() -> Result<f64>,
    ) -> Result<()> {
        let (mut before, mut switches_before) = (Instant::now(), switches()?);
        // Another task that runs between the clock and the counter is in the next turn's time.
        let mut was_shared = false;
        while goes_on(self.len()) {
            let ns = run()?;
            let (now, switches) = (Instant::now(), switches()?);
            let is_shared = switches != switches_before;
            self.note(&Turn {
                ns,
                with_way: now - before,
                is_shared: is_shared || was_shared,
            });
            (before, switches_before, was_shared) = (now, switches, is_shared);
        }
        Ok(())
    }

    fn note(&mut self, turn: &Turn) {
        self.ns.push(turn.ns);
        if turn.is_shared {
            return;
        }
        let between_ns = turn.with_way.as_secs_f64() * 1e9 - turn.ns;
        self.between_over_300us += usize::from(between_ns > LONG_NS);
        for (sum, ns) in self.short_ns.iter_mut().zip([turn.ns, between_ns]) {
            if ns <= LONG_NS {
                *sum += ns;
            }
        }
    }

    pub(super) fn packets(&self) -> Result<Packets> {
        let [in_packets, between] = self.short_ns;
        Ok(Packets {
            ns: Spread::of(&self.ns).context("no packets")?,
            over_300us: self.ns.iter().filter(|&&ns| ns > LONG_NS).count(),
            between_over_300us: self.between_over_300us,
            share: in_packets / (in_packets + between),
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
        "Packets meanwhile, each timed by itself, harness and clock included",
        [
            "",
            "median, ns",
            "p99, ns",
            "longest, us",
            "packets",
            "> 300 us",
            "> 300 us between packets",
            "time in packets",
        ],
    );
    for (what, it) in rows {
        table.row([
            what.to_owned(),
            format!("{:.0}", it.ns.median),
            format!("{:.0}", it.ns.p99),
            format!("{:.1}", it.ns.max / 1e3),
            it.ns.runs.to_string(),
            it.over_300us.to_string(),
            it.between_over_300us.to_string(),
            format!("{:.0} %", it.share * 100.0),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_are_counted_where_they_are_and_are_no_part_of_the_share() -> Result<()> {
        let mut timed = Timed::default();
        for (ns, with_way_us, is_shared) in [
            (1_000.0, 4, false),
            (400_000.0, 403, false),
            (2_000.0, 1_000, false),
            (9_000_000.0, 9_000, true),
            (1_000.0, 5_000, true),
        ] {
            timed.note(&Turn {
                ns,
                with_way: Duration::from_micros(with_way_us),
                is_shared,
            });
        }
        let packets = timed.packets()?;
        assert_eq!((packets.over_300us, packets.between_over_300us), (2, 1));
        assert_eq!((packets.ns.runs, packets.ns.max), (5, 9e6));
        // In packets 1 + 2 us, between them 3 + 3.
        assert!((packets.share - 3.0 / 9.0).abs() < 1e-6, "{packets:?}");
        Ok(())
    }
}
