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

/// What [`track`] found.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    /// No flow, or one that is over.
    Nothing,
    /// A flow.
    Flow,
    /// A flow that is to move to the established table.
    ToPromote,
}

impl From<bool> for Found {
    #[inline(always)]
    fn from(is_flow: bool) -> Self {
        if is_flow { Self::Flow } else { Self::Nothing }
    }
}

/// Finds the flow of the packet whose 5-tuple `work` holds, advances it, and leaves its entry in
/// `work`. Nothing: there is none, or the packet begins a new connection on its 5-tuple. The error
/// is the reason to drop the packet.
#[inline(always)]
pub(crate) fn track<A: Tables>(ctx: &XdpContext, work: &mut Work<A>) -> Result<Found, Reason> {
    let Some(hit) = find(&work.key) else {
        return Ok(Found::Nothing);
    };
    // SAFETY: a map value; the kernel keeps its memory while the program runs. Other CPUs may write
    // single fields at the same time, each of which is valid on its own.
    work.entry = unsafe { *hit.entry };
    work.set_peer_key();
    if cut::is_cut(&work.entry, work.key.is_tcp(), work.now) {
        return cut::packet_of(work, &hit).map(Found::from);
    }
    if !work.may_travel() {
        return Err(Reason::TtlExceeded);
    }
    let is_pinned = !cfg!(mutant = "no-pin") || select::takes_fresh_flows(&work.entry);
    if !is_pinned && work.entry.side() == Side::Forward {
        table::forget(&work.key, &work.entry, Writer::Program);
        return Ok(Found::Nothing);
    }
    let advance = Advance::of(&work.entry, work.key.is_tcp(), &work.segment, || {
        peer_of(&work.key, &work.entry, &work.peer_key).map(|peer| peer.acked)
    });
    if needs_proof(work, advance.next) && A::comes_by_its_route(ctx.ctx) == 0 {
        count::note(Reason::ReplyUnverified);
        return Ok(Found::Flow);
    }
    if !apply(work, &hit, &advance)? {
        return Ok(Found::Nothing);
    }
    let is_new_tick = work.entry.last_seen != work.now;
    work.entry.set_progress(work.now, &advance.progress);
    // SAFETY: as above.
    unsafe { (*hit.entry).set_progress(work.now, &advance.progress) };
    Ok(settle(work, &hit, &advance, is_new_tick))
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

/// Puts the flow into the table that its state asks for. Into the established table its caller does:
/// not on top of this stage's stack.
#[inline(always)]
fn settle<A: Tables>(
    work: &mut Work<A>,
    hit: &Hit<A>,
    advance: &Advance,
    is_new_tick: bool,
) -> Found {
    work.entry.set_shared(&advance.shared);
    // A flow that could not move when it was established tries again, once a tick.
    let is_due = matches!(advance.next, Next::Promote | Next::Restore) || is_new_tick;
    match (hit.table, advance.shared.state) {
        (Table::Unanswered, FlowState::Established) if is_due => return Found::ToPromote,
        (Table::Unanswered, _) if work.entry.side() == Side::Forward => A::mend(),
        (Table::Established, FlowState::Closing) => A::demote(),
        _ => GO_ON,
    };
    Found::Flow
}
