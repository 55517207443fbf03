//! The program's clock.

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::btf_map,
};
use switcher_common::clock::ticks_from_ns;

/// The coarse clock as this CPU has last read it, and when.
#[repr(C)]
struct Reading {
    /// Count of the kernel's timer.
    jiffies: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    ns: u64,
}

#[btf_map]
static COARSE_CLOCK: PerCpuArray<Reading, 1> = PerCpuArray::new();

/// Now, in nanoseconds of `CLOCK_MONOTONIC`; moves on with the kernel's timer, every 1 to 10 ms.
///
/// Read once in each period of that timer, whose count costs a packet one load (`do_misc_fixups` in the kernel's verifier
/// makes it one), where the clock costs two calls. The kernel raises the count before it moves the clock on, so a
/// reading may be behind by a period more.
#[inline(always)]
pub(crate) fn now_coarse_ns() -> u64 {
    // SAFETY: no arguments, available to all programs (kernel 5.5).
    let jiffies = unsafe { bpf_jiffies64() };
    let Some(reading) = COARSE_CLOCK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: per-CPU value; no arguments, always available to XDP programs (kernel 5.11).
    unsafe {
        if (*reading).jiffies != jiffies {
            (*reading).jiffies = jiffies;
            (*reading).ns = bpf_ktime_get_coarse_ns();
        }
        (*reading).ns
    }
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
