//! Flows that are cut: which ones, and the RST that answers their packets.

use aya_ebpf::programs::XdpContext;
use switcher_common::{
    cut::CutOrder,
    flow::{FlowEntry, FlowState, Shared, Side},
    packet,
    reason::Reason,
    scan::Table,
    stats::Writer,
};

use crate::{
    count,
    flow::table::{Hit, forget, peer_of},
    frame::XdpFrame,
    interface,
    maps::{CUTS, Tables},
    unfinished,
    work::Work,
};

/// The order for the flows of `backend`.
#[inline(always)]
pub(crate) fn order_of(backend: u32) -> CutOrder {
    CUTS.get(backend).copied().unwrap_or_default()
}

/// Whether the flow of `entry` is cut at tick `now`, if `order` is the one for its backend.
#[inline(always)]
pub(crate) fn is_cut<A: Tables>(
    order: &CutOrder,
    entry: &FlowEntry<A>,
    is_tcp: bool,
    now: u32,
) -> bool {
    if cfg!(mutant = "cut-flows-sent-on") {
        return false;
    }
    entry.state() == FlowState::Cut
        // Another CPU may have set the state at once with the mark.
        || entry.is_left()
        || order.cuts_flow(entry, is_tcp, now)
}

/// Whether the packet, a backend's answer to a flow that may still go on to another one, is of no use: the
/// flow would be cut with the next one.
#[inline(always)]
pub(crate) fn comes_too_late<A: Tables>(order: &CutOrder, work: &Work<A>) -> bool {
    // A refusal tells what it tells.
    work.key.is_tcp()
        && work.entry.side() == Side::Reverse
        && !work.segment.is_rst()
        && order.refuses_answer(&work.entry, work.now)
        && !cfg!(mutant = "dead-backend-answers")
}

/// What becomes of a packet of a cut flow, whose entry is in `work`. `true`: it is translated once
/// more; `false`: it begins a flow of its own.
#[inline(always)]
pub(crate) fn packet_of<A: Tables>(work: &mut Work<A>, hit: &Hit<A>) -> Result<bool, Reason> {
    if !work.key.is_tcp() {
        // Datagrams on their way to the client still arrive; its own next one moves the flow.
        if work.entry.side() == Side::Forward {
            count::note(Reason::FlowMoved);
            // The scan has counted those that it has cut.
            if work.entry.is_in_flight() {
                count::moved_flow(&work.entry);
            }
            forget(&work.key, &work.entry, Writer::Program);
            return Ok(false);
        }
        if !work.ip.may_travel() {
            return Err(Reason::TtlExceeded);
        }
        return Ok(true);
    }
    if work.entry.side() == Side::Forward && work.segment.is_initial_syn() {
        count::note(Reason::TupleReused);
        count::ended_flow(&work.entry);
        forget(&work.key, &work.entry, Writer::Program);
        return Ok(false);
    }
    mark(work, hit);
    Err(if work.segment.is_rst() {
        reason_of_rst(&work.entry)
    } else {
        Reason::ResetSent
    })
}

/// Why the RST of a cut flow is dropped.
#[inline(always)]
const fn reason_of_rst<A: Tables>(entry: &FlowEntry<A>) -> Reason {
    if entry.is_left() {
        Reason::LateAnswer
    } else {
        Reason::FlowCut
    }
}

/// Marks both entries, so that the flow stays cut when its order is taken back.
#[inline(always)]
fn mark<A: Tables>(work: &mut Work<A>, hit: &Hit<A>) {
    if work.entry.state() != FlowState::Cut {
        if work.entry.is_in_flight() {
            count::cut_flow(&work.entry);
        }
        let shared = Shared {
            state: FlowState::Cut,
            ..work.entry.shared()
        };
        work.entry.set_shared(&shared);
        // SAFETY: as in `track`.
        unsafe { (*hit.entry).set_shared(&shared) };
        if let Some(peer) = peer_of(&work.key, &work.entry, &work.peer_key) {
            peer.set_shared(&shared);
        }
    }
    work.entry.last_seen = work.now;
    // SAFETY: as in `track`.
    unsafe { (*hit.entry).last_seen = work.now };
    if hit.table == Table::Established {
        A::demote();
    }
}

/// Makes the packet a RST to its sender, if one can go back.
#[inline(always)]
pub(crate) fn reset<A: Tables>(ctx: &XdpContext, work: &Work<A>) -> Reason {
    let mut frame = XdpFrame::new(ctx);
    if !interface::can_answer(&frame) {
        return Reason::FlowCut;
    }
    let is_unfinished = unfinished::is_left_to_hardware::<A>(&frame);
    let answer = packet::answer_with_reset(&mut frame, &work.ip, &work.segment, is_unfinished);
    let Some(len) = answer else {
        return Reason::Inconsistent;
    };
    if !frame.cut_to(len) {
        return Reason::Inconsistent;
    }
    Reason::ResetSent
}
