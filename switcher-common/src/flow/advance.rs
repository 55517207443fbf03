//! How one packet moves its flow on: a pure function of the packet's own entry.
//!
//! ```text
//!               SYN-ACK fits          ACK fits
//!  Unanswered ───────────► Answered ───────────► Established ◄── it goes on ─┐
//!      │  first reply (UDP, unpinned): promoted ──────▲   └─ RST, both FINs ► Closing
//!      └─ RST ► Refused ◄─ RST ─┘ (from where the handshake goes on as if nothing had been)
//! ```
//! A RST counts only with a sequence number that its sender is likely to know (RFC 5961, section 3), a
//! FIN only once its receiver has acknowledged it. Others travel on and change nothing. Who guesses a
//! RST's number shortens a timeout: the next segment of either side that is where its direction
//! stands restores the flow. When there is none, because the connection is really gone, what crossed
//! the RST is answered by another one, and that has the number which the segment acknowledged.
//! What happens to a flow that is cut is decided before.

use core::cell::Cell;

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

/// A SYN may carry data (TCP Fast Open, RFC 7413), at most a segment; its SYN-ACK may acknowledge it.
const MAX_SYN_PAYLOAD: u32 = 1_500;
/// With Fast Open a client's first ACK may acknowledge data that came with the SYN-ACK or after it.
const MAX_FIRST_ACK_AHEAD: u32 = 65_536 - cfg!(mutant = "fault-first-ack") as u32;
/// How far one segment may move a direction's end: the largest segment, and as much lost before it.
/// The larger this is, the cheaper it is to guess a number that is believed.
const MAX_SEQ_AHEAD: u32 = 131_072;

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

    /// A SYN-ACK: the answer to a SYN.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn_ack(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN | ACK
    }

    /// Whether it is about the beginning or the end of a connection.
    #[inline(always)]
    #[must_use]
    pub const fn begins_or_ends(&self) -> bool {
        self.flags & (SYN | FIN | RST) != 0
    }

    #[inline(always)]
    const fn is_fin(&self) -> bool {
        self.flags & FIN != 0
    }

    #[inline(always)]
    const fn has_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// Sequence number behind its last byte; SYN and FIN count as one each.
    #[inline(always)]
    #[must_use]
    pub const fn end_seq(&self) -> u32 {
        let flags = (self.flags & SYN != 0) as u32 + (self.flags & FIN != 0) as u32;
        self.seq
            .wrapping_add(self.payload_len as u32)
            .wrapping_add(flags)
    }

    /// Whether it begins or ends within a direction's reach of `acked`, which the other direction has
    /// acknowledged; 0: nothing.
    #[inline(always)]
    const fn is_near(&self, acked: u32) -> bool {
        let begin = self.seq.wrapping_sub(acked).wrapping_add(MAX_SEQ_AHEAD);
        let end = self
            .end_seq()
            .wrapping_sub(acked)
            .wrapping_add(MAX_SEQ_AHEAD);
        acked != 0 && (begin <= 2 * MAX_SEQ_AHEAD || end <= 2 * MAX_SEQ_AHEAD)
    }

    /// Whether it acknowledges the SYN with `syn_seq`.
    #[inline(always)]
    const fn acknowledges_syn(&self, syn_seq: u32) -> bool {
        self.has_ack() && self.ack.wrapping_sub(syn_seq).wrapping_sub(1) <= MAX_SYN_PAYLOAD
    }

    /// Whether it acknowledges something of what `client` has sent from the SYN with `syn_seq` on.
    #[inline(always)]
    const fn acknowledges(&self, syn_seq: u32, client: &Progress) -> bool {
        let (acked, sent) = (
            self.ack.wrapping_sub(syn_seq),
            client.next_seq.wrapping_sub(syn_seq),
        );
        client.next_seq != 0 && acked != 0 && acked <= sent
    }
}

/// What to do with the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing but its own entry's [`Progress`].
    Keep = 0,
    /// As `Keep`; the packet repeats the SYN that began the flow.
    KeepRetransmit = 1,
    /// Write [`Advance::shared`] into both entries.
    Update = 2,
    /// As `Update`; the flow had seemed over.
    Restore = 3,
    /// As `Update`, and move both entries to the established table.
    Promote = 4,
    /// A new connection on the 5-tuple: forget the flow and choose afresh.
    Reselect = 5,
    /// The backend has accepted a new connection on the 5-tuple of a flow that had not ended: as
    /// `Update`, and [`FlowEntry::begin_anew`] for the other entry, if fresh flows may go to its color, else the flow is forgotten and the answer lost,
    /// and the client's next SYN chooses afresh.
    Reopened = 6,
    /// The backend has refused the SYN that began the flow: as `Update`, unless the refusal is withheld from the client.
    Refused = 7,
}

impl Next {
    /// The one whose number it is; `Keep` for a number that is none's.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::KeepRetransmit,
            2 => Self::Update,
            3 => Self::Restore,
            4 => Self::Promote,
            5 => Self::Reselect,
            6 => Self::Reopened,
            7 => Self::Refused,
            _ => Self::Keep,
        }
    }
}

/// What both entries of a flow hold alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// State.
    pub state: FlowState,
    /// Sequence number of the client's newest SYN.
    pub syn_seq: u32,
    /// Sequence number of the SYN-ACK.
    pub answer_seq: u32,
}

/// How far one direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sequence number behind the last byte that was sent; 0 while none is known.
    pub next_seq: u32,
    /// The newest acknowledgement number that was sent; 0 while none is known.
    pub acked: u32,
    /// Sequence number behind the FIN; 0 while none was seen. Of a FIN whose number is really 0 nobody
    /// knows, and the flow waits for its idle timeout.
    pub fin_end: u32,
}

impl Progress {
    /// Of a direction whose first segment this is.
    #[inline(always)]
    #[must_use]
    pub const fn begun(segment: &Segment) -> Self {
        let end = segment.end_seq();
        Self {
            next_seq: end,
            acked: segment.ack,
            fin_end: if segment.is_fin() { end } else { 0 },
        }
    }

    /// Whether this direction and `peer`, the other one, have both ended: each has sent a FIN, of which
    /// the other has said that it has it. Only the receiver can say so, so no FIN is judged by its
    /// number, and what is lost on the way behind this node is not taken for delivered.
    #[inline(always)]
    const fn has_ended(&self, peer: &Self) -> bool {
        self.fin_end != 0
            && peer.fin_end != 0
            && self.acked == peer.fin_end
            && peer.acked == self.fin_end
    }
}

/// The outcome of [`Advance::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// What to do.
    pub next: Next,
    /// What both entries hold from now on.
    pub shared: Shared,
    /// What the packet's own entry holds from now on.
    pub progress: Progress,
}

impl Advance {
    /// Advances the flow of `entry` by a packet of `entry`'s direction. `peer` looks up how far the
    /// other direction has come; it is asked seldom.
    #[inline(always)]
    #[must_use]
    pub fn of<A: Address>(
        entry: &FlowEntry<A>,
        is_tcp: bool,
        segment: &Segment,
        peer: impl Fn() -> Option<Progress>,
    ) -> Self {
        let same = Self {
            next: Next::Keep,
            shared: entry.shared(),
            progress: entry.progress(),
        };
        if is_tcp {
            same.tcp(entry, segment, peer)
        } else {
            same.udp(entry)
        }
    }

    /// The progress by a packet in the middle of an established flow, which is all that [`Self::of`] would come to;
    /// `None`: that is to be asked.
    #[inline(always)]
    #[must_use]
    pub fn in_stream<A: Address>(
        entry: &FlowEntry<A>,
        is_tcp: bool,
        segment: &Segment,
    ) -> Option<Progress> {
        let same = Self {
            next: Next::Keep,
            shared: entry.shared(),
            progress: entry.progress(),
        };
        if !same.is_established() || entry.is_left() {
            return None;
        }
        if !is_tcp {
            return Some(same.progress);
        }
        if segment.begins_or_ends() || entry.fin_end != 0 {
            return None;
        }
        let needs_peer = Cell::new(false);
        let (advance, _) = same.with_progress(segment, || {
            needs_peer.set(true);
            None
        });
        (!needs_peer.get()).then_some(advance.progress)
    }

    #[inline(always)]
    fn udp<A: Address>(self, entry: &FlowEntry<A>) -> Self {
        match (self.shared.state, entry.side()) {
            (FlowState::Unanswered, Side::Reverse) => self.promoted(),
            _ => self,
        }
    }

    #[inline(always)]
    fn tcp<A: Address>(
        self,
        entry: &FlowEntry<A>,
        segment: &Segment,
        peer: impl Fn() -> Option<Progress>,
    ) -> Self {
        if segment.is_rst() {
            return if self.refuses_syn(entry, segment) {
                self.in_state(refusal_of(entry), FlowState::Refused)
            } else if Self::believes_rst(entry, segment, peer) {
                self.closed()
            } else {
                self
            };
        }
        let (advance, is_in_reach) = self.with_progress(segment, &peer);
        if segment.flags & SYN == 0 && advance.progress.fin_end == 0 && self.is_established() {
            return advance;
        }
        match entry.side() {
            Side::Forward if segment.is_initial_syn() => return self.client_syn(entry, segment),
            Side::Forward => advance.client_segment(segment),
            Side::Reverse => advance.backend_segment(entry, segment, &peer),
        }
        .unwrap_or_else(|| advance.ending(&self.progress, segment, is_in_reach, peer))
    }

    #[inline(always)]
    const fn is_established(&self) -> bool {
        matches!(self.shared.state, FlowState::Established)
    }

    /// Whether a RST is the backend's answer to the SYN. It has no number yet; it acknowledges.
    #[inline(always)]
    const fn refuses_syn<A: Address>(&self, entry: &FlowEntry<A>, segment: &Segment) -> bool {
        matches!(
            (self.shared.state, entry.side()),
            (FlowState::Unanswered, Side::Reverse)
        ) && segment.acknowledges_syn(entry.syn_seq)
    }

    /// A RST is its sender's when it has the number behind all that it sent, or the one that the
    /// other side has acknowledged.
    #[inline(always)]
    fn believes_rst<A: Address>(
        entry: &FlowEntry<A>,
        segment: &Segment,
        peer: impl Fn() -> Option<Progress>,
    ) -> bool {
        cfg!(mutant = "every-rst-believed")
            || (entry.next_seq != 0 && segment.seq == entry.next_seq)
            || peer().is_some_and(|peer| peer.acked != 0 && peer.acked == segment.seq)
    }

    /// Moves the direction's numbers on, unless the segment is out of its reach: the second value says
    /// whether it is in it. Its ACK counts as its number does: a RST of the other side is judged by it.
    ///
    /// A direction of which nothing is known, because the flow was made by a packet of the other
    /// one, begins at its first segment. In reach is also what is near the number that the other
    /// direction has acknowledged, which is the receiver's word: it leads on when more than the reach was
    /// sent another way, and back to what is sent again of a large window. An older ACK was overtaken; on a closing flow it may be
    /// what the other side's RST will be about, and counts.
    #[inline(always)]
    fn with_progress(
        mut self,
        segment: &Segment,
        peer: impl Fn() -> Option<Progress>,
    ) -> (Self, bool) {
        let (end, known) = (segment.end_seq(), self.progress.next_seq);
        let (ahead, behind) = (end.wrapping_sub(known), known.wrapping_sub(end));
        let is_near = known == 0
            || ahead <= MAX_SEQ_AHEAD
            || behind <= MAX_SEQ_AHEAD
            || peer().is_some_and(|peer| segment.is_near(peer.acked))
            || cfg!(mutant = "every-ack-believed");
        if is_near && (known == 0 || ahead <= u32::MAX / 2) {
            self.progress.next_seq = end;
        }
        let is_older = self.progress.acked != 0
            && is_behind(segment.ack, self.progress.acked)
            && !matches!(self.shared.state, FlowState::Closing);
        if segment.has_ack() && is_near && !is_older {
            self.progress.acked = segment.ack;
        }
        // Also out of reach: what lies before it may have been lost on its way here.
        if segment.is_fin() && self.progress.fin_end == 0 {
            self.progress.fin_end = end;
        }
        (self, is_near)
    }

    /// A SYN of the client: the one that began the flow again, or a new connection.
    #[inline(always)]
    fn client_syn<A: Address>(mut self, entry: &FlowEntry<A>, segment: &Segment) -> Self {
        let repeats = segment.seq == entry.syn_seq && entry.flags & FLAG_UNPINNED == 0;
        if repeats && !cfg!(mutant = "retransmit-reselects") {
            return self.with(Next::KeepRetransmit);
        }
        match self.shared.state {
            // To its backend, which answers by challenge ACK (RFC 5961, section 4), or, when it
            // knows nothing of the old connection, by a SYN-ACK.
            FlowState::Established if !cfg!(mutant = "syn-moves-pin") => {
                self.shared.syn_seq = segment.seq;
                self.with(Next::Update)
            }
            FlowState::Established
            | FlowState::Unanswered
            | FlowState::Answered
            | FlowState::Closing
            | FlowState::Refused
            | FlowState::Cut => self.with(Next::Reselect),
        }
    }

    /// `None`: it belongs to an established connection.
    #[inline(always)]
    fn client_segment(self, segment: &Segment) -> Option<Self> {
        let answer_end = self.shared.answer_seq.wrapping_add(1);
        let fits = segment.has_ack() && segment.ack.wrapping_sub(answer_end) <= MAX_FIRST_ACK_AHEAD;
        match self.shared.state {
            FlowState::Answered if fits => Some(self.promoted()),
            // Refused after its answer; without one the number is still zero.
            FlowState::Refused if fits && self.shared.answer_seq != 0 => Some(self.promoted()),
            FlowState::Unanswered | FlowState::Answered | FlowState::Refused | FlowState::Cut => {
                Some(self)
            }
            FlowState::Established | FlowState::Closing => None,
        }
    }

    /// `None`: it belongs to an established connection.
    #[inline(always)]
    fn backend_segment<A: Address>(
        self,
        entry: &FlowEntry<A>,
        segment: &Segment,
        peer: impl Fn() -> Option<Progress>,
    ) -> Option<Self> {
        let answers = segment.is_syn_ack() && segment.acknowledges_syn(entry.syn_seq);
        match self.shared.state {
            FlowState::Unanswered | FlowState::Refused if entry.flags & FLAG_UNPINNED != 0 => {
                Some(self.promoted())
            }
            // Each answer counts anew: SYN cookies change their number.
            FlowState::Unanswered | FlowState::Answered | FlowState::Refused if answers => {
                Some(self.answered(Next::Update, segment, segment.seq))
            }
            // The SYN-ACK was not seen here, or not as one: so the backend has accepted the connection.
            FlowState::Unanswered | FlowState::Refused
                if segment.flags & (ACK | SYN) == ACK
                    && peer().is_some_and(|peer| segment.acknowledges(entry.syn_seq, &peer)) =>
            {
                Some(self.answered(Next::Update, segment, segment.seq.wrapping_sub(1)))
            }
            FlowState::Unanswered | FlowState::Answered | FlowState::Refused | FlowState::Cut => {
                Some(self)
            }
            FlowState::Established | FlowState::Closing
                if answers && segment.seq != self.shared.answer_seq =>
            {
                Some(self.answered(Next::Reopened, segment, segment.seq))
            }
            FlowState::Established | FlowState::Closing => None,
        }
    }

    #[inline(always)]
    const fn with(self, next: Next) -> Self {
        Self { next, ..self }
    }

    /// The backend has answered a SYN: half-open, its numbers begin here.
    #[inline(always)]
    const fn answered(self, next: Next, segment: &Segment, answer_seq: u32) -> Self {
        Self {
            next,
            shared: Shared {
                state: FlowState::Answered,
                answer_seq,
                ..self.shared
            },
            progress: Progress::begun(segment),
        }
    }

    #[inline(always)]
    const fn promoted(self) -> Self {
        Self {
            next: Next::Promote,
            shared: Shared {
                state: FlowState::Established,
                ..self.shared
            },
            ..self
        }
    }

    #[inline(always)]
    fn closed(self) -> Self {
        match self.shared.state {
            FlowState::Closing | FlowState::Refused | FlowState::Cut => self,
            FlowState::Established => self.in_state(Next::Update, FlowState::Closing),
            FlowState::Unanswered | FlowState::Answered => {
                self.in_state(Next::Update, FlowState::Refused)
            }
        }
    }

    #[inline(always)]
    const fn in_state(self, next: Next, state: FlowState) -> Self {
        Self {
            next,
            shared: Shared {
                state,
                ..self.shared
            },
            ..self
        }
    }

    /// A segment of an established or closing connection of which a FIN was seen, or a RST: `before`
    /// it, its direction stood there. A flow is closed by the ACK that acknowledges the later FIN.
    ///
    /// It is restored by a segment that goes on where its direction stands. After a RST that is any,
    /// also the challenge ACK by which an end answers a RST that it does not believe; after both FINs it
    /// is data behind one of them, since what else may come is late, or sent again. Only with an
    /// ACK, which is noted: if the other end knows of no connection, its RST has that number, and closes
    /// the flow again.
    #[inline(always)]
    fn ending(
        mut self,
        before: &Progress,
        segment: &Segment,
        is_in_reach: bool,
        peer: impl Fn() -> Option<Progress>,
    ) -> Self {
        let goes_on = segment.flags & (ACK | SYN) == ACK && is_in_reach;
        let mut peer_progress = Progress::default();
        if self.progress.fin_end != 0 {
            peer_progress = peer().unwrap_or_default();
            self.note_fin(segment, is_in_reach, goes_on, peer_progress.acked);
        }
        let was_over = before.has_ended(&peer_progress);
        let is_over = self.progress.has_ended(&peer_progress);
        match self.shared.state {
            FlowState::Established if is_over => self.in_state(Next::Update, FlowState::Closing),
            FlowState::Closing if was_over && self.progress.fin_end == before.fin_end => Self {
                progress: *before,
                ..self
            },
            FlowState::Closing if goes_on && !is_over && !cfg!(mutant = "fault-never-restored") => {
                self.in_state(Next::Restore, FlowState::Established)
            }
            _ => self,
        }
    }

    /// Data behind a FIN: it was none of its sender's. Another FIN: the earlier one was not, unless it is
    /// acknowledged.
    #[inline(always)]
    const fn note_fin(
        &mut self,
        segment: &Segment,
        is_in_reach: bool,
        goes_on: bool,
        peer_acked: u32,
    ) {
        let (end, fin_end) = (segment.end_seq(), self.progress.fin_end);
        let is_behind_it = goes_on && segment.payload_len > 0 && is_behind(fin_end, end);
        if segment.is_fin() && is_in_reach && (is_behind_it || peer_acked != fin_end) {
            self.progress.fin_end = end;
        } else if is_behind_it {
            self.progress.fin_end = 0;
        }
    }
}

/// What a RST means that answers the first packet of an unanswered flow. To a packet in mid-stream it says
/// nothing about whether the backend accepts connections.
#[inline(always)]
const fn refusal_of<A: Address>(entry: &FlowEntry<A>) -> Next {
    if entry.flags & FLAG_UNPINNED == 0 {
        Next::Refused
    } else {
        Next::Update
    }
}

/// Whether `number` is behind `known`, by no more than a direction's reach.
#[inline(always)]
const fn is_behind(number: u32, known: u32) -> bool {
    known.wrapping_sub(number).wrapping_sub(1) < MAX_SEQ_AHEAD
}

#[cfg(test)]
mod tests;
