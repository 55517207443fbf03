//! When a flow has been silent for too long.

use switcher_common::{
    clock::elapsed,
    flow::{FlowEntry, FlowKey, FlowState},
    scan::IdleTicks,
};

use crate::{
    flow::table::peer_of,
    maps::{IDLE, Tables},
};

/// Whether the flow of `key` and `entry` has been silent for too long in both directions.
#[inline(always)]
pub(crate) fn is_idle<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>, now: u32) -> bool {
    let peer = peer_of(key, entry, &key.peer(entry));
    let newest = peer.map_or(entry.last_seen, |peer| newer(entry, peer));
    is_past(key, entry, newest, now)
}

/// Whether a flow that was last seen at `last_seen` has been silent for too long.
#[inline(always)]
pub(crate) fn is_past<A: Tables>(
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    last_seen: u32,
    now: u32,
) -> bool {
    let Some(idle) = IDLE.get(u32::from(entry.service)) else {
        return false;
    };
    // A timeout of zero is one that nobody has set yet.
    let timeout = timeout(key, entry, idle);
    timeout != 0 && elapsed(now, last_seen) > timeout
}

/// The tick of the newer direction.
#[inline(always)]
pub(crate) fn newer<A: Tables>(own: &FlowEntry<A>, peer: &FlowEntry<A>) -> u32 {
    if elapsed(own.last_seen, peer.last_seen) > 0 {
        own.last_seen
    } else {
        peer.last_seen
    }
}

#[inline(always)]
fn timeout<A: Tables>(key: &FlowKey<A>, entry: &FlowEntry<A>, idle: &IdleTicks) -> u32 {
    match entry.state() {
        FlowState::Unanswered | FlowState::Answered => idle.unanswered,
        FlowState::Established if key.is_tcp() => idle.established,
        FlowState::Established if entry.is_preview() => idle.udp_preview,
        FlowState::Established => idle.udp[entry.color() as usize],
        FlowState::Closing | FlowState::Refused | FlowState::Cut => idle.closing,
    }
}
