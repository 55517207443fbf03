//! Reading the kernel's clocks.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use switcher_common::clock::ticks_from_ns;

use crate::switching::Now;

/// Now.
pub(super) fn now() -> Now {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        boot_ms: boot_ms(),
        wall_ms: millis(wall),
    }
}

/// Milliseconds since boot, suspend included.
pub(super) fn boot_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither part of a clock that began at boot is negative.
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    secs * 1_000 + nanos / 1_000_000
}

/// The tick of `CLOCK_MONOTONIC` at which an instant of `CLOCK_BOOTTIME` comes, if the node is not
/// suspended until then.
pub(super) fn tick_of(instant: Now) -> u32 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part of a clock that began at boot is negative.
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    let monotonic = secs.saturating_mul(1_000_000_000).saturating_add(nanos);
    let boot = boot_ms();
    let in_ns = |ms: u64| ms.saturating_mul(1_000_000);
    ticks_from_ns(if instant.boot_ms >= boot {
        monotonic.saturating_add(in_ns(instant.boot_ms - boot))
    } else {
        monotonic.saturating_sub(in_ns(boot - instant.boot_ms))
    })
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
