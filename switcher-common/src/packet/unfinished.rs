//! Packets whose TCP or UDP checksum the sender has left to its hardware, as the kernel shows them to
//! a program in generic mode: the checksum's field has the sum of the pseudo header, not inverted
//! (`CHECKSUM_PARTIAL`), and whoever sends the packet on adds the rest.

use network_types::udp::UdpHdr;

use super::{Frame, IpPacket, Network, Tcp};
use crate::{address::Address, checksum::Delta, flow::FlowKey, service::Protocol};

impl<A: Network> IpPacket<A> {
    /// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) of this packet with the 5-tuple
    /// `tuple`, as it lies in the checksum's field of an unfinished packet.
    #[inline(always)]
    #[must_use]
    pub fn pseudo_header_sum(&self, tuple: &FlowKey<A>) -> u16 {
        let sum = Delta::none()
            .added_address(&tuple.src)
            .added_address(&tuple.dst)
            .added(u16::from(tuple.protocol).to_be())
            .added(self.transport_len().to_be());
        !sum.checksum()
    }
}

/// The TCP or UDP checksum's field of `ip`, as it lies in the frame.
#[inline(always)]
#[must_use]
pub fn transport_checksum<A: Address, F: Frame + ?Sized>(
    frame: &F,
    ip: &IpPacket<A>,
) -> Option<u16> {
    let check = if ip.protocol == Protocol::Tcp as u8 {
        frame.header::<Tcp>(ip.transport_offset)?.check
    } else {
        frame.header::<UdpHdr>(ip.transport_offset)?.check
    };
    Some(u16::from_ne_bytes(check))
}

/// Leaves the checksum of a translated packet as unfinished as it was before: `to` is its 5-tuple
/// now. `None` when the header is not where the parser found it.
#[inline(always)]
#[must_use]
pub fn leave_unfinished<A: Network, F: Frame + ?Sized>(
    frame: &mut F,
    ip: &IpPacket<A>,
    to: &FlowKey<A>,
) -> Option<()> {
    let sum = ip.pseudo_header_sum(to).to_ne_bytes();
    if ip.protocol == Protocol::Tcp as u8 {
        frame.header_mut::<Tcp>(ip.transport_offset)?.check = sum;
    } else {
        frame.header_mut::<UdpHdr>(ip.transport_offset)?.check = sum;
    }
    Some(())
}
