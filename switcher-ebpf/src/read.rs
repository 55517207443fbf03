//! Stage "read": from the bytes of a frame to a 5-tuple that may be ours.

use switcher_common::{
    clock::ticks_from_ns,
    packet::{self, IpPacket, Network, Part},
    reason::Reason,
};

use crate::{
    clock, filter,
    flow::{alone, table::find},
    fragment,
    frame::XdpFrame,
    maps::Tables,
    work::Work,
};

/// What is known of a packet after this stage.
pub(crate) enum Read {
    /// Its 5-tuple.
    Tuple,
    /// Its addresses; extension headers are to be stepped over.
    Extensions,
    /// Its addresses; it is a later fragment.
    LaterFragment,
    /// Its addresses; it is an ICMP message.
    Message,
}

/// Reads the packet whose IP header is at `ip_offset` into `work`. The error is its verdict.
#[inline(always)]
pub(crate) fn packet<A: Tables + Network>(
    frame: &XdpFrame<'_>,
    ip_offset: usize,
    work: &mut Work<A>,
) -> Result<Read, Reason> {
    let ip = packet::network(frame, ip_offset).ok_or(Reason::NotIp)?;
    if is_foreign(&ip) {
        return Err(Reason::NotOurs);
    }
    work.ip = ip;
    work.now_ns = clock::now_coarse_ns();
    work.now = ticks_from_ns(work.now_ns);
    if work.ip.has_extensions() {
        return Ok(Read::Extensions);
    }
    transport(frame, work)
}

/// Whether the packet is certainly neither of ours nor about one.
#[inline(always)]
pub(crate) fn is_foreign<A: Network>(ip: &IpPacket<A>) -> bool {
    // An error about a packet of ours may be from anybody, and to a client of ours.
    let may_be_error = ip.protocol == A::PROTOCOL && ip.part == Part::Whole;
    !may_be_error && !filter::may_be_ours(ip)
}

/// As [`packet`], for the packet in `work`, which has extension headers.
#[inline(always)]
pub(crate) fn behind_extensions<A: Tables + Network>(
    frame: &XdpFrame<'_>,
    work: &mut Work<A>,
) -> Result<Read, Reason> {
    A::extensions(frame, &mut work.ip).map_err(|reason| filter::without_ports(&work.ip, reason))?;
    transport(frame, work)
}

#[inline(always)]
fn transport<A: Tables + Network>(
    frame: &XdpFrame<'_>,
    work: &mut Work<A>,
) -> Result<Read, Reason> {
    packet::complete(frame, &work.ip).map_err(|reason| filter::without_ports(&work.ip, reason))?;
    if work.ip.part == Part::Later {
        return Ok(Read::LaterFragment);
    }
    match packet::transport(frame, &work.ip) {
        Ok(transport) => {
            work.key = work.ip.tuple(&transport);
            work.segment = transport.segment;
        }
        Err(Reason::OtherProtocol) if work.ip.protocol == A::PROTOCOL => return Ok(Read::Message),
        Err(reason) => return Err(refused(frame, work, reason)),
    }
    if work.ip.part == Part::First {
        fragment::keep(work);
    }
    Ok(Read::Tuple)
}
/// The verdict on a packet whose transport header is broken by `reason`: with the ports of a flow of
/// ours, it is ours whoever it is to.
#[inline(always)]
fn refused<A: Tables + Network>(
    frame: &XdpFrame<'_>,
    work: &mut Work<A>,
    reason: Reason,
) -> Reason {
    if let Some(key) = packet::ports(frame, &work.ip) {
        work.key = key;
        if find(&work.key).is_some() || alone::pair(&work.key, &mut work.peer) {
            return reason;
        }
    }
    filter::without_ports(&work.ip, reason)
}
