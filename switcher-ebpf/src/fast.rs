//! The fast path: a packet in the middle of an established flow, by one lookup.
//!
//! It takes what changes nothing of the flow but its progress, and goes to the hop that the flow keeps. It comes to
//! what the other stages would come to, and changes nothing before it is sure of that; what it is not sure of, takes them.

use switcher_common::{
    clock::ticks_from_ns,
    flow::{Advance, FlowEntry, Progress},
    hop::Way,
    packet::{self, Ethernet, Hop, IpPacket, Network, Part, Transport},
    reason::Reason,
};

use crate::{
    clock, count, cut, flow, forward, frame::XdpFrame, hop, maps::Tables, read, work::copied,
};

/// What becomes of the packet; `None`: the other stages are to say so.
#[inline(always)]
pub(crate) fn packet<A: Tables + Network>(frame: &mut XdpFrame<'_>) -> Option<Reason> {
    let ip: IpPacket<A> = packet::network(frame, size_of::<Ethernet>())?;
    if read::is_foreign(&ip) {
        return Some(Reason::NotOurs);
    }
    let transport = whole_transport(frame, &ip)?;
    if transport.segment.begins_or_ends() {
        return None;
    }
    let key = ip.tuple(&transport);
    let place = A::established().get_ptr_mut(&key)?;
    // SAFETY: a value of a map, as in `flow::track`.
    let entry = unsafe { copied(place) };
    let now_ns = clock::now_coarse_ns();
    let now = ticks_from_ns(now_ns);
    let progress = progress(&ip, &transport, &entry)?;
    let to = key.translated(&entry);
    let question = hop::question(frame, &ip, &to);
    let way = (entry.hop).serves(&question, entry.last_seen, now, hop::watch())?;
    let source = hop::source(entry.hop.egress)?;

    // SAFETY: as above.
    unsafe { (*place).set_progress(now, &progress) };
    let is_rewritten = packet::translate(frame, &ip, entry.side(), &key, &to, Hop::Program)
        .and_then(|()| packet::set_link_addresses(frame, source, entry.hop.dmac));
    if is_rewritten.is_none() {
        return Some(Reason::Inconsistent);
    }
    count::traffic(frame, &entry, now_ns);
    Some(match way {
        Way::Transmit => Reason::Transmitted,
        Way::Redirect => forward::redirect(entry.hop.egress.into()),
    })
}

/// The transport header of a packet that is neither broken nor a fragment.
#[inline(always)]
fn whole_transport<A: Network>(frame: &XdpFrame<'_>, ip: &IpPacket<A>) -> Option<Transport> {
    packet::complete(frame, ip).ok()?;
    match ip.part {
        Part::Whole => packet::transport(frame, ip).ok(),
        _ => None,
    }
}

/// How far the packet's direction of the flow of `entry` has come with it, if that is all that it means.
#[inline(always)]
fn progress<A: Tables>(
    ip: &IpPacket<A>,
    transport: &Transport,
    entry: &FlowEntry<A>,
) -> Option<Progress> {
    let is_free = !cut::order_of(entry.backend).concerns_flows();
    if !is_free || !ip.may_travel() || !flow::is_pinned(entry) {
        return None;
    }
    Advance::in_stream(entry, ip.is_tcp(), &transport.segment)
}
