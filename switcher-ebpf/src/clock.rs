//! The program's clock.

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::btf_map,
};
use switcher_common::clock::{Reading, ticks_from_ns};

/// What this CPU has read last.
#[btf_map]
static COARSE_CLOCK: PerCpuArray<Reading, 1> = PerCpuArray::new();

/// Now, in nanoseconds of `CLOCK_MONOTONIC`; moves on with the kernel's timer, every 1 to 10 ms.
///
/// The clock is read for the first packet of each period of that timer. All others find out by the number of the
/// period, which the verifier makes one load (`do_misc_fixups`), and the kernel's own coarse clock costs two calls.
/// Nor is that one as new as the period: the kernel raises the number first, and sets the clock afterwards.
#[inline(always)]
pub(crate) fn now_coarse_ns() -> u64 {
    // SAFETY: no arguments, available to all programs (kernel 5.6).
    let jiffies = unsafe { bpf_jiffies64() };
    let Some(reading) = COARSE_CLOCK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: per-CPU value.
    let known = unsafe { reading.read() };
    let is_known = known.jiffies == jiffies || (known.ns != 0 && cfg!(mutant = "clock-stands"));
    if is_known {
        return known.ns;
    }
    let ns = now_ns();
    // In this order: a run that comes in between reads the clock itself.
    // SAFETY: as above.
    unsafe {
        (&raw mut (*reading).ns).write_volatile(ns);
        (&raw mut (*reading).jiffies).write_volatile(jiffies);
    }
    ns
}

/// As [`now_coarse_ns`], in ticks.
#[inline(always)]
pub(crate) fn now_ticks() -> u32 {
    ticks_from_ns(now_coarse_ns())
}

/// Now, in nanoseconds of `CLOCK_MONOTONIC`: exact, and expensive.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments, available to all programs.
    unsafe { bpf_ktime_get_ns() }
}
