//! Stage "flow": one lookup finds the flow of a packet of either direction and moves it on.
//!
//! Entries are copied before they are judged: an element of the LRU may be given to another flow at
//! any time. What a copy leads to is checked again where it counts ([`peer_of`]).

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use switcher_common::{
    flow::{Advance, FlowEntry, FlowKey, FlowState, Next, Segment, Shared, Side},
    packet::IpPacket,
    reason::Reason,
};

use crate::{count, maps::Tables, select, work::Work};

/// An entry in a table, and which table that is.
struct Hit<A> {
    entry: *mut FlowEntry<A>,
    is_in_lru: bool,
}

/// Finds the flow of the packet whose 5-tuple `work` holds, advances it, and leaves its entry in
/// `work`. `false`: there is none, or the packet begins a new connection on its 5-tuple. The error
/// is the reason to drop the packet.
#[inline(always)]
pub(crate) fn track<A: Tables>(
    work: &mut Work<A>,
    ip: &IpPacket<A>,
    segment: &Segment,
    now: u32,
) -> Result<bool, Reason> {
    let Some(hit) = find(&work.key) else {
        return Ok(false);
    };
    ip.may_travel()?;
    // SAFETY: a map value; the kernel keeps its memory while the program runs. Other CPUs may write
    // single fields at the same time, each of which is valid on its own.
    work.entry = unsafe { *hit.entry };
    work.set_peer_key();
    let is_pinned = !cfg!(mutant = "no-pin") || select::takes_fresh_flows(&work.entry);
    if !is_pinned && work.entry.side() == Side::Forward {
        forget(&work.key, &work.entry);
        return Ok(false);
    }
    let advance = Advance::of(&work.entry, work.key.is_tcp(), segment, || {
        peer_of(&work.key, &work.entry, &work.peer_key).map(|peer| peer.acked)
    });
    match advance.next {
        Next::Keep => {}
        Next::KeepRetransmit => count::note(Reason::SynRetransmit),
        Next::Update | Next::Promote => update(work, &hit, &advance.shared),
        Next::Restore => {
            count::note(Reason::Restored);
            update(work, &hit, &advance.shared);
        }
        Next::Reselect => {
            count::note(Reason::TupleReused);
            forget(&work.key, &work.entry);
            return Ok(false);
        }
        Next::Reopened if select::takes_fresh_flows(&work.entry) => {
            update(work, &hit, &advance.shared);
        }
        Next::Reopened => {
            forget(&work.key, &work.entry);
            return Err(Reason::ReopenedOnOldColor);
        }
    }
    let is_new_tick = work.entry.last_seen != now;
    work.entry.set_progress(now, &advance.progress);
    // SAFETY: as above.
    unsafe { (*hit.entry).set_progress(now, &advance.progress) };
    // A flow that could not move when it was established tries again, once a tick.
    let is_due = advance.next == Next::Promote || is_new_tick;
    if hit.is_in_lru && is_due && advance.shared.state == FlowState::Established {
        work.entry.set_shared(&advance.shared);
        promote(work);
    }
    Ok(true)
}

/// The entry of `key` in either table.
#[inline(always)]
fn find<A: Tables>(key: &FlowKey<A>) -> Option<Hit<A>> {
    let in_table = |entry| Hit {
        entry,
        is_in_lru: false,
    };
    if let Some(entry) = A::established().get_ptr_mut(key) {
        return Some(in_table(entry));
    }
    if let Some(entry) = A::unanswered().get_ptr_mut(key) {
        return Some(Hit {
            entry,
            is_in_lru: true,
        });
    }
    // Between the two lookups another CPU may have moved the flow to the established table.
    A::established().get_ptr_mut(key).map(in_table)
}

/// The entry of the other direction of the flow of `key` and `entry`, if it is there.
#[inline(always)]
pub(crate) fn peer_of<A: Tables>(
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    peer_key: &FlowKey<A>,
) -> Option<&'static mut FlowEntry<A>> {
    let hit = find(peer_key)?;
    // SAFETY: as in `track`.
    let peer = unsafe { &mut *hit.entry };
    entry.is_peer_of(key, peer).then_some(peer)
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

/// Moves both entries out of the LRU. When the established table is full they stay.
///
/// First in, then out: a packet on another CPU finds the flow in one table or the other.
#[inline(always)]
fn promote<A: Tables>(work: &mut Work<A>) {
    if cfg!(mutant = "never-promote") {
        return;
    }
    // Made from the own entry: the LRU may have evicted the peer, or hold another flow's there.
    work.peer = work.entry.made_peer(&work.key);
    if let Some(peer) = peer_of(&work.key, &work.entry, &work.peer_key) {
        work.peer.next_seq = peer.next_seq;
        work.peer.acked = peer.acked;
    }
    if !establish(&work.key, &work.entry) {
        return;
    }
    if !establish(&work.peer_key, &work.peer) {
        let _ = A::established().remove(&work.key);
        return;
    }
    let _ = A::unanswered().remove(&work.key);
    let _ = A::unanswered().remove(&work.peer_key);
    count::note(Reason::Promoted);
}

/// Whether the entry is in the established table now.
#[inline(always)]
fn establish<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>) -> bool {
    match A::established().insert(key, entry, u64::from(BPF_NOEXIST)) {
        Ok(()) | Err(EEXIST) => true,
        Err(_) => {
            count::note(Reason::EstablishedFull);
            false
        }
    }
}

const EEXIST: i32 = -17;

/// Removes both entries of a flow, wherever they are. Never inlined: rare, and it needs a stack of
/// its own.
#[inline(never)]
pub(crate) fn forget<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>) {
    let peer_key = key.peer(entry);
    if peer_of(key, entry, &peer_key).is_some() {
        remove(&peer_key);
    }
    remove(key);
}

#[inline(always)]
fn remove<A: Tables>(key: &FlowKey<A>) {
    let _ = A::established().remove(key);
    let _ = A::unanswered().remove(key);
}

/// Records the flow of `work`. When another CPU has just recorded one for the same 5-tuple, that
/// one counts.
#[inline(always)]
pub(crate) fn record<A: Tables>(work: &mut Work<A>) -> Result<(), Reason> {
    let flows = A::unanswered();
    match flows.insert(&work.key, &work.entry, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        Err(EEXIST) => return take_winner(work),
        Err(_) => return Err(Reason::FlowInsertFailed),
    }
    keep(&work.key);
    work.peer = work.entry.made_peer(&work.key);
    flows
        .insert(&work.peer_key, &work.peer, u64::from(BPF_ANY))
        .map_err(|_| {
            let _ = flows.remove(&work.key);
            Reason::FlowInsertFailed
        })?;
    keep(&work.peer_key);
    Ok(())
}

/// Marks a new entry of the LRU as used, which inserting does not. Else, where all older entries
/// were used (by a scan, or by the answers to a flood), it is the first to be evicted: by the
/// insertion of its own peer.
#[inline(always)]
fn keep<A: Tables>(key: &FlowKey<A>) {
    let _ = A::unanswered().get_ptr(key);
}

#[inline(always)]
fn take_winner<A: Tables>(work: &mut Work<A>) -> Result<(), Reason> {
    let hit = find(&work.key).ok_or(Reason::FlowInsertFailed)?;
    // SAFETY: as in `track`.
    work.entry = unsafe { *hit.entry };
    Ok(())
}

/// Whether the replies of the flow of `work` can be told from those of every live flow. What gives
/// way is taken away.
#[inline(always)]
pub(crate) fn claim_reply_tuple<A: Tables>(work: &Work<A>) -> bool {
    let Some(hit) = find(&work.peer_key) else {
        return true;
    };
    // SAFETY: as in `track`.
    let owner = unsafe { &*hit.entry };
    if !owner.gives_way_to(&work.key) {
        return false;
    }
    forget(&work.peer_key, owner);
    true
}
