//! Flows: the key that finds one, the entry that pins it, and how it advances ([`advance`]).
//!
//! A flow has two entries, one for each direction, so that one lookup by the packet's own 5-tuple
//! finds what to do with it. Each entry holds the translation of its direction; the key of the
//! other entry is the translated 5-tuple turned around.

mod advance;

use bytemuck::{Pod, Zeroable};

pub use advance::{ACK, Advance, FIN, Next, RST, SYN, Segment};

use crate::{
    address::{Address, Ipv4, Ipv6},
    service::{Color, Protocol},
};

/// 5-tuple of a packet as it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Zeroable)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port in network byte order.
    pub src_port_be: u16,
    /// Destination port in network byte order.
    pub dst_port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct FlowEntry<A> {
    /// What the packet's destination (forward) or source (reverse) becomes.
    pub rewrite_addr: A,
    /// Sequence number of the SYN that began the flow, in host byte order; TCP only.
    pub syn_seq: u32,
    /// Sequence number of the SYN-ACK, in host byte order; TCP from [`FlowState::Answered`] on.
    pub answer_seq: u32,
    /// Tick of the direction's newest packet.
    pub last_seen: u32,
    /// Tick at which the flow began.
    pub created: u32,
    /// Id of its backend.
    pub backend: u32,
    /// Id of its service.
    pub service: u16,
    /// What the port becomes, in network byte order.
    pub rewrite_port_be: u16,
    /// A [`Side`] as its number.
    pub side: u8,
    /// A [`FlowState`] as its number.
    pub state: u8,
    /// A [`Color`] as its number.
    pub color: u8,
    /// [`FLAG_PREVIEW`], [`FLAG_UNPINNED`].
    pub flags: u8,
    /// 1 after a FIN of the client. A byte of its own: two CPUs may write both at once.
    pub fin_client: u8,
    /// 1 after a FIN of the backend.
    pub fin_backend: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

// SAFETY: `repr(C)`; the assertions below show that both instances have no padding, and every field
// is `Pod`.
unsafe impl Pod for FlowKey<Ipv4> {}
// SAFETY: as above.
unsafe impl Pod for FlowKey<Ipv6> {}
// SAFETY: as above.
unsafe impl Pod for FlowEntry<Ipv4> {}
// SAFETY: as above.
unsafe impl Pod for FlowEntry<Ipv6> {}
crate::shared!(FlowKey<Ipv4>, 16);
crate::shared!(FlowKey<Ipv6>, 40);
crate::shared!(FlowEntry<Ipv4>, 36);
crate::shared!(FlowEntry<Ipv6>, 48);
const _: () = {
    // The sum of the fields' sizes is the struct's size: no padding.
    assert!(size_of::<FlowKey<Ipv4>>() == 2 * 4 + 2 * 2 + 1 + 3);
    assert!(size_of::<FlowKey<Ipv6>>() == 2 * 16 + 2 * 2 + 1 + 3);
    assert!(size_of::<FlowEntry<Ipv4>>() == 4 + 5 * 4 + 2 * 2 + 6 + 2);
    assert!(size_of::<FlowEntry<Ipv6>>() == 16 + 5 * 4 + 2 * 2 + 6 + 2);
};

/// Flow of a preview listener: not in flight, not drained.
pub const FLAG_PREVIEW: u8 = 1;
/// Recorded in the middle of a stream (G9).
pub const FLAG_UNPINNED: u8 = 2;

/// Direction of a flow's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// From the client to the VIP.
    Forward = 0,
    /// From the backend to the client.
    Reverse = 1,
}

/// Where a flow is in its life. UDP knows `Unanswered` and `Established` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// The backend has not answered. 0 never occurs in an entry.
    Unanswered = 1,
    /// The backend has sent a SYN-ACK, the client has not acknowledged it: half-open.
    Answered = 2,
    /// Both sides have answered.
    Established = 3,
    /// RST, or FIN in both directions: short timeout, not in flight.
    Closing = 4,
    /// RST before both sides had answered: as `Closing`, but only the handshake brings it back.
    Refused = 5,
}

impl FlowState {
    /// The state of a byte from a map. Unknown bytes count as the state with the shortest life.
    #[inline(always)]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            2 => Self::Answered,
            3 => Self::Established,
            4 => Self::Closing,
            5 => Self::Refused,
            _ => Self::Unanswered,
        }
    }

    /// Whether the flow seems over, so that it is not in flight.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closing | Self::Refused)
    }
}

impl<A: Address> FlowKey<A> {
    /// The key of the packets in the other direction, if nothing were translated.
    #[inline(always)]
    #[must_use]
    pub fn turned(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port_be: self.dst_port_be,
            dst_port_be: self.src_port_be,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }

    /// The 5-tuple after translation by `entry`.
    #[inline(always)]
    #[must_use]
    pub fn translated(&self, entry: &FlowEntry<A>) -> Self {
        let mut key = *self;
        match entry.side() {
            Side::Forward => {
                key.dst = entry.rewrite_addr;
                key.dst_port_be = entry.rewrite_port_be;
            }
            Side::Reverse => {
                key.src = entry.rewrite_addr;
                key.src_port_be = entry.rewrite_port_be;
            }
        }
        key
    }

    /// The key of the entry for the other direction of the flow that `entry` belongs to.
    #[inline(always)]
    #[must_use]
    pub fn peer(&self, entry: &FlowEntry<A>) -> Self {
        self.translated(entry).turned()
    }

    /// Whether it is TCP.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == Protocol::Tcp as u8
    }
}

impl<A: Address> FlowEntry<A> {
    /// Direction.
    #[inline(always)]
    #[must_use]
    pub const fn side(&self) -> Side {
        if self.side == 0 {
            Side::Forward
        } else {
            Side::Reverse
        }
    }

    /// State.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> FlowState {
        FlowState::from_byte(self.state)
    }

    /// Color.
    #[inline(always)]
    #[must_use]
    pub const fn color(&self) -> Color {
        Color::from_bit(self.color)
    }

    /// Whether it belongs to a preview listener.
    #[inline(always)]
    #[must_use]
    pub const fn is_preview(&self) -> bool {
        self.flags & FLAG_PREVIEW != 0
    }

    /// The entry of the other direction: `key` is the forward key, `self` its entry.
    #[inline(always)]
    #[must_use]
    pub fn reverse(&self, key: &FlowKey<A>) -> Self {
        Self {
            rewrite_addr: key.dst,
            rewrite_port_be: key.dst_port_be,
            side: Side::Reverse as u8,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> FlowKey<Ipv4> {
        FlowKey {
            src: Ipv4(1),
            dst: Ipv4(2),
            src_port_be: 3,
            dst_port_be: 4,
            protocol: 6,
            reserved: [0; 3],
        }
    }

    #[test]
    fn each_entry_leads_to_the_other_one() {
        let forward = FlowEntry::<Ipv4> {
            rewrite_addr: Ipv4(9),
            rewrite_port_be: 8,
            ..FlowEntry::default()
        };
        let reverse_key = key().peer(&forward);
        assert_eq!((reverse_key.src, reverse_key.src_port_be), (Ipv4(9), 8));
        assert_eq!((reverse_key.dst, reverse_key.dst_port_be), (Ipv4(1), 3));
        assert_eq!(reverse_key.peer(&forward.reverse(&key())), key());
    }
}
