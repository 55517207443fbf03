//! What a measurement leaves to the kernel, which frees its tables after the last user has gone.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// The kernel's tables are areas of this kind.
const FILE: &str = "/proc/meminfo";
const FIELD: &str = "VmallocUsed:";
/// What others may have come to use meanwhile, in KiB: far less than the tables of a million flows.
const TOLERANCE_KIB: u64 = 65_536;
const LIMIT: Duration = Duration::from_secs(10);
const LOOKS_EVERY: Duration = Duration::from_millis(5);

/// The kernel's memory before any measurement.
pub(crate) struct Leftovers {
    before_kib: Option<u64>,
}

impl Leftovers {
    pub(crate) fn none_yet() -> Self {
        Self {
            before_kib: used_kib(),
        }
    }

    /// Waits until they are gone, and says so if they stay. Nothing tells of it.
    pub(crate) fn wait_until_gone(&self) {
        let Some(before) = self.before_kib else {
            return;
        };
        let began = Instant::now();
        while let Some(left) = used_kib().map(|used| used.saturating_sub(before)) {
            if left <= TOLERANCE_KIB {
                return;
            }
            if began.elapsed() > LIMIT {
                eprintln!("bench: the kernel still holds {left} KiB of what was measured before");
                return;
            }
            thread::sleep(LOOKS_EVERY);
        }
    }
}

fn used_kib() -> Option<u64> {
    let text = fs::read_to_string(FILE).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(FIELD))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
