//! Stage "flow": one lookup finds the flow of a packet of either direction and moves it on.
//!
//! Entries are copied before they are judged: an element of the LRU may be given to another flow at
//! any time. What a copy leads to is checked again where it counts ([`table::peer_of`]).

mod settle;
pub(crate) mod table;

use aya_ebpf::programs::XdpContext;
use switcher_common::{
    flow::{Advance, FlowState, Next, Shared, Side},
    reason::Reason,
    scan::Table,
    stats::Writer,
};

pub(crate) use settle::{demote, mend, promote};
use table::{Hit, find, peer_of};

use crate::{count, cut, maps::Tables, outlined::GO_ON, select, work::Work};

/// Finds the flow of the packet whose 5-tuple `work` holds, advances it, and leaves its entry in
/// `work`. `false`: there is none, or the packet begins a new connection on its 5-tuple. The error
/// is the reason to drop the packet.
#[inline(always)]
pub(crate) fn track<A: Tables>(ctx: &XdpContext, work: &mut Work<A>) -> Result<bool, Reason> {
    let Some(hit) = find(&work.key) else {
        return Ok(false);
    };
    // SAFETY: a map value; the kernel keeps its memory while the program runs. Other CPUs may write
    // single fields at the same time, each of which is valid on its own.
    work.entry = unsafe { *hit.entry };
    work.set_peer_key();
    if cut::is_cut(&work.entry, work.key.is_tcp(), work.now) {
        return cut::packet_of(work, &hit);
    }
    if !work.may_travel() {
        return Err(Reason::TtlExceeded);
    }
    let is_pinned = !cfg!(mutant = "no-pin") || select::takes_fresh_flows(&work.entry);
    if !is_pinned && work.entry.side() == Side::Forward {
        table::forget(&work.key, &work.entry, Writer::Program);
        return Ok(false);
    }
    let advance = Advance::of(&work.entry, work.key.is_tcp(), &work.segment, || {
        peer_of(&work.key, &work.entry, &work.peer_key).map(|peer| peer.acked)
    });
    if needs_proof(work, advance.next) && A::comes_by_its_route(ctx.ctx) == 0 {
        count::note(Reason::ReplyUnverified);
        return Ok(true);
    }
    if !apply(work, &hit, &advance)? {
        return Ok(false);
    }
    let is_new_tick = work.entry.last_seen != work.now;
    work.entry.set_progress(work.now, &advance.progress);
    // SAFETY: as above.
    unsafe { (*hit.entry).set_progress(work.now, &advance.progress) };
    settle(work, &hit, &advance, is_new_tick);
    Ok(true)
}

/// Whether anybody who can send with a backend's source address could have sent this reply: TCP's
/// handshake proves itself, since its answer has the number of the SYN.
#[inline(always)]
fn needs_proof<A: Tables>(work: &Work<A>, next: Next) -> bool {
    match next {
        Next::Reopened => true,
        Next::Promote => work.entry.side() == Side::Reverse,
        _ => false,
    }
}

/// Does what the packet means for its flow; `false` when that is over.
#[inline(always)]
fn apply<A: Tables>(work: &mut Work<A>, hit: &Hit<A>, advance: &Advance) -> Result<bool, Reason> {
    match advance.next {
        Next::Keep => {}
        Next::KeepRetransmit => count::note(Reason::SynRetransmit),
        Next::Update | Next::Promote => update(work, hit, &advance.shared),
        Next::Restore => {
            count::note(Reason::Restored);
            update(work, hit, &advance.shared);
        }
        Next::Reselect => {
            count::note(Reason::TupleReused);
            table::forget(&work.key, &work.entry, Writer::Program);
            return Ok(false);
        }
        Next::Reopened if select::takes_fresh_flows(&work.entry) => {
            update(work, hit, &advance.shared);
        }
        Next::Reopened => {
            table::forget(&work.key, &work.entry, Writer::Program);
            return Err(Reason::ReopenedOnOldColor);
        }
    }
    Ok(true)
}

/// Writes what both entries of a flow hold alike.
#[inline(always)]
fn update<A: Tables>(work: &Work<A>, hit: &Hit<A>, shared: &Shared) {
    // SAFETY: as in `track`.
    unsafe { (*hit.entry).set_shared(shared) };
    if let Some(peer) = peer_of(&work.key, &work.entry, &work.peer_key) {
        peer.set_shared(shared);
    }
}

/// Puts the flow into the table that its state asks for.
#[inline(always)]
fn settle<A: Tables>(work: &mut Work<A>, hit: &Hit<A>, advance: &Advance, is_new_tick: bool) {
    work.entry.set_shared(&advance.shared);
    // A flow that could not move when it was established tries again, once a tick.
    let is_due = matches!(advance.next, Next::Promote | Next::Restore) || is_new_tick;
    match (hit.table, advance.shared.state) {
        (Table::Unanswered, FlowState::Established) if is_due => A::promote(),
        (Table::Unanswered, _) if work.entry.side() == Side::Forward => A::mend(),
        (Table::Established, FlowState::Closing) => A::demote(),
        _ => GO_ON,
    };
}
