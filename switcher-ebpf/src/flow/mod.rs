//! Stage "flow": one lookup finds the flow of a packet of either direction and moves it on.
//!
//! Entries are copied before they are judged: an element of the LRU may be given to another flow at
//! any time. What a copy leads to is checked again where it counts ([`table::peer_of`]).

pub(crate) mod alone;
mod settle;
pub(crate) mod table;

use aya_ebpf::programs::XdpContext;
use switcher_common::{
    clock::elapsed,
    flow::{Advance, FlowEntry, FlowState, Next, Side},
    reason::Reason,
    scan::Table,
    stats::Writer,
};

pub(crate) use settle::{demote, mend, promote, sweep_step};
use table::{Hit, find, peer_of};

use crate::{chance, count, cut, maps::Tables, outlined::GO_ON, select, work::Work};

/// What [`track`] found.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    /// No flow, or one that is over.
    Nothing,
    /// A flow.
    Flow,
    /// A flow for which the packet may mean something: [`carry_out`] does that.
    Moving,
    /// An older flow's entry, whose place this packet's flow has taken: it is to be found once more.
    Again,
    /// A flow that is to move to the established table.
    ToPromote,
    /// A half-open flow whose SYN is sent again.
    Repeated,
    /// A half-open flow whose backend refuses it.
    Refused,
}

impl From<bool> for Found {
    #[inline(always)]
    fn from(is_flow: bool) -> Self {
        if is_flow { Self::Flow } else { Self::Nothing }
    }
}

/// Finds the flow of the packet whose 5-tuple `work` holds and judges what the packet means for it.
/// Leaves its entry in `work` as it is to be, and there also what is to be done, unless that is
/// nothing. The error is the reason to drop the packet.
#[inline(always)]
pub(crate) fn track<A: Tables>(work: &mut Work<A>) -> Result<Found, Reason> {
    let Some(hit) = find(&work.key) else {
        return Ok(Found::Nothing);
    };
    // SAFETY: a map value; the kernel keeps its memory while the program runs. Other CPUs may write
    // single fields at the same time, each of which is valid on its own.
    unsafe { work.take_entry(hit.entry) };
    work.set_peer_key();
    let is_young_reply =
        matches!(hit.table, Table::Unanswered) && work.entry.side() == Side::Reverse;
    if is_young_reply && A::is_older() != 0 {
        return Ok(Found::Again);
    }
    let order = cut::order_of(work.entry.backend);
    if order.holds(work.entry.is_preview(), false, work.now) {
        return Err(Reason::Paused);
    }
    if cut::is_cut(&order, &work.entry, work.key.is_tcp(), work.now) {
        return cut::packet_of(work, &hit).map(Found::from);
    }
    if cut::comes_too_late(&order, work) {
        return Err(Reason::ResetSent);
    }
    if !work.ip.may_travel() {
        return Err(Reason::TtlExceeded);
    }
    if !is_pinned(&work.entry) && work.entry.side() == Side::Forward {
        table::forget(&work.key, &work.entry, Writer::Program);
        return Ok(Found::Nothing);
    }
    let advance = Advance::of(&work.entry, work.key.is_tcp(), &work.segment, || {
        (A::look_at_peer() != 0).then(|| work.peer_progress())
    });
    let is_settled = matches!(
        (hit.table, work.entry.state(), advance.next),
        (Table::Established, FlowState::Established, Next::Keep)
    );
    work.entry.set_shared(&advance.shared);
    work.entry.set_progress(work.now, &advance.progress);
    work.next = advance.next as u32;
    if !is_settled {
        return Ok(Found::Moving);
    }
    // SAFETY: as above.
    unsafe { (*hit.entry).set_progress(work.now, &advance.progress) };
    Ok(Found::Flow)
}

/// Whether the flow stays with its backend: always.
#[inline(always)]
pub(crate) fn is_pinned<A: Tables>(entry: &FlowEntry<A>) -> bool {
    !cfg!(mutant = "no-pin") || select::takes_fresh_flows(entry)
}

/// Does what [`track`] has judged. A stage of its own: for the verifier all ways through the state
/// machine end where this one begins.
#[inline(always)]
pub(crate) fn carry_out<A: Tables>(ctx: &XdpContext, work: &mut Work<A>) -> Result<Found, Reason> {
    // The LRU may have evicted it in the meantime.
    let Some(hit) = find(&work.key) else {
        return Ok(Found::Flow);
    };
    // SAFETY: as in `track`. Another CPU may have sent the flow elsewhere in the meantime.
    if unsafe { (*hit.entry).is_left() } {
        return Err(Reason::LateAnswer);
    }
    let is_half_open = matches!(hit.table, Table::Unanswered);
    if is_half_open && work.entry.side() == Side::Reverse && A::is_of_another() != 0 {
        return Err(Reason::ReplyTupleTaken);
    }
    let next = Next::from_number(work.next);
    if needs_proof(work, next) && A::comes_by_its_route(ctx.ctx) == 0 {
        count::note(Reason::ReplyUnverified);
        // SAFETY: as in `track`.
        work.entry = unsafe {
            // A flow whose backend alone goes on sending is not idle.
            (*hit.entry).last_seen = work.now;
            *hit.entry
        };
        return Ok(Found::Flow);
    }
    if is_half_open && matches!(next, Next::Refused) {
        return Ok(Found::Refused);
    }
    if !apply(work, &hit, next)? {
        return Ok(Found::Nothing);
    }
    // SAFETY: as in `track`.
    let own = unsafe { &mut *hit.entry };
    work.silent = elapsed(work.now, own.last_seen);
    let is_new_tick = own.last_seen != work.now;
    own.set_progress(work.now, &work.entry.progress());
    let found = settle(work, hit.table, next, is_new_tick);
    Ok(match next {
        Next::KeepRetransmit if is_half_open && work.entry.is_without_answer() => Found::Repeated,
        _ => found,
    })
}

/// Leaves how far the other direction has come in `work`; `false`: it is not there.
#[inline(always)]
pub(crate) fn look_at_peer<A: Tables>(work: &mut Work<A>) -> bool {
    let Some(peer) = peer_of(&work.key, &work.entry, &work.peer_key) else {
        return false;
    };
    work.peer.set_progress(peer.last_seen, &peer.progress());
    true
}

/// Whether the packet is a reply over TCP though the client's packets have a flow with another backend, as
/// they may when the LRU has evicted their entry alone. What this backend says is not about that flow.
#[inline(always)]
pub(crate) fn is_of_another<A: Tables>(work: &Work<A>) -> bool {
    let Some(hit) = find(&work.peer_key) else {
        return false;
    };
    // SAFETY: as in `track`.
    let client = unsafe { &*hit.entry };
    work.key.is_tcp()
        && !work.entry.is_peer_of(&work.key, client)
        && !cfg!(mutant = "reply-of-another")
}

/// Whether anybody who can send with a backend's source address could have sent this reply. TCP's answer
/// proves itself, since it has the number of the SYN; but who refuses his own SYN in a backend's name knows
/// that.
#[inline(always)]
fn needs_proof<A: Tables>(work: &Work<A>, next: Next) -> bool {
    match next {
        Next::Reopened => true,
        Next::Refused => !cfg!(mutant = "refusal-unproved"),
        Next::Promote => work.entry.side() == Side::Reverse,
        _ => false,
    }
}

/// Does what the packet means for its flow; `false` when that is over.
#[inline(always)]
fn apply<A: Tables>(work: &mut Work<A>, hit: &Hit<A>, next: Next) -> Result<bool, Reason> {
    match next {
        Next::Keep => {}
        Next::KeepRetransmit => count::note(Reason::SynRetransmit),
        Next::Update | Next::Promote | Next::Refused => {
            match (work.entry.state(), work.entry.side()) {
                (FlowState::Answered, _) => chance::hear_answer(work),
                (FlowState::Closing, Side::Reverse) if work.segment.is_rst() => {
                    A::count_reset();
                }
                _ => {}
            }
            update(work, hit, false);
        }
        Next::Restore => {
            count::note(Reason::Restored);
            update(work, hit, false);
        }
        Next::Reselect => {
            count::note(Reason::TupleReused);
            // SAFETY: as in `track`.
            count::ended_flow(unsafe { &*hit.entry });
            table::forget(&work.key, &work.entry, Writer::Program);
            return Ok(false);
        }
        Next::Reopened if select::takes_fresh_flows(&work.entry) => update(work, hit, true),
        Next::Reopened => {
            // SAFETY: as in `track`.
            count::ended_flow(unsafe { &*hit.entry });
            table::forget(&work.key, &work.entry, Writer::Program);
            return Err(Reason::ReopenedOnOldColor);
        }
    }
    Ok(true)
}

/// Writes what both entries of a flow hold alike.
#[inline(always)]
pub(crate) fn update<A: Tables>(work: &Work<A>, hit: &Hit<A>, begins_anew: bool) {
    let shared = work.entry.shared();
    // SAFETY: as in `track`.
    let own = unsafe { &mut *hit.entry };
    count::changed_flow(own, &work.entry);
    own.set_shared(&shared);
    if let Some(peer) = peer_of(&work.key, &work.entry, &work.peer_key) {
        peer.set_shared(&shared);
        if begins_anew {
            peer.begin_anew(work.entry.acked);
        }
    }
}

/// Puts the flow into the table that its state asks for. Into the established table its caller does:
/// not on top of this stage's stack.
#[inline(always)]
fn settle<A: Tables>(work: &Work<A>, table: Table, next: Next, is_new_tick: bool) -> Found {
    // A flow that could not move when it was established tries again, once a tick.
    let is_due = matches!(next, Next::Promote | Next::Restore) || is_new_tick;
    match (table, work.entry.state()) {
        (Table::Unanswered, FlowState::Established) if is_due => return Found::ToPromote,
        (Table::Unanswered, _) if work.entry.side() == Side::Forward => A::mend(),
        (Table::Established, FlowState::Closing) => A::demote(),
        _ => GO_ON,
    };
    Found::Flow
}
