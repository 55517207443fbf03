//! Stage "read": from the bytes of a frame to a 5-tuple that may be ours.

use switcher_common::{
    packet::{self, Network},
    reason::Reason,
};

use crate::{clock, filter, frame::XdpFrame, maps::Tables, work::Work};

/// Reads the packet whose IP header is at `ip_offset` into `work`; the error is its verdict.
#[inline(always)]
pub(crate) fn packet<A: Tables + Network>(
    frame: &XdpFrame<'_>,
    ip_offset: usize,
    work: &mut Work<A>,
) -> Result<(), Reason> {
    let ip = packet::network(frame, ip_offset).ok_or(Reason::NotIp)?;
    if !filter::may_be_ours(&ip) {
        return Err(Reason::NotOurs);
    }
    work.ip = ip;
    let transport = packet::transport(frame, &work.ip)
        .map_err(|reason| filter::without_ports(&work.ip, reason))?;
    work.key = work.ip.tuple(&transport);
    work.segment = transport.segment;
    work.now = clock::now_ticks();
    Ok(())
}
