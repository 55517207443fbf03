//! Counters, and log lines for what should never happen.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::warn;
use switcher_common::{
    address::Address,
    clock::elapsed,
    flow::FlowEntry,
    packet::Frame as _,
    reason::{Reason, Verdict},
    stats::ColorStats,
};

use crate::{
    clock,
    frame::XdpFrame,
    maps::{LOGGED, TRAFFIC, VERDICTS},
    trace,
    work::HasWork,
};

/// About a second between two log lines of one reason and CPU.
const LOG_INTERVAL_TICKS: u32 = 954;

/// Counts what happened beside a verdict.
#[inline(always)]
pub(crate) fn note(reason: Reason) {
    add(reason);
    trace::note(reason);
}

#[inline(always)]
fn add(reason: Reason) {
    if let Some(count) = VERDICTS.get_ptr_mut(reason as u32) {
        // SAFETY: per-CPU value; the program is not preempted by itself on its CPU.
        unsafe { *count += 1 };
    }
}

/// Counts a verdict, and logs the ones that an operator must hear of.
#[inline(always)]
pub(crate) fn verdict(ctx: &XdpContext, reason: Reason) {
    add(reason);
    match reason {
        Reason::Inconsistent => {
            log_rarely(ctx, reason, "maps contradict each other, packet dropped");
        }
        Reason::FlowInsertFailed => log_rarely(ctx, reason, "flow not recorded, packet dropped"),
        Reason::NoBackend => log_rarely(ctx, reason, "no backend for a listener, packet dropped"),
        _ => {}
    }
}

/// Never inlined: keeps the formatting out of the packet's way.
#[inline(never)]
fn log_rarely(ctx: &XdpContext, reason: Reason, what: &str) {
    let now = clock::now_ticks();
    let Some(last) = LOGGED.get_ptr_mut(reason as u32) else {
        return;
    };
    // SAFETY: per-CPU value.
    unsafe {
        if *last != 0 && elapsed(now, *last) < LOG_INTERVAL_TICKS {
            return;
        }
        *last = now;
    }
    warn!(ctx, "{} (reason {})", what, reason as u32);
}

/// Counts a packet that was translated and sent on.
#[inline(always)]
pub(crate) fn traffic<A: HasWork>(frame: &XdpFrame<'_>, reason: Reason) {
    if reason.verdict() == Verdict::Drop {
        return;
    }
    if let Some(stats) = A::work().and_then(|work| stats_of(&work.entry)) {
        // SAFETY: per-CPU value.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += frame.len() as u64;
        }
    }
}

/// Counts a recorded flow.
#[inline(always)]
pub(crate) fn new_flow<A: Address>(entry: &FlowEntry<A>, unpinned: bool) {
    if let Some(stats) = stats_of(entry) {
        // SAFETY: per-CPU value.
        unsafe {
            (*stats).new_flows += 1;
            (*stats).unpinned_packets += u64::from(unpinned);
        }
    }
}

/// Counts a TCP flow that was cut by its packet.
#[inline(always)]
pub(crate) fn cut_flow<A: Address>(entry: &FlowEntry<A>) {
    if let Some(stats) = stats_of(entry) {
        // SAFETY: per-CPU value.
        unsafe { (*stats).reset_flows += 1 };
    }
}

/// Counts a UDP flow that was cut and selects afresh.
#[inline(always)]
pub(crate) fn moved_flow<A: Address>(entry: &FlowEntry<A>) {
    if let Some(stats) = stats_of(entry) {
        // SAFETY: per-CPU value.
        unsafe { (*stats).moved_flows += 1 };
    }
}

#[inline(always)]
fn stats_of<A: Address>(entry: &FlowEntry<A>) -> Option<*mut ColorStats> {
    TRAFFIC.get_ptr_mut(ColorStats::index(entry.service, entry.color()))
}
