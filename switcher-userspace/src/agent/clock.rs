//! Reading the kernel's clocks.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use switcher_common::clock::{ms_from_ticks, ticks_from_ns};

use crate::switching::Now;

/// Now.
pub(super) fn now() -> Now {
    ago(0)
}

/// The instant of a `CLOCK_MONOTONIC` reading in nanoseconds that is not in the future, if the node was
/// not suspended since then.
pub(super) fn instant_of(monotonic_ns: u64) -> Now {
    ago(ns(ClockId::Monotonic).saturating_sub(monotonic_ns))
}

fn ago(age_ns: u64) -> Now {
    let ms = |clock| ns(clock).saturating_sub(age_ns) / 1_000_000;
    Now {
        boot_ms: ms(ClockId::Boottime),
        wall_ms: ms(ClockId::Realtime),
    }
}

/// Milliseconds since boot, suspend included.
pub(super) fn boot_ms() -> u64 {
    ns(ClockId::Boottime) / 1_000_000
}

fn ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither part is negative: these clocks began at boot, or in 1970.
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// The tick of `CLOCK_MONOTONIC` at which an instant of `CLOCK_BOOTTIME` comes, if the node is not
/// suspended until then.
///
/// Always the same one for an instant, as long as the node is not suspended: an order that another tick makes
/// another one is written once more, for which a flip would wait.
pub(super) fn tick_of(instant: Now) -> u32 {
    let boot_ns = instant.boot_ms.saturating_mul(1_000_000);
    // Ticks wrap, and so may what was before `CLOCK_MONOTONIC` began.
    ticks_from_ns(boot_ns.wrapping_sub(suspended_ns()))
}

/// How long the node has been suspended since boot, in nanoseconds: what it was found to be at first, until that
/// cannot be.
fn suspended_ns() -> u64 {
    /// `u64::MAX`: it was not asked for yet.
    static FOUND: AtomicU64 = AtomicU64::new(u64::MAX);
    /// Longer than it takes to read two clocks, if nothing comes between, and shorter than any suspension.
    const SLACK_NS: u64 = 1_000_000;
    let before = ns(ClockId::Monotonic);
    let boot = ns(ClockId::Boottime);
    let after = ns(ClockId::Monotonic);
    let (at_least, at_most) = (boot.saturating_sub(after), boot.saturating_sub(before));
    let found = FOUND.load(Ordering::Relaxed);
    let possible = at_least.saturating_sub(SLACK_NS)..=at_most.saturating_add(SLACK_NS);
    if possible.contains(&found) {
        return found;
    }
    FOUND.store(at_least, Ordering::Relaxed);
    at_least
}

/// The instant that [`tick_of`] made `tick` of, as precisely as ticks are.
pub(super) fn instant_of_tick(tick: u32, now: Now) -> Now {
    let left = tick.wrapping_sub(tick_of(now));
    if left <= u32::MAX / 2 {
        return now.plus_ms(ms_from_ticks(left));
    }
    let ago = ms_from_ticks(left.wrapping_neg());
    Now {
        boot_ms: now.boot_ms.saturating_sub(ago),
        wall_ms: now.wall_ms.saturating_sub(ago),
    }
}

/// The instant on the wall clock.
pub(super) fn wall(now: Now) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(now.wall_ms))
        .unwrap_or(UNIX_EPOCH)
}

/// Identifies this boot of the kernel.
pub(super) fn boot_id() -> anyhow::Result<String> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_one_tick_whenever_it_is_asked_for() {
        let deadline = now().plus_ms(30_000);
        // Something else may run while the clocks are read for the first time.
        for _ in 0..10 {
            tick_of(deadline);
        }
        let tick = tick_of(deadline);
        let until = now().plus_ms(50);
        let mut asked = 0;
        while now().boot_ms < until.boot_ms {
            assert_eq!(tick_of(deadline), tick);
            asked += 1;
        }
        assert!(asked > 0);
        // And it is the right one: of the clock that the program reads.
        let early = ticks_from_ns(ns(ClockId::Monotonic));
        let tick = tick_of(now());
        let late = ticks_from_ns(ns(ClockId::Monotonic));
        // Instants are of whole milliseconds, and what is taken for suspended may be off by another.
        let (early, late) = (early.wrapping_sub(2), late.wrapping_add(1));
        assert!(
            tick.wrapping_sub(early) <= late.wrapping_sub(early),
            "{early} {tick} {late}"
        );
    }

    #[test]
    fn an_instant_of_a_tick_is_the_one_that_it_was_made_of() {
        let now = now();
        for boot_ms in [now.boot_ms - 500, now.boot_ms + 5_000] {
            let instant = Now { boot_ms, ..now };
            let again = instant_of_tick(tick_of(instant), now);
            assert!(again.boot_ms.abs_diff(boot_ms) <= 2, "{again:?} {boot_ms}");
        }
    }
}
