//! Stages of a packet without a flow: listener → color → backend → record.

use bytemuck::Zeroable as _;
use switcher_common::{
    address::Address,
    flow::{FLAG_PREVIEW, FLAG_UNPINNED, FlowEntry, FlowState, Side},
    packet::Datagram,
    reason::Reason,
    select::{flow_hash, slot},
    service::{
        BackendRecord, Color, LISTENER_PRESENT, LISTENER_PREVIEW, ListenerKey, ListenerRecord,
        ServiceSwitch, TableRange,
    },
};

use crate::{
    count,
    flow::{Translation, claim_reply_tuple, record},
    maps::{BACKENDS, CONFIG, LISTENERS, MAGLEV, SWITCH, Tables},
};

/// How many backends are tried until one is found whose reply tuple is free. With two backends of
/// which one is taken, all tries meet the taken one with probability 2^-8.
const BACKEND_TRIES: u32 = 8;

/// Seed of the flow hash; the same on every node, so that nodes choose alike.
const FLOW_HASH_SEED: u64 = 0x7377_6974_6368_6572;

/// Selects a backend for a packet without a flow and records the flow.
#[inline(always)]
pub(crate) fn fresh<A: Tables>(datagram: &Datagram<A>, now: u32) -> Result<Translation<A>, Reason> {
    let listener = listener(datagram).ok_or(Reason::NotOurs)?;
    let switch = SWITCH
        .get_value(0, &u32::from(listener.service))
        .ok_or(Reason::Inconsistent)?;
    let begins = datagram.can_begin_flow();
    let color = color(&listener, switch, begins);
    let table = listener.tables[color as usize];
    let template = FlowEntry {
        syn_seq: datagram.segment.seq,
        last_seen: now,
        created: now,
        service: listener.service,
        side: Side::Forward as u8,
        state: FlowState::Unanswered as u8,
        color: color as u8,
        flags: flags(&listener, begins),
        ..FlowEntry::zeroed()
    };
    let entry = assign_backend(datagram, table, template)?;
    let translation = Translation::by(&datagram.tuple, &entry);
    // A RST in the middle of nowhere is delivered, and begins nothing.
    if begins || !datagram.segment.is_rst() {
        record(&datagram.tuple, &entry)?;
        count::new_flow(&translation, !begins);
    }
    if !begins {
        count::note(Reason::Unpinned);
    }
    Ok(translation)
}

#[inline(always)]
fn listener<A: Address>(datagram: &Datagram<A>) -> Option<ListenerRecord> {
    let key = ListenerKey {
        vip: datagram.tuple.dst.wide(),
        port_be: datagram.tuple.dst_port_be,
        protocol: datagram.tuple.protocol,
        reserved: 0,
    };
    // SAFETY: a 4-byte value that is written once, when the listener is made.
    let id = unsafe { LISTENERS.get(&key) }?;
    let record = CONFIG.get_value(0, id)?;
    (record.flags & LISTENER_PRESENT != 0).then_some(*record)
}

/// The color of a packet that no flow pins: what begins goes to the active color, what is in the
/// middle of a stream to the base color (G9), and a preview's to the standby.
#[inline(always)]
fn color(listener: &ListenerRecord, switch: &ServiceSwitch, begins: bool) -> Color {
    if listener.flags & LISTENER_PREVIEW != 0 {
        Color::from_bit(switch.active).other()
    } else if begins {
        Color::from_bit(switch.active)
    } else {
        Color::from_bit(switch.base)
    }
}

#[inline(always)]
fn flags(listener: &ListenerRecord, begins: bool) -> u8 {
    let preview = if listener.flags & LISTENER_PREVIEW != 0 {
        FLAG_PREVIEW
    } else {
        0
    };
    let unpinned = if begins { 0 } else { FLAG_UNPINNED };
    preview | unpinned
}

/// `template` with the first backend of the flow's slots whose replies can be told apart.
#[inline(always)]
fn assign_backend<A: Tables>(
    datagram: &Datagram<A>,
    table: TableRange,
    template: FlowEntry<A>,
) -> Result<FlowEntry<A>, Reason> {
    if table.len == 0 {
        return Err(Reason::NoBackend);
    }
    let hash = flow_hash(&datagram.tuple, FLOW_HASH_SEED);
    let mut entry = template;
    for attempt in 0..BACKEND_TRIES {
        let at = table.start.wrapping_add(slot(hash, attempt, table.len));
        let (id, backend) = backend(at).ok_or(Reason::Inconsistent)?;
        entry.backend = id;
        entry.rewrite_addr = A::narrow(&backend.address);
        entry.rewrite_port_be = backend.port_be;
        if claim_reply_tuple(&datagram.tuple, &entry) {
            return Ok(entry);
        }
    }
    Err(Reason::ReplyTupleTaken)
}

#[inline(always)]
fn backend(slot: u32) -> Option<(u32, &'static BackendRecord)> {
    let id = *MAGLEV.get(slot)?;
    Some((id, BACKENDS.get(id)?))
}
