//! The collector: an iterator over a flow table, run by the agent in preemptible context. It counts
//! live flows and removes the expired ones, both directions together.
//!
//! A removal is a check and then an act; a packet on another CPU, or one that interrupts the scan, may come
//! between. The other direction is looked up only where it could matter: a lookup misses the cache, and a scan of
//! many flows would take twice as long.

use core::ffi::c_void;

use aya_ebpf::{bindings::seq_file, helpers::generated::bpf_seq_write};
use switcher_common::{
    address::{Ipv4, Ipv6},
    clock::elapsed,
    flow::{FLAG_TOLD, FlowEntry, FlowKey, FlowState, Side},
    scan::{CutFlow, OLDEST_TICKS, ScanRequest, ScanTotals, Table, live_index},
    stats::{ColorStats, Writer},
};

use crate::{
    cut, expiry,
    flow::table::{find, forget, peer_of},
    maps::{SCAN_BACKENDS, SCAN_ENDED, SCAN_LIVE, SCAN_REQUEST, SCAN_TOTALS, Tables},
};

/// The beginning of the kernel's `struct bpf_iter_meta`.
#[repr(C)]
pub(crate) struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__bpf_map_elem` of the kernel.
#[repr(C)]
pub(crate) struct MapElement<A> {
    meta: *const Meta,
    map: *mut c_void,
    key: *const FlowKey<A>,
    value: *mut FlowEntry<A>,
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

/// The kernel's read goes on.
const GO_ON: i32 = 0;
/// It ends, and the next one begins with this element. Without records it returns EAGAIN.
const AGAIN: i32 = 1;

#[inline(always)]
fn visit<A: Tables>(element: &MapElement<A>) -> i32 {
    let (key, value) = (element.key, element.value);
    if key.is_null() || value.is_null() {
        return GO_ON;
    }
    // SAFETY: the kernel sets both or none. Not copied here: copies need room on the stack, and most elements
    // are looked at once.
    let (key, entry) = unsafe { (&*key, &*value) };
    let (Some(request), Some(totals)) = (SCAN_REQUEST.get(0), SCAN_TOTALS.get_ptr_mut(0)) else {
        return GO_ON;
    };
    // SAFETY: one scan runs at a time, and an iterator's program runs on one CPU at a time.
    let totals = unsafe { &mut *totals };
    // The kernel would go on to the millionth element, and meanwhile nothing else would run on its CPU without
    // kernel preemption, and no grace period end, which a flip waits for.
    if totals.ends_read(request.visits) {
        return AGAIN;
    }
    keep_age(value, entry, request.now);
    let is_silent = expiry::is_past(key, entry, entry.last_seen, request.now);
    let expired = if is_silent && totals.may_remove(request.visits) {
        expired_entries(key, entry, request)
    } else {
        0
    };
    let is_removed = expired > 0 && request.remove_expired != 0;
    if is_removed {
        totals.entries += u64::from(expired);
        totals.expired_flows += 1;
    } else if judge(element, value, key, entry, expired > 0, request, totals) {
        totals.entries += 1;
    }
    totals.visit(is_removed);
    GO_ON
}

/// How many entries the flow of a silent entry has, if it has expired: none of its directions was heard of for
/// too long. It is removed, if that is asked for: both entries, at the one that is visited first. 0: it goes on.
#[inline(never)]
fn expired_entries<A: Tables>(
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    request: &ScanRequest,
) -> u32 {
    // Keys of lookups lie on the stack.
    let key = &{ *key };
    let peer = peer_of(key, entry, &key.peer(entry)).map(|peer| &*peer);
    let newest = peer.map_or(entry.last_seen, |peer| expiry::newer(entry, peer));
    // What is left of a flow without its forward entry is judged by the reverse one.
    let forward = match (entry.side(), peer) {
        (Side::Reverse, Some(forward)) => forward,
        _ => entry,
    };
    if !expiry::is_past(key, forward, newest, request.now) {
        return 0;
    }
    let entries = 1 + u32::from(peer.is_some());
    if request.remove_expired != 0 {
        if is_live(forward) && !forward.is_preview() {
            let index = ColorStats::index(forward.service, forward.color());
            add(SCAN_ENDED.get_ptr_mut(index));
        }
        forget(key, entry, Writer::Collector);
    }
    entries
}

/// Keeps the beginning of an old flow comparable: ticks wrap after 52 days, and an order to cut asks
/// which flows began before its deadline.
#[inline(always)]
fn keep_age<A: Tables>(value: *mut FlowEntry<A>, entry: &FlowEntry<A>, now: u32) {
    if elapsed(now, entry.created) > OLDEST_TICKS {
        // SAFETY: the kernel lets iterators write values; the program only reads this field.
        unsafe { (*value).created = now.wrapping_sub(OLDEST_TICKS) };
    }
}

/// Returns whether the flow is dealt with; if not, the kernel visits the element again.
#[inline(always)]
fn judge<A: Tables>(
    element: &MapElement<A>,
    value: *mut FlowEntry<A>,
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    is_expired: bool,
    request: &ScanRequest,
    totals: &mut ScanTotals,
) -> bool {
    let is_cut = is_cut(key, entry, request.now);
    let is_new = is_cut && entry.flags & FLAG_TOLD == 0;
    if is_new && request.remove_expired != 0 {
        totals.record();
        if !is_carried_out(element, key, request.now) {
            return false;
        }
    }
    let is_in_flight =
        !is_expired && !is_cut && is_live(entry) && is_first_sight(value, entry, request);
    if let Some(flows) = SCAN_BACKENDS.get_ptr_mut(entry.backend) {
        // SAFETY: as for the totals.
        unsafe {
            (*flows).all += 1;
            (*flows).live += u32::from(is_in_flight);
        }
    }
    if is_in_flight {
        let index = live_index(entry.service, entry.color(), entry.is_preview());
        add(SCAN_LIVE.get_ptr_mut(index));
    }
    true
}

/// Whether the flow is over by an order for its backend, or was before.
#[inline(always)]
fn is_cut<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>, now: u32) -> bool {
    let order = cut::order_of(entry.backend);
    cut::is_cut(&order, entry, key.is_tcp(), now)
}

/// Tells of a cut flow and marks it, which is the forward entry's part where there is one. `false`: the reader's
/// buffer is full. Never inlined: rare, and it needs a stack of its own.
#[inline(never)]
fn is_carried_out<A: Tables>(element: &MapElement<A>, key: &FlowKey<A>, now: u32) -> bool {
    // Keys of lookups lie on the stack.
    let key = &{ *key };
    let Some(own) = find(key) else {
        return true;
    };
    // What is told and marked is what is judged here: packets may have put another flow in the place of the one
    // that was visited. SAFETY: a map value, which the kernel keeps while the iterator's program runs.
    let entry = &unsafe { *own.entry };
    if entry.flags & FLAG_TOLD != 0 || !is_cut(key, entry, now) {
        return true;
    }
    let is_for_peer =
        entry.side() == Side::Reverse && peer_of(key, entry, &key.peer(entry)).is_some();
    if is_for_peer {
        return true;
    }
    if !is_told(element, key, entry) {
        return false;
    }
    if let Some(peer) = peer_of(key, entry, &key.peer(entry)) {
        mark_cut(peer);
    }
    // SAFETY: as above.
    let own = unsafe { &mut *own.entry };
    if (own.backend, own.created) == (entry.backend, entry.created) {
        mark_cut(own);
    }
    true
}

/// Whether this scan has not counted the flow yet: one that was established meanwhile has moved from
/// the table that is scanned first to the other one, and has taken the mark along.
#[inline(always)]
fn is_first_sight<A: Tables>(
    value: *mut FlowEntry<A>,
    entry: &FlowEntry<A>,
    request: &ScanRequest,
) -> bool {
    let is_unanswered = u32::from(request.table) == Table::Unanswered as u32;
    let is_counted = u32::from(entry.counted) == request.number;
    // No mark is left that a later scan of the same number could find.
    let mark = if is_unanswered {
        request.number.to_le_bytes()[0]
    } else {
        0
    };
    if entry.counted != mark {
        // SAFETY: the kernel lets iterators write values; nobody else writes this byte.
        unsafe { (*value).counted = mark };
    }
    is_unanswered || !is_counted || cfg!(mutant = "counted-twice")
}

/// Whether the flow of a forward entry is in flight.
#[inline(always)]
fn is_live<A: Tables>(entry: &FlowEntry<A>) -> bool {
    entry.side() == Side::Forward && entry.is_in_flight()
}

#[inline(always)]
fn add(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: as for the totals.
        unsafe { *counter += 1 };
    }
}

/// Marks an entry's flow as cut, so that it stays so when the order is taken back, and as told. The rest is the
/// packets' to write.
#[inline(always)]
fn mark_cut<A: Tables>(entry: &mut FlowEntry<A>) {
    entry.state = FlowState::Cut as u8;
    entry.flags |= FLAG_TOLD;
}

/// Bytes of a record.
const CUT_FLOW_LEN: u32 = 80;
const _: () = assert!(size_of::<CutFlow>() == CUT_FLOW_LEN as usize);

/// Tells the reader of a cut flow, who can reset both sides at once; one that a packet has cut may have a
/// side that only waits. `false`: its buffer is full.
#[inline(always)]
fn is_told<A: Tables>(element: &MapElement<A>, key: &FlowKey<A>, entry: &FlowEntry<A>) -> bool {
    if entry.side() != Side::Forward || cfg!(mutant = "cut-untold") {
        return true;
    }
    let (backend_next_seq, backend_acked) =
        peer_of(key, entry, &key.peer(entry)).map_or((0, 0), |peer| (peer.next_seq, peer.acked));
    let flow = CutFlow {
        client: key.src.wide(),
        vip: key.dst.wide(),
        backend: entry.rewrite_addr.wide(),
        client_next_seq: entry.next_seq,
        client_acked: entry.acked,
        backend_next_seq,
        backend_acked,
        client_port_be: key.src_port_be,
        vip_port_be: key.dst_port_be,
        backend_port_be: entry.rewrite_port_be,
        service: entry.service,
        color: entry.color,
        af: A::AF,
        protocol: key.protocol,
        by_packet: u8::from(entry.state() == FlowState::Cut),
        in_flight: u8::from(is_live(entry)),
        reserved: [0; 3],
    };
    // SAFETY: the kernel hands the iterator a valid file; the record is a local variable.
    let written = unsafe {
        let seq = (*element.meta).seq;
        bpf_seq_write(seq, (&raw const flow).cast(), CUT_FLOW_LEN)
    };
    written == 0
}
