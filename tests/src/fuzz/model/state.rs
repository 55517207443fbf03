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
    /// State, SYN's and answer's number are new, in both entries.
    Changed,
    /// As `Changed`, from closing to established.
    Restored,
    /// As `Changed`, to established by an answer.
    Established,
    /// As `Changed`: the backend refuses the SYN.
    Refused,
    /// The client begins anew: forget the flow and select.
    Anew,
    /// The backend has begun anew: as `Changed` if its color takes fresh flows.
    BegunAnew,
}

/// The entry after a packet of its direction. `other` is the other direction's.
#[must_use]
pub(super) fn follow(
    entry: &Entry,
    is_tcp: bool,
    segment: &Segment,
    other: Option<&Entry>,
) -> (Entry, Fate) {
    match (is_tcp, entry.side) {
        (false, side) => datagram(entry, side),
        (true, _) if segment.rst => reset(entry, segment, other),
        (true, Side::Client) if segment.is_initial_syn() => client_syn(entry, segment),
        (true, Side::Client) => client_segment(entry, segment, other),
        (true, Side::Backend) => backend_segment(entry, segment, other),
    }
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

/// The end of what was sent, the newest ACK, and the first FIN, of segments that are near what is known.
/// Zero is a number that nothing is known of.
fn progressed(entry: &Entry, segment: &Segment, other: Option<&Entry>) -> Entry {
    let mut after = *entry;
    if segment.fin && entry.fin == 0 {
        after.fin = segment.end();
    }
    if !is_in_reach(entry, segment, other) {
        return after;
    }
    let overtaken = (1..=REACH).contains(&entry.acked.wrapping_sub(segment.ack_number));
    let is_taken = entry.acked == 0 || entry.state == State::Closing || !overtaken;
    if segment.ack && is_taken {
        after.acked = segment.ack_number;
    }
    let half = 1 << 31;
    if entry.end == 0 || segment.end().wrapping_sub(entry.end) < half {
        after.end = segment.end();
    }
    after
}

/// Whether the segment is near the end of its direction, or what the other one acknowledged.
fn is_in_reach(entry: &Entry, segment: &Segment, other: Option<&Entry>) -> bool {
    let acked = other.map_or(0, |it| it.acked);
    entry.end == 0
        || distance(segment.end(), entry.end) <= REACH
        || (acked != 0
            && [segment.seq, segment.end()]
                .iter()
                .any(|number| distance(*number, acked) <= REACH))
}

fn distance(a: u32, b: u32) -> u32 {
    a.wrapping_sub(b).min(b.wrapping_sub(a))
}

fn acknowledges_syn(entry: &Entry, segment: &Segment) -> bool {
    let beyond = segment.ack_number.wrapping_sub(entry.syn.wrapping_add(1));
    segment.ack && beyond <= SYN_DATA
}

fn reset(entry: &Entry, segment: &Segment, other: Option<&Entry>) -> (Entry, Fate) {
    let refuses = entry.side == Side::Backend
        && entry.state == State::Unanswered
        && acknowledges_syn(entry, segment);
    let is_end = entry.end != 0 && segment.seq == entry.end;
    let is_acked = other.is_some_and(|it| it.acked != 0 && it.acked == segment.seq);
    let fits = is_end || is_acked;
    if !fits && !refuses {
        return (*entry, Fate::Same);
    }
    match entry.state {
        State::Established => (in_state(entry, State::Closing), Fate::Changed),
        State::Unanswered if refuses && !entry.unpinned => {
            (in_state(entry, State::Refused), Fate::Refused)
        }
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

fn client_segment(before: &Entry, segment: &Segment, other: Option<&Entry>) -> (Entry, Fate) {
    let entry = &progressed(before, segment, other);
    let beyond = segment.ack_number.wrapping_sub(entry.answer);
    let fits = segment.ack && (1..=FIRST_ACK).contains(&beyond);
    // An answer's number of zero is taken for none: a sender that really has it waits a little longer.
    let had_answer = entry.state == State::Answered || entry.answer != 0;
    match entry.state {
        State::Answered | State::Refused if fits && had_answer => established(entry),
        State::Unanswered | State::Answered | State::Refused | State::Cut => (*entry, Fate::Same),
        State::Established | State::Closing => stream(before, entry, segment, other),
    }
}

fn backend_segment(before: &Entry, segment: &Segment, other: Option<&Entry>) -> (Entry, Fate) {
    let entry = &progressed(before, segment, other);
    let is_accepted = segment.ack && !segment.syn && acknowledges_client(entry, segment, other);
    let is_syn_ack = segment.syn && segment.ack && acknowledges_syn(entry, segment);
    match entry.state {
        State::Unanswered | State::Refused if entry.unpinned => established(entry),
        State::Unanswered | State::Answered | State::Refused if is_syn_ack => {
            (answered(entry, segment, segment.seq), Fate::Changed)
        }
        State::Unanswered | State::Refused if is_accepted => {
            let answer = segment.seq.wrapping_sub(1);
            (answered(entry, segment, answer), Fate::Changed)
        }
        State::Unanswered | State::Answered | State::Refused | State::Cut => (*entry, Fate::Same),
        State::Established | State::Closing if is_syn_ack && segment.seq != entry.answer => {
            (answered(entry, segment, segment.seq), Fate::BegunAnew)
        }
        State::Established | State::Closing => stream(before, entry, segment, other),
    }
}

/// Whether the backend acknowledges at least the SYN, and no more than the client has sent since.
fn acknowledges_client(entry: &Entry, segment: &Segment, client: Option<&Entry>) -> bool {
    let since_syn = |number: u32| number.wrapping_sub(entry.syn);
    client.is_some_and(|it| {
        it.end != 0 && (1..=since_syn(it.end)).contains(&since_syn(segment.ack_number))
    })
}

/// Half-open: the numbers of the backend begin here.
fn answered(entry: &Entry, segment: &Segment, answer: u32) -> Entry {
    Entry {
        state: State::Answered,
        answer,
        fin: if segment.fin { segment.end() } else { 0 },
        end: segment.end(),
        acked: segment.ack_number,
        ..*entry
    }
}

fn established(entry: &Entry) -> (Entry, Fate) {
    (in_state(entry, State::Established), Fate::Established)
}

/// A segment of a connection that both sides had accepted; `after` has its numbers.
fn stream(
    before: &Entry,
    after: &Entry,
    segment: &Segment,
    other: Option<&Entry>,
) -> (Entry, Fate) {
    let goes_on = is_in_reach(before, segment, other) && segment.ack && !segment.syn;
    let behind_fin = segment.end().wrapping_sub(after.fin);
    let data_behind_fin = goes_on && segment.payload > 0 && (1..=REACH).contains(&behind_fin);
    let is_acknowledged = other.map_or(0, |it| it.acked) == after.fin;
    let mut after = *after;
    if after.fin != 0 {
        let is_better = data_behind_fin || !is_acknowledged;
        if segment.fin && is_in_reach(before, segment, other) && is_better {
            after.fin = segment.end();
        } else if data_behind_fin {
            after.fin = 0;
        }
    }
    if before.state == State::Established {
        return if both_ended(&after, other) {
            (in_state(&after, State::Closing), Fate::Changed)
        } else {
            (after, Fate::Same)
        };
    }
    if both_ended(before, other) && after.fin == before.fin {
        return (*before, Fate::Same);
    }
    if goes_on && !both_ended(&after, other) {
        return (in_state(&after, State::Established), Fate::Restored);
    }
    (after, Fate::Same)
}

/// Both FINs are seen, and each is what the other direction acknowledged last.
fn both_ended(entry: &Entry, other: Option<&Entry>) -> bool {
    let has = |fin: u32, acked: u32| fin != 0 && fin == acked;
    other.is_some_and(|it| has(entry.fin, it.acked) && has(it.fin, entry.acked))
}
