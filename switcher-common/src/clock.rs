//! The time base that program and userspace share.
//!
//! A *tick* is 2^20 ns of `CLOCK_MONOTONIC` (1.048576 ms): a shift instead of a division in the
//! program. Ticks are 32 bits and wrap after 52 days, so they are compared by [`elapsed`] only.

use bytemuck::{Pod, Zeroable};

/// `CLOCK_MONOTONIC` as a CPU has read it for the packets of one period of the kernel's timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Reading {
    /// The period's number.
    pub jiffies: u64,
    /// Nanoseconds, exact when they were read.
    pub ns: u64,
}
crate::shared!(Reading, 16);

/// Nanoseconds per tick, as a power of two.
pub const TICK_SHIFT: u32 = 20;

/// Ticks of a `CLOCK_MONOTONIC` reading in nanoseconds.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "ticks wrap")]
pub const fn ticks_from_ns(ns: u64) -> u32 {
    (ns >> TICK_SHIFT) as u32
}

/// Ticks of a length in milliseconds, rounded up; at most `u32::MAX / 2`, which is 26 days.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "compared with the largest value before"
)]
pub const fn ticks_from_ms(ms: u64) -> u32 {
    let ticks = ms
        .saturating_mul(1_000_000)
        .saturating_add((1 << TICK_SHIFT) - 1)
        >> TICK_SHIFT;
    if ticks > (u32::MAX / 2) as u64 {
        u32::MAX / 2
    } else {
        ticks as u32
    }
}

/// Milliseconds of a length in ticks, rounded down.
#[must_use]
pub const fn ms_from_ticks(ticks: u32) -> u64 {
    ((ticks as u64) << TICK_SHIFT) / 1_000_000
}

/// Ticks from `then` to `now`, across a wrap. A `then` that is slightly in the future, as another
/// CPU may have written it, counts as now.
#[inline(always)]
#[must_use]
pub const fn elapsed(now: u32, then: u32) -> u32 {
    let ticks = now.wrapping_sub(then);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// Whether the tick `then` has come at `now`, across a wrap.
#[inline(always)]
#[must_use]
pub const fn has_come(then: u32, now: u32) -> bool {
    now.wrapping_sub(then) <= u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_survives_the_wrap_and_clocks_that_differ_slightly() {
        assert_eq!(elapsed(5, u32::MAX - 4), 10);
        assert_eq!(elapsed(7, 7), 0);
        assert_eq!(elapsed(7, 9), 0);
    }

    #[test]
    fn milliseconds_round_up() {
        assert_eq!(ticks_from_ms(0), 0);
        assert_eq!(ticks_from_ms(1), 1);
        assert_eq!(ticks_from_ms(10_000), 9_537);
        assert_eq!(ticks_from_ms(u64::MAX), u32::MAX / 2);
    }
}
