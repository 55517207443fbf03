//! Reading the kernel's clocks.

use std::{
    fs,
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
pub(super) fn tick_of(instant: Now) -> u32 {
    let monotonic = ns(ClockId::Monotonic);
    let boot = boot_ms();
    let in_ns = |ms: u64| ms.saturating_mul(1_000_000);
    ticks_from_ns(if instant.boot_ms >= boot {
        monotonic.saturating_add(in_ns(instant.boot_ms - boot))
    } else {
        monotonic.saturating_sub(in_ns(boot - instant.boot_ms))
    })
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
