//! The program's clock.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use switcher_common::clock::ticks_from_ns;

/// Now, in nanoseconds of `CLOCK_MONOTONIC`; moves on with the kernel's timer, every 1 to 10 ms.
#[inline(always)]
pub(crate) fn now_coarse_ns() -> u64 {
    // SAFETY: no arguments, always available to XDP programs (kernel 5.11).
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// As [`now_coarse_ns`], in ticks.
#[inline(always)]
pub(crate) fn now_ticks() -> u32 {
    ticks_from_ns(now_coarse_ns())
}

/// Now, in nanoseconds of `CLOCK_MONOTONIC`: exact, and twice as expensive as the coarse clock.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments, available to all programs.
    unsafe { bpf_ktime_get_ns() }
}
