//! Moving flows between the tables, and sweeping idle ones out of the established table.
//!
//! The agent's collector finds idle flows; without an agent the program does. Each CPU keeps the
//! keys of the flows that it has established in a ring, and looks at the next few of them whenever
//! it establishes another one, or finds no room for it (the second-chance algorithm's hand). So the
//! established table is swept at least as fast as it fills, and does not stay full of idle flows.

use switcher_common::{
    flow::{FlowKey, Side},
    reason::Reason,
    scan::Table,
    stats::Writer,
};

use super::table::{EEXIST, Hit, find, forget, insert, is_there, remove, remove_both};
use crate::{count, expiry, maps::Tables, work::Work};

/// Flows that the hand passes when one is established: more than one, or it could not keep up.
const SWEEP_STEPS: u32 = 3;

/// Moves both entries out of the LRU. When the established table is full they stay.
///
/// First in, then out: a packet on another CPU finds the flow in one table or the other.
#[inline(always)]
pub(crate) fn promote<A: Tables>(work: &mut Work<A>) {
    if cfg!(mutant = "never-promote") {
        return;
    }
    if !take_peer(work) {
        return;
    }
    if !moves_to(Table::Established, work) {
        count::note(Reason::EstablishedFull);
        sweep::<A>(false);
        return;
    }
    remove(Table::Unanswered, &work.key, Writer::Program);
    if !cfg!(mutant = "fault-lru-kept") {
        remove(Table::Unanswered, &work.peer_key, Writer::Program);
    }
    count::note(Reason::Promoted);
    sweep::<A>(true);
}

/// Moves both entries of a flow that seems over into the LRU: it needs no safe place any more, and
/// leaves it also when no agent runs.
#[inline(always)]
pub(crate) fn demote<A: Tables>(work: &mut Work<A>) {
    if !take_peer(work) || !moves_to(Table::Unanswered, work) {
        return;
    }
    remove(Table::Established, &work.key, Writer::Program);
    remove(Table::Established, &work.peer_key, Writer::Program);
    count::note(if cfg!(mutant = "fault-counter") {
        Reason::Promoted
    } else {
        Reason::Demoted
    });
}

/// Makes the entry for the replies if it was not made yet, or the LRU has forgotten it.
#[inline(always)]
pub(crate) fn mend<A: Tables>(work: &mut Work<A>) {
    if let Some(hit) = find(&work.peer_key) {
        if !is_left_over(work, &hit) {
            is_own_peer(work, &hit);
            return;
        }
        remove_both(&work.peer_key, Writer::Program);
    }
    work.peer = work.entry.made_peer(&work.key);
    let is_made = insert(Table::Unanswered, &work.peer_key, &work.peer).is_ok();
    if is_made && !work.entry.may_be_alone() {
        count::note(Reason::DirectionRestored);
    }
}

/// Whether an older flow's entry lies in the place of the replies'.
#[inline(always)]
fn is_left_over<A: Tables>(work: &Work<A>, hit: &Hit<A>) -> bool {
    // SAFETY: as in `track`.
    let replies = unsafe { &*hit.entry };
    replies.is_of_vip(&work.key) && work.entry.succeeds(replies)
}

/// The other direction's entry. It is made from the own one: the LRU may have evicted it. `false`:
/// another flow's lies in its place.
#[inline(always)]
fn take_peer<A: Tables>(work: &mut Work<A>) -> bool {
    work.peer = work.entry.made_peer(&work.key);
    let Some(hit) = find(&work.peer_key) else {
        return true;
    };
    if !is_own_peer(work, &hit) {
        return false;
    }
    // SAFETY: as in `track`.
    let peer = unsafe { &*hit.entry };
    work.peer.set_progress(peer.last_seen, &peer.progress());
    true
}

/// Whether what lies in the other direction's place is the same flow's: after an eviction another one
/// may have taken it, and keeps it.
#[inline(always)]
fn is_own_peer<A: Tables>(work: &Work<A>, hit: &Hit<A>) -> bool {
    // SAFETY: as in `track`.
    let is_own = work.entry.is_peer_of(&work.key, unsafe { &*hit.entry });
    if !is_own {
        count::note(Reason::DirectionTaken);
    }
    is_own
}

/// Whether both entries are in `table` now.
#[inline(always)]
fn moves_to<A: Tables>(table: Table, work: &Work<A>) -> bool {
    // Another CPU may move it at the same time.
    if !matches!(insert(table, &work.key, &work.entry), Ok(()) | Err(EEXIST)) {
        return false;
    }
    if !is_there(insert(table, &work.peer_key, &work.peer), work) {
        remove(table, &work.key, Writer::Program);
        return false;
    }
    true
}

/// Removes idle flows that this CPU's hand passes, and puts the flow into the ring if it is new in
/// the established table.
#[inline(always)]
fn sweep<A: Tables>(is_new: bool) {
    let mut to_place = u32::from(is_new);
    for _ in 0..SWEEP_STEPS {
        to_place = A::sweep_step(to_place);
    }
    if to_place != 0 {
        count::note(Reason::SweepFull);
    }
}

/// Moves the hand on by one slot. Whether the flow is still to be placed, of which `to_place` says
/// whether it was before.
#[inline(always)]
pub(crate) fn sweep_step<A: Tables>(work: &Work<A>, to_place: bool) -> bool {
    let Some(slot) = next_slot::<A>() else {
        return false;
    };
    // SAFETY: this CPU's value, which nothing else touches.
    let slot = unsafe { &mut *slot };
    if !is_free(slot, work.now) || !to_place {
        return to_place;
    }
    *slot = match work.entry.side() {
        Side::Forward => work.key,
        Side::Reverse => work.peer_key,
    };
    false
}

/// The slot under this CPU's hand, which moves on.
#[inline(always)]
fn next_slot<A: Tables>() -> Option<*mut FlowKey<A>> {
    let hand = A::hand()?;
    // SAFETY: this CPU's value.
    let hand = unsafe { &mut *hand };
    let ring = A::ring();
    let slot = ring.get_ptr_mut(*hand);
    if slot.is_some() {
        *hand += 1;
        return slot;
    }
    *hand = 1;
    ring.get_ptr_mut(0)
}

/// Whether no flow needs the slot: an idle one is forgotten.
#[inline(always)]
fn is_free<A: Tables>(slot: &FlowKey<A>, now: u32) -> bool {
    let Some(entry) = A::established().get_ptr_mut(slot) else {
        return true;
    };
    // SAFETY: as in `track`.
    let entry = unsafe { &*entry };
    let is_idle = expiry::is_idle(slot, entry, now) && !cfg!(mutant = "no-sweep");
    if is_idle {
        count::ended_flow(entry);
        forget(slot, entry, Writer::Program);
        count::note(Reason::Swept);
    }
    is_idle
}
