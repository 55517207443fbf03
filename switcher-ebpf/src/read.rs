//! Stage "read": from the bytes of a frame to a 5-tuple that may be ours.

use switcher_common::{
    packet::{self, Network, icmp::Icmp},
    reason::Reason,
};

use crate::{clock, filter, frame::XdpFrame, maps::Tables, work::Work};

/// What was read.
pub(crate) enum Read {
    /// TCP or UDP: the 5-tuple.
    Datagram,
    /// ICMP: the IP header.
    Message,
}

/// Reads the packet whose IP header is at `ip_offset` into `work`; the error is its verdict.
#[inline(always)]
pub(crate) fn packet<A: Tables + Network + Icmp>(
    frame: &XdpFrame<'_>,
    ip_offset: usize,
    work: &mut Work<A>,
) -> Result<Read, Reason> {
    let ip = packet::network(frame, ip_offset).ok_or(Reason::NotIp)?;
    let is_icmp = ip.protocol == A::PROTOCOL;
    // An error about a packet of ours may be from anybody, and to a client of ours.
    let may_be_foreign = is_icmp && !ip.is_fragment;
    if !may_be_foreign && !filter::may_be_ours(&ip) {
        return Err(Reason::NotOurs);
    }
    work.ip = ip;
    let transport = match packet::transport(frame, &work.ip) {
        Ok(transport) => transport,
        Err(Reason::OtherProtocol) if is_icmp => return Ok(Read::Message),
        Err(reason) => return Err(filter::without_ports(&work.ip, reason)),
    };
    work.key = work.ip.tuple(&transport);
    work.segment = transport.segment;
    work.now = clock::now_ticks();
    Ok(Read::Datagram)
}
