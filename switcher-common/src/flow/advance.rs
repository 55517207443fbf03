//! How one packet moves its flow on: a pure function of the packet's own entry.
//!
//! ```text
//!               SYN-ACK fits          ACK fits
//!  Unanswered ───────────► Answered ───────────► Established ◄──── data ────┐
//!      │  first reply (UDP, unpinned): promoted ──────▲   └─ RST, both FINs ► Closing
//!      └─ RST ► Refused ◄─ RST ─┘ (from where the handshake goes on as if nothing had been)
//! ```
//! RST and FIN only shorten the timeout, and later data restores the flow: whoever can forge them
//! without knowing the sequence numbers (RFC 5961) ends nothing. A flow that was never established
//! is restored by its handshake alone: data proves nothing of a backend.

use super::{FLAG_UNPINNED, FlowEntry, FlowState, Side};
use crate::address::Address;

/// What a packet's transport header says that a flow's state depends on. Zero for UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// TCP flags as in the header's 14th byte.
    pub flags: u8,
    /// Sequence number, host byte order.
    pub seq: u32,
    /// Acknowledgement number, host byte order.
    pub ack: u32,
    /// Bytes of payload.
    pub payload_len: u16,
}

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

impl Segment {
    /// A SYN that begins a connection: no ACK, no RST.
    #[inline(always)]
    #[must_use]
    pub const fn is_initial_syn(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }

    /// RST.
    #[inline(always)]
    #[must_use]
    pub const fn is_rst(&self) -> bool {
        self.flags & RST != 0
    }

    #[inline(always)]
    const fn is_syn_ack(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN | ACK
    }

    #[inline(always)]
    const fn is_fin(&self) -> bool {
        self.flags & FIN != 0
    }
}

/// What to do with the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing but the time of its newest packet.
    Keep,
    /// As `Keep`; the packet repeats the SYN that began the flow.
    KeepRetransmit,
    /// Write the new values into both entries.
    Update,
    /// As `Update`; the flow had seemed over.
    Restore,
    /// Move both entries to the established table.
    Promote,
    /// A new connection on the 5-tuple: forget the flow and choose afresh.
    Reselect,
}

/// The outcome of [`Advance::of`]: what both entries of the flow hold from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// What to do.
    pub next: Next,
    /// New state.
    pub state: FlowState,
    /// New sequence number of the SYN-ACK.
    pub answer_seq: u32,
    /// New value of `fin_client`.
    pub fin_client: u8,
    /// New value of `fin_backend`.
    pub fin_backend: u8,
}

impl Advance {
    /// Advances the flow of `entry` by a packet of `entry`'s direction.
    #[inline(always)]
    #[must_use]
    pub fn of<A: Address>(entry: &FlowEntry<A>, is_tcp: bool, segment: &Segment) -> Self {
        let same = Self {
            next: Next::Keep,
            state: entry.state(),
            answer_seq: entry.answer_seq,
            fin_client: entry.fin_client,
            fin_backend: entry.fin_backend,
        };
        if is_tcp {
            same.tcp(entry, segment)
        } else {
            same.udp(entry)
        }
    }

    #[inline(always)]
    fn udp<A: Address>(self, entry: &FlowEntry<A>) -> Self {
        match (self.state, entry.side()) {
            (FlowState::Unanswered, Side::Reverse) => self.promoted(),
            _ => self,
        }
    }

    #[inline(always)]
    fn tcp<A: Address>(self, entry: &FlowEntry<A>, segment: &Segment) -> Self {
        let quiet =
            segment.flags & (FIN | SYN | RST) == 0 && self.fin_client & self.fin_backend == 0;
        if quiet && self.state as u8 == FlowState::Established as u8 {
            return self;
        }
        if segment.is_rst() {
            return self.closed();
        }
        match entry.side() {
            Side::Forward if segment.is_initial_syn() => self.client_syn(entry, segment),
            Side::Forward => self.client_segment(segment),
            Side::Reverse => self.backend_segment(entry, segment),
        }
    }

    /// A SYN of the client: the one that began the flow again, or a new connection.
    #[inline(always)]
    fn client_syn<A: Address>(self, entry: &FlowEntry<A>, segment: &Segment) -> Self {
        let repeats = segment.seq == entry.syn_seq && entry.flags & FLAG_UNPINNED == 0;
        match self.state {
            _ if repeats => self.with(Next::KeepRetransmit),
            // To its backend, which answers by challenge ACK (RFC 5961, section 4).
            FlowState::Established => self,
            FlowState::Unanswered
            | FlowState::Answered
            | FlowState::Closing
            | FlowState::Refused => self.with(Next::Reselect),
        }
    }

    #[inline(always)]
    fn client_segment(self, segment: &Segment) -> Self {
        let fits = segment.ack == self.answer_seq.wrapping_add(1);
        match self.state {
            FlowState::Answered if fits => self.promoted().with_fin(Side::Forward, segment),
            // Refused after its answer; without one the number is still zero.
            FlowState::Refused if fits && self.answer_seq != 0 => {
                self.promoted().with_fin(Side::Forward, segment)
            }
            FlowState::Unanswered | FlowState::Answered | FlowState::Refused => self,
            FlowState::Established | FlowState::Closing => {
                self.with_fin(Side::Forward, segment).or_restored(segment)
            }
        }
    }

    #[inline(always)]
    fn backend_segment<A: Address>(self, entry: &FlowEntry<A>, segment: &Segment) -> Self {
        match self.state {
            FlowState::Unanswered | FlowState::Refused if entry.flags & FLAG_UNPINNED != 0 => {
                self.promoted().with_fin(Side::Reverse, segment)
            }
            FlowState::Unanswered | FlowState::Refused
                if segment.is_syn_ack() && segment.ack == entry.syn_seq.wrapping_add(1) =>
            {
                Self {
                    next: Next::Update,
                    state: FlowState::Answered,
                    answer_seq: segment.seq,
                    ..self
                }
            }
            FlowState::Unanswered | FlowState::Answered | FlowState::Refused => self,
            FlowState::Established | FlowState::Closing => {
                self.with_fin(Side::Reverse, segment).or_restored(segment)
            }
        }
    }

    #[inline(always)]
    const fn with(self, next: Next) -> Self {
        Self { next, ..self }
    }

    #[inline(always)]
    const fn promoted(self) -> Self {
        Self {
            next: Next::Promote,
            state: FlowState::Established,
            ..self
        }
    }

    #[inline(always)]
    fn closed(self) -> Self {
        let state = match self.state {
            FlowState::Closing | FlowState::Refused => return self,
            FlowState::Established => FlowState::Closing,
            FlowState::Unanswered | FlowState::Answered => FlowState::Refused,
        };
        Self {
            next: Next::Update,
            state,
            ..self
        }
    }

    /// Notes a FIN; closes the flow when both sides have sent one.
    #[inline(always)]
    fn with_fin(mut self, side: Side, segment: &Segment) -> Self {
        if segment.is_fin() {
            let fin = match side {
                Side::Forward => &mut self.fin_client,
                Side::Reverse => &mut self.fin_backend,
            };
            if *fin == 0 {
                *fin = 1;
                if let Next::Keep = self.next {
                    self.next = Next::Update;
                }
            }
        }
        let both = self.fin_client & self.fin_backend != 0;
        if both && (segment.is_fin() || segment.payload_len == 0) {
            // A promotion writes the state as well; it stays one.
            let next = match (self.next, self.state) {
                (Next::Promote, _) => Next::Promote,
                (_, FlowState::Closing) => Next::Keep,
                _ => Next::Update,
            };
            return Self {
                next,
                state: FlowState::Closing,
                ..self
            };
        }
        self
    }

    /// Data on a closing flow: it was not over.
    #[inline(always)]
    fn or_restored(self, segment: &Segment) -> Self {
        let data = segment.payload_len > 0 && !segment.is_fin();
        match self.state {
            FlowState::Closing if data => Self {
                next: Next::Restore,
                state: FlowState::Established,
                ..self
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Ipv4;

    const PSH_ACK: u8 = 0x18;

    fn entry(state: FlowState, side: Side) -> FlowEntry<Ipv4> {
        FlowEntry {
            state: state as u8,
            side: side as u8,
            syn_seq: 100,
            answer_seq: if state == FlowState::Unanswered {
                0
            } else {
                500
            },
            ..FlowEntry::default()
        }
    }

    fn segment(flags: u8, seq: u32, ack: u32, payload_len: u16) -> Segment {
        Segment {
            flags,
            seq,
            ack,
            payload_len,
        }
    }

    fn tcp(state: FlowState, side: Side, segment: Segment) -> (Next, FlowState) {
        let advance = Advance::of(&entry(state, side), true, &segment);
        (advance.next, advance.state)
    }

    #[test]
    fn the_handshake_promotes_only_when_both_numbers_fit() {
        use FlowState::{Answered, Established, Unanswered};
        use Side::{Forward, Reverse};
        let rows = [
            (
                "a SYN-ACK that fits",
                Unanswered,
                Reverse,
                segment(SYN | ACK, 500, 101, 0),
                (Next::Update, Answered),
            ),
            (
                "a SYN-ACK for another SYN",
                Unanswered,
                Reverse,
                segment(SYN | ACK, 500, 99, 0),
                (Next::Keep, Unanswered),
            ),
            (
                "an ACK before any answer",
                Unanswered,
                Forward,
                segment(ACK, 101, 501, 0),
                (Next::Keep, Unanswered),
            ),
            (
                "an ACK that fits",
                Answered,
                Forward,
                segment(ACK, 101, 501, 0),
                (Next::Promote, Established),
            ),
            (
                "a forged ACK",
                Answered,
                Forward,
                segment(ACK, 101, 7, 0),
                (Next::Keep, Answered),
            ),
        ];
        for (what, state, side, segment, expected) in rows {
            assert_eq!(tcp(state, side, segment), expected, "{what}");
        }
    }

    #[test]
    fn a_repeated_syn_keeps_its_flow_and_a_new_one_selects_afresh_unless_established() {
        use FlowState::{Answered, Closing, Established, Unanswered};
        for state in [Unanswered, Answered, Established, Closing] {
            let same = tcp(state, Side::Forward, segment(SYN, 100, 0, 0));
            assert_eq!(same, (Next::KeepRetransmit, state));
        }
        for state in [Unanswered, Answered, Closing] {
            let new = tcp(state, Side::Forward, segment(SYN, 101, 0, 0));
            assert_eq!(new.0, Next::Reselect, "{state:?}");
        }
        let established = tcp(Established, Side::Forward, segment(SYN, 101, 0, 0));
        assert_eq!(established, (Next::Keep, Established));
    }

    #[test]
    fn rst_shortens_and_data_restores() {
        use FlowState::{Closing, Established};
        for side in [Side::Forward, Side::Reverse] {
            assert_eq!(
                tcp(Established, side, segment(RST, 0, 0, 0)),
                (Next::Update, Closing)
            );
            assert_eq!(
                tcp(Closing, side, segment(PSH_ACK, 0, 0, 10)),
                (Next::Restore, Established)
            );
            assert_eq!(
                tcp(Closing, side, segment(ACK, 0, 0, 0)),
                (Next::Keep, Closing)
            );
        }
    }

    #[test]
    fn a_rst_before_the_flow_is_established_is_undone_by_the_handshake_and_by_nothing_else() {
        use FlowState::{Answered, Established, Refused, Unanswered};
        use Side::{Forward, Reverse};
        for state in [Unanswered, Answered] {
            for side in [Forward, Reverse] {
                let rst = tcp(state, side, segment(RST, 0, 0, 0));
                assert_eq!(rst, (Next::Update, Refused), "{state:?}");
            }
        }
        for side in [Forward, Reverse] {
            let data = tcp(Refused, side, segment(PSH_ACK, 0, 0, 10));
            assert_eq!(data, (Next::Keep, Refused), "{side:?}");
        }
        let syn_ack = tcp(Refused, Reverse, segment(SYN | ACK, 500, 101, 0));
        assert_eq!(syn_ack, (Next::Update, Answered));
        let ack = tcp(Refused, Forward, segment(ACK, 101, 501, 0));
        assert_eq!(ack, (Next::Promote, Established));
        let never_answered = FlowEntry {
            answer_seq: 0,
            ..entry(Refused, Forward)
        };
        let ack = Advance::of(&never_answered, true, &segment(ACK, 101, 1, 0));
        assert_eq!((ack.next, ack.state), (Next::Keep, Refused));
        let new = tcp(Refused, Forward, segment(SYN, 101, 0, 0));
        assert_eq!(new.0, Next::Reselect);
    }

    #[test]
    fn one_fin_leaves_the_flow_in_flight_and_the_second_closes_it() {
        let mut flow = entry(FlowState::Established, Side::Forward);
        let first = Advance::of(&flow, true, &segment(FIN | ACK, 0, 0, 0));
        assert_eq!(
            (first.next, first.state, first.fin_client),
            (Next::Update, FlowState::Established, 1)
        );
        flow.fin_client = 1;
        flow.side = Side::Reverse as u8;
        let second = Advance::of(&flow, true, &segment(FIN | ACK, 0, 0, 0));
        assert_eq!(
            (second.next, second.state),
            (Next::Update, FlowState::Closing)
        );
    }

    #[test]
    fn fins_that_two_cpus_noted_at_once_close_the_flow_at_its_next_packet() {
        let flow = FlowEntry {
            fin_client: 1,
            fin_backend: 1,
            ..entry(FlowState::Established, Side::Forward)
        };
        let ack = Advance::of(&flow, true, &segment(ACK, 0, 0, 0));
        assert_eq!((ack.next, ack.state), (Next::Update, FlowState::Closing));
    }

    #[test]
    fn a_first_reply_promotes_udp_and_unpinned_flows_but_a_rst_does_not() {
        let udp = entry(FlowState::Unanswered, Side::Reverse);
        assert_eq!(
            Advance::of(&udp, false, &Segment::default()).next,
            Next::Promote
        );
        let udp = entry(FlowState::Unanswered, Side::Forward);
        assert_eq!(
            Advance::of(&udp, false, &Segment::default()).next,
            Next::Keep
        );
        let unpinned = FlowEntry {
            flags: FLAG_UNPINNED,
            ..entry(FlowState::Unanswered, Side::Reverse)
        };
        assert_eq!(
            Advance::of(&unpinned, true, &segment(ACK, 0, 0, 0)).next,
            Next::Promote
        );
        let refused = Advance::of(&unpinned, true, &segment(RST, 0, 0, 0));
        assert_eq!(
            (refused.next, refused.state),
            (Next::Update, FlowState::Refused)
        );
    }
}
