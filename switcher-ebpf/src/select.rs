//! Stages of a packet without a flow: listener → color → backend → record.

use bytemuck::Zeroable as _;
use switcher_common::{
    address::Address,
    cut::CutOrder,
    flow::{
        FLAG_ALONE, FLAG_PREVIEW, FLAG_UNPINNED, FlowEntry, FlowKey, FlowState, Progress, Side,
    },
    reason::Reason,
    select::{BACKEND_TRIES, FLOW_HASH_SEED, color, flow_hash, slot},
    service::{Color, Edition, ListenerKey, ListenerRecord, NO_LISTENER, Standing, VipMarks},
};

use crate::{
    count,
    cut::order_of,
    filter,
    flow::table::{Claim, record},
    maps::{BACKENDS, CONFIG, LISTENERS, MAGLEV, NODE_ADDRESSES, SWITCH, Tables},
    work::Work,
};

/// Selects a backend for a packet without a flow, records the flow, and leaves its entry in `work`.
#[inline(always)]
pub(crate) fn fresh<A: Tables>(work: &mut Work<A>) -> Result<(), Reason> {
    let listener = listener(&work.key).ok_or(Reason::NotOurs)?;
    match listener.standing(work.now) {
        Standing::Configured => {}
        Standing::Leaving => return Err(Reason::ListenerRemoved),
        Standing::Gone => return Err(Reason::NotOurs),
    }
    if !work.ip.may_travel() {
        return Err(Reason::TtlExceeded);
    }
    if is_martian(&work.key.src) {
        return Err(Reason::MartianSource);
    }
    let switch = SWITCH
        .get_value(0, &u32::from(listener.service))
        .ok_or(Reason::Inconsistent)?;
    let begins = !work.key.is_tcp() || work.segment.is_initial_syn();
    let color = color(&listener, switch, &work.key.src, begins);
    let (active, drain_generation) = (switch.active, switch.drain_generation);
    let begun = Progress::begun(&work.segment);
    work.entry = FlowEntry {
        syn_seq: work.segment.seq,
        next_seq: begun.next_seq,
        acked: begun.acked,
        fin_end: begun.fin_end,
        last_seen: work.now,
        created: work.now,
        service: listener.service,
        side: Side::Forward as u8,
        state: FlowState::Unanswered as u8,
        color: color as u8,
        flags: flags(&listener, begins),
        ..FlowEntry::zeroed()
    };
    let order = assign_backend(work, &listener, color)?;
    if order.holds(work.entry.is_preview(), begins, work.now) {
        return Err(Reason::Paused);
    }
    if !begins {
        count::note(Reason::Unpinned);
        // A RST in the middle of nowhere is delivered, and begins nothing.
        if work.segment.is_rst() {
            return Ok(());
        }
    }
    record(work)?;
    count::new_flow(&work.entry, !begins);
    // Last of all: before, the verifier would see each way through this stage once more.
    if begins && work.entry.color == active && !work.entry.is_preview() {
        count::first_flow(&work.entry, drain_generation);
    }
    Ok(())
}

/// Whether fresh flows may go to the color of `entry` now.
#[inline(always)]
pub(crate) fn takes_fresh_flows<A: Address>(entry: &FlowEntry<A>) -> bool {
    let Some(switch) = SWITCH.get_value(0, &u32::from(entry.service)) else {
        return false;
    };
    let active = Color::from_bit(switch.active);
    let fresh = if entry.is_preview() {
        active.other()
    } else {
        active
    };
    let is_shared = switch.split_percent != 0 && !entry.is_preview();
    entry.color() == fresh || is_shared
}

/// Whether no client has `address`: nobody has it, or it is one of ours. What the node itself sends does
/// not come in here.
#[inline(always)]
pub(crate) fn is_martian<A: Address>(address: &A) -> bool {
    // The filter spares most clients a lookup.
    address.is_martian() || (filter::is_set(address) && is_vip(address)) || is_of_node(address)
}

/// Whether the node itself has `address`.
#[inline(always)]
fn is_of_node<A: Address>(address: &A) -> bool {
    let key = ListenerKey::any_of(address.wide(), A::AF);
    NODE_ADDRESSES.get_ptr(&key).is_some()
}

/// Whether `address` is some listener's.
#[inline(always)]
pub(crate) fn is_vip<A: Address>(address: &A) -> bool {
    let key = ListenerKey::any_of(address.wide(), A::AF);
    // SAFETY: a 4-byte value.
    let Some(marks) = (unsafe { LISTENERS.get(&key) }) else {
        return false;
    };
    edition().is_some_and(|edition| VipMarks(*marks).is_vip(edition))
}

/// Which edition of VIPs and endpoints counts.
#[inline(always)]
pub(crate) fn edition() -> Option<Edition> {
    CONFIG
        .get_value(0, &NO_LISTENER)
        .map(ListenerRecord::edition)
}

/// The listener at the packet's destination.
#[inline(always)]
pub(crate) fn listener<A: Address>(packet: &FlowKey<A>) -> Option<ListenerRecord> {
    let key = ListenerKey {
        vip: packet.dst.wide(),
        port_be: packet.dst_port_be,
        protocol: packet.protocol,
        af: A::AF,
    };
    // SAFETY: a 4-byte value that is written once, when the listener is made.
    let id = unsafe { LISTENERS.get(&key) }?;
    let record = CONFIG.get_value(0, id)?;
    record.is_present().then_some(*record)
}

#[inline(always)]
fn flags(listener: &ListenerRecord, begins: bool) -> u8 {
    let preview = if listener.is_preview() {
        FLAG_PREVIEW
    } else {
        0
    };
    let unpinned = if begins { 0 } else { FLAG_UNPINNED };
    preview | unpinned
}

/// Gives the entry of `work` the backend of the flow's slot, or the next one of its ring that is not
/// ejected and whose replies can be told apart; at last the slot's although it is ejected: tables may not
/// have followed yet, and whoever fails his checks is better than nobody. Returns the backend's order.
#[inline(always)]
fn assign_backend<A: Tables>(
    work: &mut Work<A>,
    listener: &ListenerRecord,
    color: Color,
) -> Result<CutOrder, Reason> {
    let table = listener.tables[color as usize];
    let ring = listener.ring(color);
    if table.len == 0 {
        return Err(Reason::NoBackend);
    }
    let at = slot(flow_hash(&work.key, FLOW_HASH_SEED), table.len);
    let first = *MAGLEV
        .get(table.start.wrapping_add(at))
        .ok_or(Reason::Inconsistent)?;
    let mut id = first;
    let mut reason = Reason::SourceIsBackend;
    for tried in 0..=BACKEND_TRIES {
        let is_last_resort = tried == BACKEND_TRIES;
        if is_last_resort {
            if !order_of(first).ejects() {
                break;
            }
            id = first;
        }
        let backend = BACKENDS.get(id).ok_or(Reason::Inconsistent)?;
        work.set_backend(id);
        work.entry.rewrite_addr = A::narrow(&backend.address);
        work.entry.rewrite_port_be = backend.port_be;
        work.set_peer_key();
        let order = order_of(id);
        let is_out = order.ejects() && !is_last_resort;
        if !is_out && work.entry.rewrite_addr != work.key.src {
            let claim = A::claim_reply_tuple();
            if claim != Claim::Taken as u32 {
                if claim == Claim::Exclusive as u32 {
                    work.entry.flags |= FLAG_ALONE;
                }
                return Ok(order);
            }
            reason = Reason::ReplyTupleTaken;
        }
        if !cfg!(mutant = "fault-ring") {
            id = backend.next[ring];
        }
    }
    Err(reason)
}
