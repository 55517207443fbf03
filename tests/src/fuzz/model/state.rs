//! Rule 3.3: what a packet does to the state of its flow. Written from the page, and from nothing else.

use super::packet::Segment;
use super::types::{Entry, Side, State};

/// How far a segment may end ahead of its direction.
const REACH: u32 = 131_072;
/// How much data a SYN-ACK may acknowledge with the SYN.
const SYN_DATA: u32 = 1_500;
/// How far a client's first ACK may be beyond the answer.
const FIRST_ACK: u32 = 65_537;

/// What becomes of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing beyond the entry's own numbers.
    Same,
    /// The SYN that began it, again.
    Repeated,
    /// State, SYN's and answer's number and FINs are new, in both entries.
    Changed,
    /// As `Changed`, from closing to established.
    Restored,
    /// As `Changed`, to established by an answer.
    Established,
    /// The client begins anew: forget the flow and select.
    Anew,
    /// The backend has begun anew: as `Changed` if its color takes fresh flows.
    BegunAnew,
}

/// The entry after a packet of its direction. `other_acked` is what the other direction has acknowledged.
#[must_use]
pub(super) fn follow(
    entry: &Entry,
    is_tcp: bool,
    segment: &Segment,
    other_acked: Option<u32>,
) -> (Entry, Fate) {
    match (is_tcp, entry.side) {
        (false, side) => datagram(entry, side),
        (true, _) if segment.rst => reset(entry, segment, other_acked),
        (true, Side::Client) if segment.is_initial_syn() => client_syn(entry, segment),
        (true, _) => {
            let after = progressed(entry, segment);
            let (after, fate) = match entry.side {
                Side::Client => client_segment(&after, segment),
                Side::Backend => backend_segment(&after, segment),
            };
            let goes_on = is_in_reach(entry, segment) && segment.ack && !segment.syn;
            if after.state == State::Closing && goes_on && restores(&after, segment) {
                return (in_state(&after, State::Established), Fate::Restored);
            }
            (after, fate)
        }
    }
}

/// Whether a segment that is where its direction stands shows that a closing flow is not over.
fn restores(entry: &Entry, segment: &Segment) -> bool {
    let by_fins = entry.fins == [true; 2];
    !by_fins || (segment.payload > 0 && !segment.fin)
}

fn datagram(entry: &Entry, side: Side) -> (Entry, Fate) {
    if side == Side::Backend && entry.state == State::Unanswered {
        (in_state(entry, State::Established), Fate::Established)
    } else {
        (*entry, Fate::Same)
    }
}

fn in_state(entry: &Entry, state: State) -> Entry {
    Entry { state, ..*entry }
}

/// The end of what was sent, and the newest ACK, of segments that are near what is known. Zero is
/// an end that nothing is known of.
fn progressed(entry: &Entry, segment: &Segment) -> Entry {
    let mut entry = *entry;
    if is_in_reach(&entry, segment) && segment.ack {
        entry.acked = segment.ack_number;
    }
    if entry.end == 0 || ahead(&entry, segment) <= REACH {
        entry.end = segment.end();
    }
    entry
}

fn ahead(entry: &Entry, segment: &Segment) -> u32 {
    segment.end().wrapping_sub(entry.end)
}

fn is_in_reach(entry: &Entry, segment: &Segment) -> bool {
    let ahead = ahead(entry, segment);
    entry.end == 0 || ahead.min(ahead.wrapping_neg()) <= REACH
}

fn acknowledges_syn(entry: &Entry, segment: &Segment) -> bool {
    let beyond = segment.ack_number.wrapping_sub(entry.syn.wrapping_add(1));
    segment.ack && beyond <= SYN_DATA
}

fn reset(entry: &Entry, segment: &Segment, other_acked: Option<u32>) -> (Entry, Fate) {
    let refuses = entry.side == Side::Backend
        && entry.state == State::Unanswered
        && acknowledges_syn(entry, segment);
    let is_end = entry.end != 0 && segment.seq == entry.end;
    let fits = is_end || other_acked == Some(segment.seq);
    if !fits && !refuses {
        return (*entry, Fate::Same);
    }
    match entry.state {
        State::Established => (in_state(entry, State::Closing), Fate::Changed),
        State::Unanswered | State::Answered => (in_state(entry, State::Refused), Fate::Changed),
        State::Closing | State::Refused | State::Cut => (*entry, Fate::Same),
    }
}

fn client_syn(entry: &Entry, segment: &Segment) -> (Entry, Fate) {
    if segment.seq == entry.syn && !entry.unpinned {
        return (*entry, Fate::Repeated);
    }
    if entry.state == State::Established {
        let syn = segment.seq;
        return (Entry { syn, ..*entry }, Fate::Changed);
    }
    (*entry, Fate::Anew)
}

fn client_segment(entry: &Entry, segment: &Segment) -> (Entry, Fate) {
    let beyond = segment.ack_number.wrapping_sub(entry.answer);
    let fits = segment.ack && (1..=FIRST_ACK).contains(&beyond);
    // An answer's number of zero is taken for none: a sender that really has it waits a little longer.
    let had_answer = entry.state == State::Answered || entry.answer != 0;
    match entry.state {
        State::Answered | State::Refused if fits && had_answer => established(entry, segment),
        State::Unanswered | State::Answered | State::Refused | State::Cut => (*entry, Fate::Same),
        State::Established | State::Closing => fin(entry, segment),
    }
}

fn backend_segment(entry: &Entry, segment: &Segment) -> (Entry, Fate) {
    let is_syn_ack = segment.syn && segment.ack && acknowledges_syn(entry, segment);
    match entry.state {
        State::Unanswered | State::Refused if entry.unpinned => established(entry, segment),
        State::Unanswered | State::Answered | State::Refused if is_syn_ack => {
            (answered(entry, segment), Fate::Changed)
        }
        State::Unanswered | State::Answered | State::Refused | State::Cut => (*entry, Fate::Same),
        State::Established | State::Closing if is_syn_ack && segment.seq != entry.answer => {
            (answered(entry, segment), Fate::BegunAnew)
        }
        State::Established | State::Closing => fin(entry, segment),
    }
}

/// Half-open: the numbers of the backend begin here, and no FIN is known.
fn answered(entry: &Entry, segment: &Segment) -> Entry {
    Entry {
        state: State::Answered,
        answer: segment.seq,
        fins: [false; 2],
        end: segment.end(),
        acked: segment.ack_number,
        ..*entry
    }
}

fn established(entry: &Entry, segment: &Segment) -> (Entry, Fate) {
    let entry = in_state(entry, State::Established);
    let (entry, _) = fin(&entry, segment);
    (entry, Fate::Established)
}

/// FINs count at their direction's end only; after both, the last segments close the flow.
fn fin(entry: &Entry, segment: &Segment) -> (Entry, Fate) {
    let mut after = *entry;
    if segment.fin && segment.end() == entry.end {
        after.fins[entry.side as usize] = true;
    }
    let is_last = segment.fin || segment.payload == 0;
    if after.fins == [true; 2] && is_last && after.state == State::Established {
        after.state = State::Closing;
    }
    let is_same = (after.fins, after.state) == (entry.fins, entry.state);
    (after, if is_same { Fate::Same } else { Fate::Changed })
}
