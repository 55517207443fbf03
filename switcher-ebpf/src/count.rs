//! Counters, and log lines for what should never happen.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::warn;
use switcher_common::{
    address::Address, clock::elapsed, flow::FlowEntry, packet::Frame as _, reason::Reason,
    stats::ColorStats,
};

use crate::{
    clock,
    frame::XdpFrame,
    maps::{LOGGED, TRAFFIC, VERDICTS},
    trace,
};

/// About a second between two log lines of one reason and CPU.
const LOG_INTERVAL_TICKS: u32 = 954;

/// Counts what happened beside a verdict.
#[inline(always)]
pub(crate) fn note(reason: Reason) {
    only(reason);
    trace::note(reason);
}

/// Counts a verdict.
#[inline(always)]
pub(crate) fn only(reason: Reason) {
    if let Some(count) = VERDICTS.get_ptr_mut(reason as u32) {
        // SAFETY: per-CPU value; the program is not preempted by itself on its CPU.
        unsafe { *count += 1 };
    }
}

/// Counts a verdict, and logs the ones that an operator must hear of.
#[inline(always)]
pub(crate) fn verdict(ctx: &XdpContext, reason: Reason) {
    only(reason);
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
pub(crate) fn traffic<A: Address>(frame: &XdpFrame<'_>, entry: &FlowEntry<A>, now_ns: u64) {
    if let Some(stats) = stats_of(entry) {
        // SAFETY: per-CPU value.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += frame.len() as u64;
            if !entry.is_preview() {
                (*stats).newest_packet_ns = now_ns;
            }
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

/// Notes a fresh flow that was recorded on the active color, if it is this CPU's first one since the
/// drain of `drain_generation` began.
#[inline(always)]
pub(crate) fn first_flow<A: Address>(entry: &FlowEntry<A>, drain_generation: u64) {
    if let Some(stats) = stats_of(entry) {
        // SAFETY: per-CPU value.
        unsafe {
            let known = (*stats).first_flow_generation;
            // 0 at first on both sides: nothing has drained yet.
            if known == drain_generation || (known != 0 && cfg!(mutant = "first-flow-ever")) {
                return;
            }
            // In this order: who reads the generation finds its instant behind it.
            (&raw mut (*stats).first_flow_ns).write_volatile(clock::now_ns());
            (&raw mut (*stats).first_flow_generation).write_volatile(drain_generation);
        }
    }
}

/// Counts a flow that has ended by its packets, or that goes on after that: its state was `before`'s and
/// is `after`'s.
#[inline(always)]
pub(crate) fn changed_flow<A: Address>(before: &FlowEntry<A>, after: &FlowEntry<A>) {
    let (ended, restored) = after.ended_since(before);
    add_ended(before, ended, restored);
}

/// Counts a flow that is forgotten, if it was in flight.
#[inline(always)]
pub(crate) fn ended_flow<A: Address>(entry: &FlowEntry<A>) {
    add_ended(entry, entry.ends_forgotten(), 0);
}

#[inline(always)]
fn add_ended<A: Address>(entry: &FlowEntry<A>, ended: u64, restored: u64) {
    let counts = u64::from(!entry.is_preview());
    count_ended(index_of(entry), ended * counts, restored * counts);
}

/// A global function, which the kernel verifies once, and not with all that follows where it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_ended(index: u32, ended: u64, restored: u64) -> u32 {
    if let Some(stats) = TRAFFIC.get_ptr_mut(index) {
        // SAFETY: per-CPU value.
        unsafe {
            (*stats).ended_flows += ended;
            (*stats).restored_flows += restored;
        }
    }
    0
}

/// Counts a TCP flow in flight that was cut by its packet.
#[inline(always)]
pub(crate) fn cut_flow<A: Address>(entry: &FlowEntry<A>) {
    if let Some(stats) = stats_of(entry) {
        // SAFETY: per-CPU value.
        unsafe { (*stats).reset_flows += 1 };
    }
}

/// Counts a UDP flow in flight that was cut and selects afresh.
#[inline(always)]
pub(crate) fn moved_flow<A: Address>(entry: &FlowEntry<A>) {
    if let Some(stats) = stats_of(entry) {
        // SAFETY: per-CPU value.
        unsafe { (*stats).moved_flows += 1 };
    }
}

#[inline(always)]
fn stats_of<A: Address>(entry: &FlowEntry<A>) -> Option<*mut ColorStats> {
    TRAFFIC.get_ptr_mut(index_of(entry))
}

#[inline(always)]
const fn index_of<A: Address>(entry: &FlowEntry<A>) -> u32 {
    ColorStats::index(entry.service, entry.color())
}
