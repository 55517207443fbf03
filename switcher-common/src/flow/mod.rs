//! Flows: the key that finds one, the entry that pins it, and how it advances ([`advance`]).
//!
//! A flow has two entries, one for each direction, so that one lookup by the packet's own 5-tuple
//! finds what to do with it. Each entry holds the translation of its direction; the key of the
//! other entry is the translated 5-tuple turned around.

mod advance;
mod key;

use bytemuck::{Pod, Zeroable};

pub use advance::{ACK, Advance, FIN, Next, Progress, RST, SYN, Segment, Shared};
pub use key::FlowKey;

use crate::{
    address::{Address, Ipv4, Ipv6},
    hop::NextHop,
    service::Color,
};

/// One direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct FlowEntry<A> {
    /// Where the direction's packets go; believed in the established table only.
    pub hop: NextHop,
    /// What the packet's destination (forward) or source (reverse) becomes.
    pub rewrite_addr: A,
    /// Sequence number of the client's newest SYN, in host byte order; TCP only.
    pub syn_seq: u32,
    /// Sequence number of the SYN-ACK, in host byte order; TCP from [`FlowState::Answered`] on.
    pub answer_seq: u32,
    /// Sequence number behind the last byte that this direction sent; TCP only.
    pub next_seq: u32,
    /// Newest acknowledgement number that this direction sent; TCP only.
    pub acked: u32,
    /// Sequence number behind this direction's FIN; 0 without one. Of one direction, so that no two
    /// CPUs write it at once.
    pub fin_end: u32,
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
    /// [`FLAG_PREVIEW`], [`FLAG_UNPINNED`], [`FLAG_TOLD`], [`FLAG_LEFT`], [`FLAG_REFUSED`], [`FLAG_ALONE`].
    pub flags: u8,
    /// [`ScanRequest::number`](crate::scan::ScanRequest::number) of the scan that has counted the
    /// flow among the unanswered; only the scan writes it.
    pub counted: u8,
    /// How many second chances the flow has had.
    pub chances: u8,
    /// Low bits of the id of the backend that it left by the newest one.
    pub left: u16,
}

// SAFETY: `repr(C)`; the assertions below show that both instances have no padding, and every field
// is `Pod`.
unsafe impl Pod for FlowEntry<Ipv4> {}
// SAFETY: as above.
unsafe impl Pod for FlowEntry<Ipv6> {}
crate::shared!(FlowEntry<Ipv4>, 64);
crate::shared!(FlowEntry<Ipv6>, 76);
const _: () = {
    // The sum of the fields' sizes is the struct's size: no padding.
    assert!(size_of::<FlowEntry<Ipv4>>() == 4 + 8 * 4 + 2 * 2 + 6 + 2 + 16);
    assert!(size_of::<FlowEntry<Ipv6>>() == 16 + 8 * 4 + 2 * 2 + 6 + 2 + 16);
};

/// Flow of a preview listener: not in flight, not drained.
pub const FLAG_PREVIEW: u8 = 1;
/// Recorded in the middle of a stream (G9).
pub const FLAG_UNPINNED: u8 = 2;
/// The agent has been told that the flow is cut.
pub const FLAG_TOLD: u8 = 4;
/// Of a reverse entry in state [`FlowState::Cut`]: its flow has left this backend by a second chance, and
/// has an entry elsewhere. What the backend still sends is not for the client.
pub const FLAG_LEFT: u8 = 8;
/// Of a reverse entry: the backend has refused the SYN, and the client was not told.
pub const FLAG_REFUSED: u8 = 16;
/// Of a forward entry: it was recorded alone, and the reverse one is made when a packet asks for it.
pub const FLAG_ALONE: u8 = 32;

/// Second chances of a flow: so many backends are tried beside the first one.
pub const SECOND_CHANCES: u8 = 2;

/// What an entry remembers of a backend's id.
#[expect(
    clippy::cast_possible_truncation,
    reason = "as much as there is room for"
)]
const fn low_bits(backend: u32) -> u16 {
    backend as u16
}

/// Number of what a flow is: its state, and whether it was recorded in the middle of a stream.
const fn kind(state: u8, flags: u8) -> u8 {
    (state & 7) | ((flags & FLAG_UNPINNED) << 2)
}

const fn kinds(states: &[FlowState], flags: u8) -> u64 {
    let (mut kinds, mut at) = (0, 0);
    while at < states.len() {
        kinds |= 1 << kind(states[at] as u8, flags);
        at += 1;
    }
    kinds
}

/// Kinds of flows that are in flight.
const IN_FLIGHT: u64 = {
    use FlowState::{Answered, Established, Unanswered};
    kinds(&[Unanswered, Answered, Established], 0) | kinds(&[Answered, Established], FLAG_UNPINNED)
};
/// Kinds of flows that were in flight and seem over. Who refuses a packet in mid-stream ends no flow.
const ENDED: u64 = {
    use FlowState::{Closing, Cut, Refused};
    kinds(&[Closing, Refused, Cut], 0) | kinds(&[Closing, Cut], FLAG_UNPINNED)
};

/// Direction of a flow's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// From the client to the VIP.
    Forward = 0,
    /// From the backend to the client.
    Reverse = 1,
}

impl Side {
    /// As the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
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
    /// Cut by an order ([`crate::cut`]): over for good, whatever its packets say.
    Cut = 6,
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
            6 => Self::Cut,
            _ => Self::Unanswered,
        }
    }

    /// Whether the flow seems over, so that it is not in flight.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closing | Self::Refused | Self::Cut)
    }

    /// As the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Refused => "refused",
            Self::Cut => "cut",
        }
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

    /// Whether its flow is in flight. One that was recorded in the middle of a stream is so once its
    /// backend has answered: until then it may be a stray packet, and strays must not hold up a drain.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_flight(&self) -> bool {
        self.is_one_of(IN_FLIGHT) != 0
    }

    /// Flows that have ended, and flows that go on after that, if this entry's state was `before`'s.
    #[inline(always)]
    #[must_use]
    pub const fn ended_since(&self, before: &Self) -> (u64, u64) {
        (
            before.is_one_of(IN_FLIGHT) & self.is_one_of(ENDED),
            before.is_one_of(ENDED) & self.is_one_of(IN_FLIGHT),
        )
    }

    /// Flows in flight that end when this entry's is forgotten: 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn ends_forgotten(&self) -> u64 {
        self.is_one_of(IN_FLIGHT)
    }

    /// 1 or 0, without a branch: for the verifier each one is another way through the program.
    #[inline(always)]
    const fn is_one_of(&self, kinds: u64) -> u64 {
        (kinds >> kind(self.state, self.flags)) & 1
    }

    /// Whether this entry, found under the reply tuple that a fresh flow of `key` would have, may be
    /// taken away for it: a leftover of the same client and VIP, or of a flow that is over.
    #[inline(always)]
    #[must_use]
    pub fn gives_way_to(&self, key: &FlowKey<A>) -> bool {
        matches!(self.side(), Side::Reverse) && (self.is_of_vip(key) || self.state().is_over())
    }

    /// Whether this entry, found under a reply tuple of the client of `key`, leads back to `key`.
    #[inline(always)]
    #[must_use]
    pub fn is_of_vip(&self, key: &FlowKey<A>) -> bool {
        self.rewrite_addr == key.dst && self.rewrite_port_be == key.dst_port_be
    }

    /// Whether nobody has answered the SYN that began the flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_without_answer(&self) -> bool {
        matches!(self.state(), FlowState::Unanswered | FlowState::Refused)
            && self.answer_seq == 0
            && self.flags & FLAG_UNPINNED == 0
    }

    /// Whether another backend may be tried: none has answered, and not too many were asked.
    #[inline(always)]
    #[must_use]
    pub const fn has_chance_left(&self) -> bool {
        self.is_without_answer()
            && (self.chances < SECOND_CHANCES || cfg!(mutant = "second-chance-unbounded"))
            && !cfg!(mutant = "no-second-chance")
    }

    /// Whether the SYN has been sent to `backend`. Of ids whose low bits are alike one passes for the other,
    /// and is not tried.
    #[inline(always)]
    #[must_use]
    pub const fn was_sent_to(&self, backend: u32) -> bool {
        const {
            assert!(
                SECOND_CHANCES == 2,
                "two of three are remembered, the third has no successor"
            );
        };
        let is_left = self.chances != 0 && self.left == low_bits(backend);
        (backend == self.backend || is_left) && !cfg!(mutant = "second-chance-same-backend")
    }

    /// Whether its flow has left the backend whose replies it is for.
    #[inline(always)]
    #[must_use]
    pub const fn is_left(&self) -> bool {
        self.flags & FLAG_LEFT != 0
    }

    /// Whether no entry for the replies need have been made yet: without one, nothing was lost.
    #[inline(always)]
    #[must_use]
    pub const fn may_be_alone(&self) -> bool {
        use FlowState::{Answered, Closing, Established};
        let is_answered = matches!(self.state(), Answered | Established | Closing);
        self.flags & FLAG_ALONE != 0 && !is_answered
    }

    /// Whether `replies`, which lies where the other entry of this flow belongs, is left of an older flow of the
    /// same client and VIP: who begins alone does not look.
    #[inline(always)]
    #[must_use]
    pub const fn succeeds(&self, replies: &Self) -> bool {
        let is_same = self.created == replies.created && self.syn_seq == replies.syn_seq;
        self.may_be_alone() && !is_same && !cfg!(mutant = "alone-with-leftovers")
    }

    /// Whether this entry sends packets of its client to the endpoint.
    #[inline(always)]
    #[must_use]
    pub fn leads_to(&self, address: &A, port_be: u16) -> bool {
        matches!(self.side(), Side::Forward)
            && self.rewrite_addr == *address
            && self.rewrite_port_be == port_be
    }

    /// Moves the client's direction, which this is, to the backend of `to`, of which only the translation, the
    /// backend and the color count: half-open as it was when it began.
    #[inline(always)]
    pub const fn move_to(&mut self, to: &Self) {
        self.left = low_bits(self.backend);
        self.chances += 1;
        self.state = FlowState::Unanswered as u8;
        self.rewrite_addr = to.rewrite_addr;
        self.rewrite_port_be = to.rewrite_port_be;
        self.backend = to.backend;
        self.color = to.color;
    }

    /// What both directions hold alike.
    #[inline(always)]
    #[must_use]
    pub const fn shared(&self) -> Shared {
        Shared {
            state: self.state(),
            syn_seq: self.syn_seq,
            answer_seq: self.answer_seq,
        }
    }

    /// Sets what both directions hold alike.
    #[inline(always)]
    pub const fn set_shared(&mut self, shared: &Shared) {
        self.state = shared.state as u8;
        self.syn_seq = shared.syn_seq;
        self.answer_seq = shared.answer_seq;
    }

    /// How far this direction has come.
    #[inline(always)]
    #[must_use]
    pub const fn progress(&self) -> Progress {
        Progress {
            next_seq: self.next_seq,
            acked: self.acked,
            fin_end: self.fin_end,
        }
    }

    /// Notes a packet of this direction.
    #[inline(always)]
    pub const fn set_progress(&mut self, now: u32, progress: &Progress) {
        self.last_seen = now;
        self.next_seq = progress.next_seq;
        self.acked = progress.acked;
        self.fin_end = progress.fin_end;
    }

    /// The backend has accepted a new connection, with a SYN-ACK that acknowledges up to `next_seq`: of the
    /// client's direction, which this is, nothing else is known any more.
    #[inline(always)]
    pub const fn begin_anew(&mut self, next_seq: u32) {
        (self.next_seq, self.acked, self.fin_end) = (next_seq, 0, 0);
    }

    /// The entry of the other direction, made from this one, of which `key` is the key. How far that
    /// direction has come, and where it goes, is not known here.
    #[inline(always)]
    #[must_use]
    pub fn made_peer(&self, key: &FlowKey<A>) -> Self {
        let (src, dst) = key.ends();
        let ((rewrite_addr, rewrite_port_be), side) = match self.side() {
            Side::Forward => (dst, Side::Reverse),
            Side::Reverse => (src, Side::Forward),
        };
        Self {
            rewrite_addr,
            rewrite_port_be,
            side: side as u8,
            flags: self.flags & !FLAG_ALONE,
            next_seq: 0,
            acked: 0,
            fin_end: 0,
            chances: if cfg!(mutant = "chances-uncopied") {
                0
            } else {
                self.chances
            },
            hop: NextHop::default(),
            ..*self
        }
    }

    /// Whether `peer`, found under this entry's peer key, belongs to the same flow: it leads back
    /// to `key`. After an eviction another flow's entry may lie there; and one that the flow has left is
    /// its no more.
    #[inline(always)]
    #[must_use]
    pub fn is_peer_of(&self, key: &FlowKey<A>, peer: &Self) -> bool {
        let expected = self.made_peer(key);
        peer.side == expected.side
            && !peer.is_left()
            && peer.backend == self.backend
            && peer.rewrite_port_be == expected.rewrite_port_be
            && peer.rewrite_addr == expected.rewrite_addr
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
    fn g8_a_flow_is_sent_to_two_more_backends_and_to_none_twice() {
        let to = |backend| FlowEntry::<Ipv4> {
            rewrite_addr: Ipv4(backend),
            rewrite_port_be: 80,
            backend,
            color: 1,
            ..FlowEntry::default()
        };
        let mut flow = FlowEntry {
            state: FlowState::Unanswered as u8,
            syn_seq: 5,
            ..to(7)
        };
        flow.color = 0;
        assert!(flow.was_sent_to(7) && !flow.was_sent_to(8) && !flow.was_sent_to(0));
        flow.state = FlowState::Refused as u8;
        assert!(flow.has_chance_left());
        flow.move_to(&to(8));
        assert_eq!(
            flow,
            FlowEntry {
                state: FlowState::Unanswered as u8,
                syn_seq: 5,
                chances: 1,
                left: 7,
                ..to(8)
            }
        );
        assert!(flow.was_sent_to(7) && flow.was_sent_to(8) && !flow.was_sent_to(9));
        assert!(flow.has_chance_left());
        flow.move_to(&to(9));
        assert!(!flow.has_chance_left(), "three were asked");
        assert!(flow.was_sent_to(8) && flow.was_sent_to(9));
    }

    #[test]
    fn only_flows_that_nobody_has_answered_have_second_chances() {
        let flow = FlowEntry::<Ipv4> {
            state: FlowState::Unanswered as u8,
            ..FlowEntry::default()
        };
        for (state, has) in [
            (FlowState::Unanswered, true),
            (FlowState::Answered, false),
            (FlowState::Established, false),
            (FlowState::Closing, false),
            (FlowState::Refused, true),
            (FlowState::Cut, false),
        ] {
            let state = state as u8;
            assert_eq!(FlowEntry { state, ..flow }.has_chance_left(), has);
        }
        let refused_later = FlowEntry {
            state: FlowState::Refused as u8,
            answer_seq: 1,
            ..flow
        };
        assert!(!refused_later.has_chance_left());
        let unpinned = FlowEntry {
            flags: FLAG_UNPINNED,
            ..flow
        };
        assert!(!unpinned.has_chance_left());
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
        let reverse = forward.made_peer(&key());
        assert_eq!(reverse_key.peer(&reverse), key());
        assert_eq!(reverse.made_peer(&reverse_key), forward);
        assert!(forward.is_peer_of(&key(), &reverse));
    }
}
