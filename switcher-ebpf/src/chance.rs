//! Second chance: a half-open flow whose backend refuses it, or leaves it unanswered, goes to another one
//! when the client repeats its SYN.
//!
//! The flow keeps its entry for the client's packets, which then leads elsewhere. The old entry for the
//! replies stays for a while and says that the flow has left: what the first backend still sends must
//! neither reach the client nor make the flow again. Called from `main.rs` stage by stage, since the stacks
//! of calls within calls would not fit.

use aya_ebpf::bindings::BPF_EXIST;
use bytemuck::Zeroable as _;
use switcher_common::{
    flow::{FLAG_LEFT, FLAG_REFUSED, FlowEntry, FlowKey, FlowState, Side},
    heard::{Heard, UNANSWERED_TICKS},
    reason::Reason,
    report::Seen,
    scan::Table,
    select::{FLOW_HASH_SEED, flow_hash, slot},
    service::{Color, ListenerRecord, Standing},
    stats::Writer,
};

use crate::{
    count, cut,
    flow::{
        self, alone,
        table::{find, insert, make_way, mark_used, peer_of, remove},
    },
    maps::{BACKENDS, HEARD, MAGLEV, SWITCH, Tables},
    outlined::{GO_ON, NO_FLOW},
    rate, report, select,
    work::Work,
};

/// Backends of a color's ring that are looked at.
const LOOKS: u32 = 8;

/// What becomes of a SYN that was sent before.
#[inline(always)]
pub(crate) fn of_repeated_syn<A: Tables>() -> u32 {
    if A::is_left_open() != 0 && has_another::<A>() {
        A::take_chance()
    } else {
        GO_ON
    }
}

/// What becomes of a backend's RST that refuses the SYN.
#[inline(always)]
pub(crate) fn of_refusal<A: Tables>() -> u32 {
    let is_withheld =
        A::hear_refusal() != 0 && has_another::<A>() && !cfg!(mutant = "refusal-sent-on");
    A::refuse(u32::from(is_withheld))
}

/// What becomes of an ICMP error that says that the backend cannot be reached: [`GO_ON`] if it is sent on. It
/// would end the client's attempt at once (RFC 5461, 2.2), and there is another backend for it.
#[inline(always)]
pub(crate) fn of_unreachable<A: Tables>() -> u32 {
    if has_another::<A>() {
        A::refuse(1)
    } else {
        GO_ON
    }
}

/// Whether there is another backend: of the flow's color, else of the one that takes fresh flows.
#[inline(always)]
fn has_another<A: Tables>() -> bool {
    A::look_for_another(0) != 0 || A::look_for_another(1) != 0
}

/// Whether the SYN that is repeated by the packet was refused or left unanswered, and may go elsewhere.
#[inline(always)]
pub(crate) fn is_left_open<A: Tables>(work: &mut Work<A>) -> bool {
    let is_refused = peer_of(&work.key, &work.entry, &work.peer_key)
        .is_some_and(|peer| peer.flags & FLAG_REFUSED != 0);
    let is_soon = work.silent < UNANSWERED_TICKS && !cfg!(mutant = "second-chance-at-once");
    if !is_refused && is_soon {
        return false;
    }
    if !is_refused && matches!(work.entry.state(), FlowState::Unanswered) {
        report::about_backend(work, Seen::Unanswered);
    }
    work.entry.has_chance_left()
}

/// Notes and reports that the backend refuses; whether the flow may go elsewhere.
#[inline(always)]
pub(crate) fn hear_refusal<A: Tables>(work: &Work<A>) -> bool {
    report::about_backend(work, Seen::Refused);
    hear(work, Heard::hear_refusal);
    work.entry.has_chance_left()
}

/// Notes that the backend answers SYNs.
#[inline(always)]
pub(crate) fn hear_answer<A: Tables>(work: &Work<A>) {
    hear(work, Heard::hear_answer);
}

#[inline(always)]
fn hear<A: Tables>(work: &Work<A>, note: impl FnOnce(&mut Heard, u32)) {
    if let Some(heard) = HEARD.get_ptr_mut(work.entry.backend) {
        // SAFETY: as in `flow::track`.
        note(unsafe { &mut *heard }, work.now);
    }
}

/// Withholds the refusal, or sends it on as what it is.
#[inline(always)]
pub(crate) fn refuse<A: Tables>(work: &mut Work<A>, is_withheld: bool) -> Result<(), Reason> {
    // The LRU may have evicted it in the meantime.
    let Some(hit) = find(&work.key) else {
        return Ok(());
    };
    // SAFETY: as in `flow::track`.
    let own = unsafe { &mut *hit.entry };
    own.last_seen = work.now;
    if is_withheld {
        own.flags |= FLAG_REFUSED;
        return Err(Reason::RefusalWithheld);
    }
    flow::update(work, &hit, false);
    Ok(())
}

/// Looks for another backend than those that were sent the SYN, of the flow's color or of the one
/// that takes fresh flows now, where that is another one. Leaves it in `work`.
#[inline(always)]
pub(crate) fn look_for_another<A: Tables>(work: &mut Work<A>, is_of_fresh: bool) -> bool {
    let client = match work.entry.side() {
        Side::Forward => work.key,
        Side::Reverse => work.peer_key,
    };
    let Some(listener) = listener_of(&client, &work.entry, work.now) else {
        return false;
    };
    let color = if is_of_fresh {
        let Some(switch) = SWITCH.get_value(0, &u32::from(listener.service)) else {
            return false;
        };
        let active = Color::from_bit(switch.active);
        let fresh = if listener.is_preview() {
            active.other()
        } else {
            active
        };
        if fresh == work.entry.color() {
            return false;
        }
        fresh
    } else {
        work.entry.color()
    };
    let table = listener.tables[color as usize];
    if table.len == 0 {
        return false;
    }
    let at = slot(flow_hash(&client, FLOW_HASH_SEED), table.len);
    let Some(&first) = MAGLEV.get(table.start.wrapping_add(at)) else {
        return false;
    };
    let ring = listener.ring(color);
    let mut id = first;
    for _ in 0..LOOKS {
        let Some(backend) = BACKENDS.get(id) else {
            return false;
        };
        let other = FlowEntry {
            rewrite_addr: A::narrow(&backend.address),
            rewrite_port_be: backend.port_be,
            backend: id,
            color: color as u8,
            ..FlowEntry::zeroed()
        };
        work.set_other(&client, &other);
        if !work.entry.was_sent_to(id)
            && other.rewrite_addr != client.src
            && A::is_open_to_chance() != 0
        {
            return true;
        }
        id = backend.next[ring];
    }
    false
}

/// The flow's listener, if it is there and lets its flows go on to other backends.
#[inline(always)]
fn listener_of<A: Tables>(
    client: &FlowKey<A>,
    entry: &FlowEntry<A>,
    now: u32,
) -> Option<ListenerRecord> {
    let listener = select::listener(client)?;
    let is_there = matches!(listener.standing(now), Standing::Configured);
    let is_of_service = listener.service == entry.service;
    (is_there && is_of_service && listener.gives_second_chance()).then_some(listener)
}

/// Whether the backend that was found takes the flow: it does not refuse just now, is not ejected, no order
/// cuts what it answers, and its replies can be told from those of every live flow.
#[inline(always)]
pub(crate) fn is_open_to_chance<A: Tables>(work: &mut Work<A>) -> bool {
    let is_refusing = HEARD
        .get(work.other.backend)
        .is_some_and(|heard| heard.is_refusing(work.now));
    let there = FlowEntry {
        backend: work.other.backend,
        ..work.entry
    };
    let order = cut::order_of(there.backend);
    let is_cut = order.is_due(&there, true, work.now) && !cfg!(mutant = "second-chance-cut");
    if is_refusing || is_cut || order.ejects() {
        return false;
    }
    let Some(hit) = alone::find_or_pair(&work.other_peer_key, &mut work.peer) else {
        return true;
    };
    let client = match work.entry.side() {
        Side::Forward => &work.key,
        Side::Reverse => &work.peer_key,
    };
    // SAFETY: as in `flow::track`.
    unsafe { &*hit.entry }.gives_way_to(client)
}

/// Sends the flow to the backend that was found: [`GO_ON`], which may lead to the one before, or
/// [`NO_FLOW`] where it has just been evicted.
///
/// Another CPU may have a copy of the SYN, or the answer to it, at the same time.
#[inline(always)]
pub(crate) fn take_chance<A: Tables>(work: &mut Work<A>) -> u32 {
    // The backend before may accept after all; who drops the SYN takes that chance away.
    if !rate::may_insert(work.now) {
        return GO_ON;
    }
    work.before = work.entry;
    let old_peer_key = work.peer_key;
    if has_moved(work) {
        return GO_ON;
    }
    if let Some(hit) = find(&work.other_peer_key) {
        // SAFETY: as in `flow::track`.
        make_way(&work.other_peer_key, unsafe { &*hit.entry }, &work.key);
    }
    work.entry.move_to(&work.other);
    work.peer = work.entry.made_peer(&work.key);
    work.peer.flags &= !FLAG_REFUSED;
    if insert(Table::Unanswered, &work.other_peer_key, &work.peer).is_err() {
        work.entry = work.before;
        return GO_ON;
    }
    if !leave(work, &old_peer_key) {
        remove(Table::Unanswered, &work.other_peer_key, Writer::Program);
        work.entry = work.before;
        return GO_ON;
    }
    // One store: packets of the client find the old way or the new one.
    if A::unanswered()
        .insert(&work.key, &work.entry, u64::from(BPF_EXIST))
        .is_err()
    {
        remove(Table::Unanswered, &work.other_peer_key, Writer::Program);
        return NO_FLOW;
    }
    mark_used(&work.key);
    work.set_peer_key();
    count::note(Reason::SecondChance);
    count_moved(&work.before, &work.entry);
    GO_ON
}

/// Whether another CPU has sent the flow elsewhere since it was copied: then the SYN follows it there.
#[inline(always)]
fn has_moved<A: Tables>(work: &mut Work<A>) -> bool {
    let Some(hit) = find(&work.key) else {
        return false;
    };
    // SAFETY: as in `flow::track`.
    let there = unsafe { &*hit.entry };
    if there.backend == work.before.backend {
        return false;
    }
    work.entry = *there;
    work.set_peer_key();
    true
}

/// Marks the entry for the replies of the backend that the flow leaves. `false`: it has just answered, and
/// the flow stays.
#[inline(always)]
fn leave<A: Tables>(work: &Work<A>, old_peer_key: &FlowKey<A>) -> bool {
    if cfg!(mutant = "left-unmarked") {
        return true;
    }
    let Some(peer) = peer_of(&work.key, &work.before, old_peer_key) else {
        return true;
    };
    let flags = &raw mut peer.flags;
    // SAFETY: fields of a map value, volatile: the mark first, then the look whether an answer was taken
    // before it. An answer that comes later finds the mark.
    let is_answered = unsafe {
        flags.write_volatile(flags.read_volatile() | FLAG_LEFT);
        let state = FlowState::from_byte((&raw const peer.state).read_volatile());
        let answer_seq = (&raw const peer.answer_seq).read_volatile();
        answer_seq != 0 || !matches!(state, FlowState::Unanswered | FlowState::Refused)
    };
    if is_answered && !cfg!(mutant = "answered-left") {
        peer.flags &= !FLAG_LEFT;
        return false;
    }
    peer.state = FlowState::Cut as u8;
    peer.last_seen = work.now;
    true
}

/// A flow that changes its color ends on one and begins on the other; else it is the same one.
#[inline(always)]
fn count_moved<A: Tables>(before: &FlowEntry<A>, after: &FlowEntry<A>) {
    if before.color == after.color {
        count::changed_flow(before, after);
        return;
    }
    if before.is_in_flight() && !before.is_preview() {
        count::moved_flow(before);
    }
    count::new_flow(after, false);
}
