//! Flows that begin with the client's entry alone: where all replies from the backend's endpoint are its flows', a
//! reply tells whose it is, and its entry is made when it comes. So a packet that nobody answers costs one
//! insertion and takes one place in the LRU. Whoever misses the other entry makes it: a reply or an ICMP error
//! about the flow, or another flow that wants the same reply tuple ([`pair`]), or the client's next packet
//! ([`super::mend`]).

use switcher_common::{
    flow::{FlowEntry, FlowKey},
    reason::Reason,
    scan::Table,
    service::{EndpointEditions, EndpointRecord, ListenerKey},
    stats::Writer,
};

use super::table::{Hit, find, insert, remove};
use crate::{
    count,
    maps::{ENDPOINTS, Tables},
    select::edition,
    work::Work,
};

/// What is known of the endpoint that the packets of `reply_key` come from.
#[inline(always)]
pub(crate) fn endpoint<A: Tables>(reply_key: &FlowKey<A>) -> Option<&'static EndpointEditions> {
    let key = ListenerKey {
        vip: reply_key.src.wide(),
        port_be: reply_key.src_port_be,
        protocol: reply_key.protocol,
        af: A::AF,
    };
    // SAFETY: the edition that counts is not written; what leads to a flow is checked against that flow.
    unsafe { ENDPOINTS.get(&key) }
}

/// Whether all replies from there are of flows of `backend`, and none of another one.
#[inline(always)]
pub(crate) fn is_exclusive<A: Tables>(reply_key: &FlowKey<A>, backend: u32) -> bool {
    let (Some(endpoint), Some(edition)) = (endpoint(reply_key), edition()) else {
        return false;
    };
    let record = endpoint.get(edition);
    record.is_some_and(|record| record.is_exclusive_to(backend))
}

/// Makes the entry for the packets of `reply_key` if a flow lacks it, and leaves it in `made`; `false`: no flow
/// does. Both editions are asked: a flow may have begun before the one that counts. Never inlined: it needs a
/// stack of its own.
#[inline(never)]
pub(crate) fn pair<A: Tables>(reply_key: &FlowKey<A>, made: &mut FlowEntry<A>) -> bool {
    if cfg!(mutant = "alone-for-ever") {
        return false;
    }
    let Some(endpoint) = endpoint(reply_key) else {
        return false;
    };
    let [first, second] = endpoint.owners();
    first.is_some_and(|owner| pair_with(owner, reply_key, made))
        || second.is_some_and(|owner| pair_with(owner, reply_key, made))
}

/// The entry of `reply_key`, which is made in `made` before if a flow lacks it.
#[inline(always)]
pub(crate) fn find_or_pair<A: Tables>(
    reply_key: &FlowKey<A>,
    made: &mut FlowEntry<A>,
) -> Option<Hit<A>> {
    let hit = find(reply_key);
    if hit.is_none() && pair(reply_key, made) {
        return find(reply_key);
    }
    hit
}

#[inline(always)]
fn pair_with<A: Tables>(
    owner: &EndpointRecord,
    reply_key: &FlowKey<A>,
    made: &mut FlowEntry<A>,
) -> bool {
    let key = FlowKey {
        dst: A::narrow(&owner.vip),
        dst_port_be: owner.port_be,
        ..reply_key.turned()
    };
    let Some(hit) = find(&key) else {
        return false;
    };
    // SAFETY: as in `track`.
    let entry = unsafe { &*hit.entry };
    if !entry.leads_to(&reply_key.src, reply_key.src_port_be) {
        return false;
    }
    *made = entry.made_peer(&key);
    if insert(hit.table, reply_key, made).is_ok() && !entry.may_be_alone() {
        count::note(Reason::DirectionRestored);
    }
    true
}

/// Whether the reply's entry in the LRU, which is in `work`, is an older flow's: one of the same 5-tuple has begun
/// alone since, and not looked what lies in the place of its other entry. Then that is made, and is in `work`
/// instead.
#[inline(always)]
pub(crate) fn is_older<A: Tables>(work: &mut Work<A>) -> bool {
    let Some(hit) = find(&work.peer_key) else {
        return false;
    };
    // SAFETY: as in `track`.
    let client = unsafe { &*hit.entry };
    let leads_here = client.leads_to(&work.key.src, work.key.src_port_be);
    if !leads_here || !client.succeeds(&work.entry) {
        return false;
    }
    remove(Table::Unanswered, &work.key, Writer::Program);
    pair(&work.key, &mut work.entry)
}
