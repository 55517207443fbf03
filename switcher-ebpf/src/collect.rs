//! The collector: an iterator over a flow table, run by the agent in preemptible context. It counts
//! live flows and removes the expired ones, both directions together.
//!
//! A removal is a check and then an act, nanoseconds apart. Each flow is judged at its forward
//! entry, by the newer of its two directions.

use core::ffi::c_void;

use switcher_common::{
    address::{Ipv4, Ipv6},
    flow::{FLAG_UNPINNED, FlowEntry, FlowKey, FlowState, Side},
    scan::{ScanRequest, ScanTotals, live_index},
    stats::Writer,
};

use crate::{
    clock, expiry,
    flow::table::{forget, peer_of},
    maps::{SCAN_BACKENDS, SCAN_LIVE, SCAN_REQUEST, SCAN_TOTALS, Tables},
};

/// `struct bpf_iter__bpf_map_elem` of the kernel.
#[repr(C)]
pub(crate) struct MapElement<A> {
    meta: *mut c_void,
    map: *mut c_void,
    key: *const FlowKey<A>,
    value: *const FlowEntry<A>,
}

/// Visits an IPv4 table.
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/collect4")]
pub unsafe extern "C" fn collect4(element: *const MapElement<Ipv4>) -> i32 {
    // SAFETY: as the caller promises.
    visit(unsafe { &*element })
}

/// Visits an IPv6 table.
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/collect6")]
pub unsafe extern "C" fn collect6(element: *const MapElement<Ipv6>) -> i32 {
    // SAFETY: as the caller promises.
    visit(unsafe { &*element })
}

#[inline(always)]
fn visit<A: Tables>(element: &MapElement<A>) -> i32 {
    let (key, value) = (element.key, element.value);
    if key.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: the kernel sets both or none; copied, because the entry may be removed below.
    let (key, entry) = unsafe { (*key, *value) };
    let (Some(request), Some(totals)) = (SCAN_REQUEST.get(0), SCAN_TOTALS.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: one scan runs at a time, and an iterator's program runs on one CPU at a time.
    let totals = unsafe { &mut *totals };
    totals.entries += 1;
    let peer = peer_of(&key, &entry, &key.peer(&entry));
    match (entry.side(), peer) {
        // Judged at its forward entry.
        (Side::Reverse, Some(_)) => {}
        (_, peer) => {
            let newest = peer.map_or(entry.last_seen, |peer| expiry::newer(&entry, peer));
            judge(&key, &entry, newest, request, totals);
        }
    }
    0
}

#[inline(always)]
fn judge<A: Tables>(
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    last_seen: u32,
    request: &ScanRequest,
    totals: &mut ScanTotals,
) {
    let expired = expiry::is_past(key, entry, last_seen, clock::now_ticks_in_iterator());
    if expired && request.remove_expired != 0 {
        totals.expired_flows += 1;
        forget(key, entry, Writer::Collector);
        return;
    }
    add(SCAN_BACKENDS.get_ptr_mut(entry.backend));
    if !expired && is_live(entry) {
        let index = live_index(entry.service, entry.color(), entry.is_preview());
        add(SCAN_LIVE.get_ptr_mut(index));
    }
}

/// Whether the flow of a forward entry is in flight. An unpinned one is so once its backend has
/// answered: until then it may be a stray packet, and strays must not hold up a drain.
#[inline(always)]
fn is_live<A: Tables>(entry: &FlowEntry<A>) -> bool {
    let stray = entry.flags & FLAG_UNPINNED != 0 && entry.state() == FlowState::Unanswered;
    entry.side() == Side::Forward && !entry.state().is_over() && !stray
}

#[inline(always)]
fn add(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: as for the totals.
        unsafe { *counter += 1 };
    }
}
