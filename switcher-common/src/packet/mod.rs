//! Reading and rewriting packets, without a kernel.
//!
//! Contract: no function here panics, whatever the bytes; every read and write is checked by the
//! [`Frame`] that it goes through. In the program the check is the verifier's comparison with
//! `data_end`; on the host it is a slice's.

mod extension;
mod field;
mod fragment;
pub mod icmp;
mod link;
pub mod own_error;
mod parse;
mod reset;
mod rewrite;
mod unfinished;

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

pub use extension::{Chain, MAX_BYTES, MAX_HEADERS, walk};
pub use fragment::{FragmentKey, FragmentPorts, LIFETIME_TICKS, Part};
pub use link::{Family, Link, Tags, link, tags};
pub use parse::{IpPacket, Network, Transport, complete, network, ports, transport};
pub use reset::{OWN_TTL, answer_with_reset};
pub use rewrite::{Hop, set_link_addresses, translate};
pub use unfinished::{leave_unfinished, transport_checksum};

/// Ethernet header. `network_types::eth::EthHdr` has alignment 2, which a frame need not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ethernet {
    /// Destination.
    pub destination: [u8; 6],
    /// Source.
    pub source: [u8; 6],
    /// Protocol of the payload, in network byte order.
    pub ether_type: [u8; 2],
}

/// TCP header without options (RFC 9293, 3.1). `network_types::tcp::TcpHdr` hides the flags in bit
/// fields, which cost the verifier a check of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Sequence number.
    pub seq: [u8; 4],
    /// Acknowledgement number.
    pub ack: [u8; 4],
    /// Header length in 32-bit words, in the upper half.
    pub data_offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum.
    pub check: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// A header that is read in place.
///
/// # Safety
/// The type has alignment 1, no padding, and every bit pattern is a value of it.
pub unsafe trait Header {}

// SAFETY: a `repr(C)` struct of bytes.
unsafe impl Header for Ethernet {}
// SAFETY: as above.
unsafe impl Header for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Header for Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Header for Tcp {}
// SAFETY: as above.
unsafe impl Header for UdpHdr {}
// SAFETY: bytes.
unsafe impl<const N: usize> Header for [u8; N] {}

const _: () = {
    assert!(align_of::<Ethernet>() == 1 && size_of::<Ethernet>() == 14);
    assert!(align_of::<Ipv4Hdr>() == 1 && size_of::<Ipv4Hdr>() == 20);
    assert!(align_of::<Ipv6Hdr>() == 1 && size_of::<Ipv6Hdr>() == 40);
    assert!(align_of::<Tcp>() == 1 && size_of::<Tcp>() == 20);
    assert!(align_of::<UdpHdr>() == 1 && size_of::<UdpHdr>() == 8);
};

/// The bytes of an Ethernet frame.
pub trait Frame {
    /// The header at `offset`, if all of it is there.
    fn header<T: Header>(&self, offset: usize) -> Option<&T>;
    /// The header at `offset`, to change.
    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T>;
    /// Length of the frame in bytes.
    fn len(&self) -> usize;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Frame for [u8] {
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice has the size of `T`, and a `Header` may be any bytes at any address.
        Some(unsafe { &*bytes.as_ptr().cast::<T>() })
    }

    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let bytes = self.get_mut(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: as above, and the borrow is exclusive.
        Some(unsafe { &mut *bytes.as_mut_ptr().cast::<T>() })
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}
