//! The two flow tables as one: lookups, insertions and removals, each counted.

use aya_ebpf::bindings::BPF_NOEXIST;
use switcher_common::{
    flow::{FlowEntry, FlowKey},
    reason::Reason,
    scan::Table,
    stats::{TableStats, Writer},
};

use super::alone;
use crate::{
    maps::{TABLE_STATS, Tables},
    rate,
    work::Work,
};

/// An entry, and the table that holds it.
pub(crate) struct Hit<A> {
    pub entry: *mut FlowEntry<A>,
    pub table: Table,
}

/// The kernel's answer to an insertion where there is an entry.
pub(crate) const EEXIST: i32 = -17;

/// The entry of `key` in either table.
#[inline(always)]
pub(crate) fn find<A: Tables>(key: &FlowKey<A>) -> Option<Hit<A>> {
    let in_table = |table| move |entry| Hit { entry, table };
    if let Some(entry) = A::established().get_ptr_mut(key) {
        return Some(in_table(Table::Established)(entry));
    }
    if let Some(entry) = A::unanswered().get_ptr_mut(key) {
        return Some(in_table(Table::Unanswered)(entry));
    }
    // Between the two lookups another CPU may have moved the flow to the established table.
    A::established()
        .get_ptr_mut(key)
        .map(in_table(Table::Established))
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

/// Inserts an entry where there is none.
#[inline(always)]
pub(crate) fn insert<A: Tables>(
    table: Table,
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
) -> Result<(), i32> {
    let flags = u64::from(BPF_NOEXIST);
    match table {
        Table::Established => A::established().insert(key, entry, flags)?,
        Table::Unanswered => {
            A::unanswered().insert(key, entry, flags)?;
            mark_used(key);
        }
    }
    count::<A>(table, Writer::Program, |stats| stats.inserted += 1);
    Ok(())
}

/// Marks a new entry of the LRU as used, which inserting does not. Else, where all older entries
/// were used (by a scan, or by the answers to a flood), it is the first to be evicted: by the
/// insertion of its own peer.
#[inline(always)]
pub(crate) fn mark_used<A: Tables>(key: &FlowKey<A>) {
    let _ = A::unanswered().get_ptr(key);
}

/// Removes the entry of `key` from `table`.
#[inline(always)]
pub(crate) fn remove<A: Tables>(table: Table, key: &FlowKey<A>, writer: Writer) {
    let removed = match table {
        Table::Established => A::established().remove(key),
        Table::Unanswered => A::unanswered().remove(key),
    };
    if removed.is_ok() {
        count::<A>(table, writer, |stats| stats.removed += 1);
    }
}

#[inline(always)]
fn count<A: Tables>(table: Table, writer: Writer, add: impl FnOnce(&mut TableStats)) {
    if let Some(stats) = TABLE_STATS.get_ptr_mut(TableStats::index(A::AF, table, writer)) {
        // SAFETY: per-CPU value, and of this writer only.
        add(unsafe { &mut *stats });
    }
}

/// Removes both entries of a flow, wherever they are. Never inlined: rare, and it needs a stack of
/// its own.
#[inline(never)]
pub(crate) fn forget<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>, writer: Writer) {
    let peer_key = key.peer(entry);
    if peer_of(key, entry, &peer_key).is_some() {
        remove_both(&peer_key, writer);
    }
    remove_both(key, writer);
}

/// Takes `owner` away, which lies where the entry for the replies of the flow of `key` belongs. If it leads
/// back to that flow, another CPU may have put it there just now, and the flow stays. Never inlined, as
/// above.
#[inline(never)]
pub(crate) fn make_way<A: Tables>(reply_key: &FlowKey<A>, owner: &FlowEntry<A>, key: &FlowKey<A>) {
    if owner.is_of_vip(key) {
        remove_both(reply_key, Writer::Program);
    } else {
        forget(reply_key, owner, Writer::Program);
    }
}

#[inline(always)]
pub(crate) fn remove_both<A: Tables>(key: &FlowKey<A>, writer: Writer) {
    remove(Table::Established, key, writer);
    remove(Table::Unanswered, key, writer);
}

/// Records the flow of `work`. When another CPU has just recorded one for the same 5-tuple, that
/// one counts; it may also have found this flow already, and made its other entry ([`super::mend`]).
#[inline(always)]
pub(crate) fn record<A: Tables>(work: &mut Work<A>) -> Result<(), Reason> {
    if !rate::may_insert(work.now) {
        return Err(Reason::InsertRate);
    }
    match insert(Table::Unanswered, &work.key, &work.entry) {
        Ok(()) => {}
        Err(EEXIST) => return take_winner(work),
        Err(_) => return Err(Reason::FlowInsertFailed),
    }
    if work.entry.may_be_alone() || cfg!(mutant = "fault-no-reverse") {
        return Ok(());
    }
    work.peer = work.entry.made_peer(&work.key);
    if is_there(insert(Table::Unanswered, &work.peer_key, &work.peer), work) {
        return Ok(());
    }
    remove(Table::Unanswered, &work.key, Writer::Program);
    Err(Reason::FlowInsertFailed)
}

/// Whether the entry of the other direction is there, after an attempt to insert it.
#[inline(always)]
pub(crate) fn is_there<A: Tables>(inserted: Result<(), i32>, work: &Work<A>) -> bool {
    match inserted {
        Ok(()) => true,
        Err(EEXIST) => peer_of(&work.key, &work.entry, &work.peer_key).is_some(),
        Err(_) => false,
    }
}

#[inline(always)]
fn take_winner<A: Tables>(work: &mut Work<A>) -> Result<(), Reason> {
    let hit = find(&work.key).ok_or(Reason::FlowInsertFailed)?;
    // SAFETY: as in `track`.
    work.entry = unsafe { *hit.entry };
    Ok(())
}

/// What may become of the replies of a flow that is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Claim {
    /// They could not be told from those of another live flow.
    Taken = 0,
    /// They are found by an entry of theirs.
    Free = 1,
    /// They tell whose they are, and need none yet.
    Exclusive = 2,
}

/// Whether the replies of the flow of `work` can be told from those of every live flow. What gives
/// way is taken away.
#[inline(always)]
pub(crate) fn claim_reply_tuple<A: Tables>(work: &mut Work<A>) -> Claim {
    if alone::is_exclusive(&work.peer_key, work.entry.backend) {
        return Claim::Exclusive;
    }
    let hit = if cfg!(mutant = "claim-blind-to-alone") {
        find(&work.peer_key)
    } else {
        alone::find_or_pair(&work.peer_key, &mut work.peer)
    };
    let Some(hit) = hit else {
        return Claim::Free;
    };
    // SAFETY: as in `track`.
    let owner = unsafe { &*hit.entry };
    if !owner.gives_way_to(&work.key) {
        return Claim::Taken;
    }
    forget(&work.peer_key, owner, Writer::Program);
    Claim::Free
}
