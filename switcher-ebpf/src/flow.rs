//! Stage "flow": one lookup finds the flow of a packet of either direction and moves it on.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use switcher_common::{
    address::Address,
    flow::{Advance, FlowEntry, FlowKey, Next, Side},
    packet::Datagram,
    reason::Reason,
    service::Color,
};

use crate::{count, maps::Tables};

/// What a packet of a flow becomes, and what it counts for.
#[derive(Clone, Copy)]
pub(crate) struct Translation<A> {
    /// The 5-tuple after translation.
    pub to: FlowKey<A>,
    /// Which half of the 5-tuple changes.
    pub side: Side,
    /// Service of the flow.
    pub service: u16,
    /// Color of the flow.
    pub color: Color,
}

impl<A: Address> Translation<A> {
    /// The translation that `entry` holds for packets of `key`.
    #[inline(always)]
    pub(crate) fn by(key: &FlowKey<A>, entry: &FlowEntry<A>) -> Self {
        Self {
            to: key.translated(entry),
            side: entry.side(),
            service: entry.service,
            color: entry.color(),
        }
    }
}

/// Finds the packet's flow and advances it. `None`: there is none, or the packet begins a new
/// connection on its 5-tuple.
#[inline(always)]
pub(crate) fn track<A: Tables>(datagram: &Datagram<A>, now: u32) -> Option<Translation<A>> {
    let key = &datagram.tuple;
    let entry = find(key)?;
    // SAFETY: a map value; the kernel keeps its memory while the program runs. Other CPUs may write
    // single fields at the same time, each of which is valid on its own.
    let entry = unsafe { &mut *entry };
    if entry.last_seen != now {
        entry.last_seen = now;
    }
    let advance = Advance::of(entry, key.is_tcp(), &datagram.segment);
    match advance.next {
        Next::Keep => {}
        Next::KeepRetransmit => count::note(Reason::SynRetransmit),
        Next::Update => update(key, entry, &advance),
        Next::Restore => {
            count::note(Reason::Restored);
            update(key, entry, &advance);
        }
        Next::Promote => {
            update(key, entry, &advance);
            // Once the entry is out of the LRU, another CPU may give its memory to another flow.
            let translation = Translation::by(key, entry);
            promote(key, entry);
            return Some(translation);
        }
        Next::Reselect => {
            count::note(Reason::TupleReused);
            forget(key, entry);
            return None;
        }
    }
    Some(Translation::by(key, entry))
}

/// The entry of `key` in either table.
#[inline(always)]
pub(crate) fn find<A: Tables>(key: &FlowKey<A>) -> Option<*mut FlowEntry<A>> {
    if let Some(entry) = A::established().get_ptr_mut(key) {
        return Some(entry);
    }
    if let Some(entry) = A::unanswered().get_ptr_mut(key) {
        return Some(entry);
    }
    // Between the two lookups another CPU may have moved the flow to the established table.
    A::established().get_ptr_mut(key)
}

/// Writes what `advance` says into both entries of a flow.
#[inline(always)]
fn update<A: Tables>(key: &FlowKey<A>, entry: &mut FlowEntry<A>, advance: &Advance) {
    write(entry, advance);
    if let Some(peer) = find(&key.peer(entry)) {
        // SAFETY: as in `track`.
        write(unsafe { &mut *peer }, advance);
    }
}

#[inline(always)]
fn write<A: Address>(entry: &mut FlowEntry<A>, advance: &Advance) {
    entry.state = advance.state as u8;
    entry.answer_seq = advance.answer_seq;
    entry.fin_client |= advance.fin_client;
    entry.fin_backend |= advance.fin_backend;
}

/// Moves both entries out of the LRU. When the established table is full they stay.
///
/// First in, then out: a packet on another CPU finds the flow in one table or the other.
#[inline(always)]
fn promote<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>) {
    let peer_key = key.peer(entry);
    let Some(peer) = A::unanswered().get_ptr_mut(&peer_key) else {
        return;
    };
    // SAFETY: as in `track`.
    let peer = unsafe { &*peer };
    if A::established()
        .insert(key, entry, u64::from(BPF_ANY))
        .is_err()
    {
        count::note(Reason::EstablishedFull);
        return;
    }
    if A::established()
        .insert(&peer_key, peer, u64::from(BPF_ANY))
        .is_err()
    {
        count::note(Reason::EstablishedFull);
        let _ = A::established().remove(key);
        return;
    }
    let _ = A::unanswered().remove(key);
    let _ = A::unanswered().remove(&peer_key);
    count::note(Reason::Promoted);
}

/// Removes both entries of a flow, wherever they are.
#[inline(always)]
fn forget<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>) {
    let peer = key.peer(entry);
    for key in [key, &peer] {
        let _ = A::established().remove(key);
        let _ = A::unanswered().remove(key);
    }
}

/// Records a flow, reverse entry first, so that no reply can be quicker than its entry.
#[inline(always)]
pub(crate) fn record<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>) -> Result<(), Reason> {
    let reverse_key = key.peer(entry);
    A::unanswered()
        .insert(&reverse_key, entry.reverse(key), u64::from(BPF_NOEXIST))
        .map_err(|_| Reason::FlowInsertFailed)?;
    if A::unanswered()
        .insert(key, entry, u64::from(BPF_ANY))
        .is_err()
    {
        let _ = A::unanswered().remove(&reverse_key);
        return Err(Reason::FlowInsertFailed);
    }
    Ok(())
}

/// Whether the replies of `key` translated by `entry` can be told from those of every live flow. A
/// leftover of the same client and VIP, or of a closed flow, is taken away.
#[inline(always)]
pub(crate) fn claim_reply_tuple<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>) -> bool {
    let reverse_key = key.peer(entry);
    let Some(owner) = find(&reverse_key) else {
        return true;
    };
    // SAFETY: as in `track`.
    let owner = unsafe { &*owner };
    let same_vip = owner.rewrite_addr == key.dst && owner.rewrite_port_be == key.dst_port_be;
    if owner.side() as u8 != Side::Reverse as u8 || !(same_vip || owner.state().is_over()) {
        return false;
    }
    forget(&reverse_key, owner);
    true
}
