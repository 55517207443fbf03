//! Rows for the rules of the state machine.

use super::*;
use crate::address::Ipv4;

const PSH_ACK: u8 = 0x18;
/// Where both directions stand in [`entry`].
const CLIENT_NEXT: u32 = 101;
const BACKEND_NEXT: u32 = 501;

fn entry(state: FlowState, side: Side) -> FlowEntry<Ipv4> {
    let answered = state != FlowState::Unanswered;
    FlowEntry {
        state: state as u8,
        side: side as u8,
        syn_seq: 100,
        answer_seq: if answered { 500 } else { 0 },
        next_seq: match side {
            Side::Forward => CLIENT_NEXT,
            Side::Reverse if answered => BACKEND_NEXT,
            Side::Reverse => 0,
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

fn nobody() -> Option<u32> {
    None
}

fn tcp(state: FlowState, side: Side, segment: Segment) -> (Next, FlowState) {
    let advance = Advance::of(&entry(state, side), true, &segment, nobody);
    (advance.next, advance.shared.state)
}

#[test]
fn the_handshake_promotes_only_when_both_numbers_fit() {
    use FlowState::{Answered, Established, Unanswered};
    use Side::{Forward, Reverse};
    let syn_ack = |seq, ack| segment(SYN | ACK, seq, ack, 0);
    let ack = |ack| segment(ACK, CLIENT_NEXT, ack, 0);
    let rows = [
        (
            "a SYN-ACK that fits",
            Unanswered,
            Reverse,
            syn_ack(500, 101),
            (Next::Update, Answered),
        ),
        (
            "a SYN-ACK for Fast Open data",
            Unanswered,
            Reverse,
            syn_ack(500, 601),
            (Next::Update, Answered),
        ),
        (
            "a SYN-ACK for another SYN",
            Unanswered,
            Reverse,
            syn_ack(500, 100),
            (Next::Keep, Unanswered),
        ),
        (
            "a SYN-ACK with a new number",
            Answered,
            Reverse,
            syn_ack(900, 101),
            (Next::Update, Answered),
        ),
        (
            "an ACK before any answer",
            Unanswered,
            Forward,
            ack(501),
            (Next::Keep, Unanswered),
        ),
        (
            "an ACK that fits",
            Answered,
            Forward,
            ack(501),
            (Next::Promote, Established),
        ),
        (
            "an ACK that has data behind the answer",
            Answered,
            Forward,
            ack(2_001),
            (Next::Promote, Established),
        ),
        (
            "a forged ACK",
            Answered,
            Forward,
            ack(7),
            (Next::Keep, Answered),
        ),
    ];
    for (what, state, side, segment, expected) in rows {
        assert_eq!(tcp(state, side, segment), expected, "{what}");
    }
}

#[test]
fn a_repeated_syn_keeps_its_flow_and_a_new_one_selects_afresh_unless_established() {
    use FlowState::{Answered, Closing, Established, Refused, Unanswered};
    for state in [Unanswered, Answered, Established, Closing, Refused] {
        let same = tcp(state, Side::Forward, segment(SYN, 100, 0, 0));
        assert_eq!(same, (Next::KeepRetransmit, state));
    }
    for state in [Unanswered, Answered, Closing, Refused] {
        let new = tcp(state, Side::Forward, segment(SYN, 9_999, 0, 0));
        assert_eq!(new.0, Next::Reselect, "{state:?}");
    }
    let new = Advance::of(
        &entry(Established, Side::Forward),
        true,
        &segment(SYN, 9_999, 0, 0),
        nobody,
    );
    assert_eq!(
        (new.shared.state, new.progress.next_seq),
        (Established, CLIENT_NEXT)
    );
}

#[test]
fn a_rst_counts_only_with_a_number_that_its_sender_knows() {
    use FlowState::{Answered, Closing, Established, Refused, Unanswered};
    use Side::{Forward, Reverse};
    let rst = |seq| segment(RST, seq, 0, 0);
    let rows = [
        (
            "the client's, behind what it sent",
            Established,
            Forward,
            rst(CLIENT_NEXT),
            Closing,
        ),
        (
            "the backend's, behind what it sent",
            Established,
            Reverse,
            rst(BACKEND_NEXT),
            Closing,
        ),
        (
            "forged as the client's",
            Established,
            Forward,
            rst(CLIENT_NEXT + 1),
            Established,
        ),
        (
            "forged as the backend's",
            Established,
            Reverse,
            rst(7),
            Established,
        ),
        (
            "the client gives up",
            Unanswered,
            Forward,
            rst(CLIENT_NEXT),
            Refused,
        ),
        (
            "forged on a half-open flow",
            Answered,
            Forward,
            rst(7),
            Answered,
        ),
        (
            "the backend refuses",
            Unanswered,
            Reverse,
            segment(RST | ACK, 0, 101, 0),
            Refused,
        ),
        (
            "a refusal of another SYN",
            Unanswered,
            Reverse,
            segment(RST | ACK, 9, 77, 0),
            Unanswered,
        ),
    ];
    for (what, state, side, segment, expected) in rows {
        assert_eq!(tcp(state, side, segment).1, expected, "{what}");
    }
    let acknowledged = Advance::of(&entry(Established, Forward), true, &rst(90), || Some(90));
    assert_eq!(
        acknowledged.shared.state, Closing,
        "what the other side has acknowledged"
    );
}

#[test]
fn a_flow_that_a_rst_closed_is_restored_by_any_segment_that_is_where_its_direction_stands() {
    use FlowState::{Closing, Established};
    for (side, seq) in [(Side::Forward, CLIENT_NEXT), (Side::Reverse, BACKEND_NEXT)] {
        let far = seq.wrapping_add(MAX_SEQ_AHEAD + 1);
        let rows = [
            ("data", segment(PSH_ACK, seq, 77, 10), true),
            ("a challenge ACK", segment(ACK, seq, 77, 0), true),
            ("a keepalive", segment(ACK, seq - 1, 77, 0), true),
            ("one FIN", segment(FIN | ACK, seq, 77, 0), true),
            ("data without ACK", segment(0, seq, 77, 10), false),
            ("data of a guesser", segment(PSH_ACK, far, 77, 10), false),
            ("a late SYN-ACK", segment(SYN | ACK, seq - 1, 0, 0), false),
            ("the RST again", segment(RST, seq, 0, 0), false),
        ];
        for (what, segment, restores) in rows {
            let after = Advance::of(&entry(Closing, side), true, &segment, nobody);
            let found = (after.next, after.shared.state);
            if restores {
                assert_eq!(found, (Next::Restore, Established), "{side:?}: {what}");
                assert_eq!(
                    after.progress.acked, 77,
                    "{side:?}: {what}: the RST's number"
                );
            } else {
                assert_eq!(found, (Next::Keep, Closing), "{side:?}: {what}");
            }
        }
    }
}

#[test]
fn a_flow_that_both_fins_closed_is_restored_by_data_only() {
    use FlowState::{Closing, Established};
    for (side, seq) in [(Side::Forward, CLIENT_NEXT), (Side::Reverse, BACKEND_NEXT)] {
        let over = FlowEntry {
            fin_client: 1,
            fin_backend: 1,
            ..entry(Closing, side)
        };
        let found = |segment| {
            let after = Advance::of(&over, true, &segment, nobody);
            (after.next, after.shared.state)
        };
        let data = segment(PSH_ACK, seq, 0, 10);
        assert_eq!(found(data), (Next::Restore, Established));
        let guessed = segment(PSH_ACK, seq.wrapping_add(1 << 30), 0, 10);
        assert_eq!(found(guessed), (Next::Keep, Closing));
        for last in [segment(ACK, seq, 0, 0), segment(FIN | ACK, seq - 1, 0, 0)] {
            assert_eq!(found(last), (Next::Keep, Closing), "{last:?}");
        }
    }
}

#[test]
fn a_rst_before_the_flow_is_established_is_undone_by_the_handshake_and_by_nothing_else() {
    use FlowState::{Answered, Established, Refused};
    use Side::{Forward, Reverse};
    for (side, seq) in [(Forward, CLIENT_NEXT), (Reverse, BACKEND_NEXT)] {
        let data = tcp(Refused, side, segment(PSH_ACK, seq, 0, 10));
        assert_eq!(data, (Next::Keep, Refused), "{side:?}");
    }
    let syn_ack = tcp(Refused, Reverse, segment(SYN | ACK, 500, 101, 0));
    assert_eq!(syn_ack, (Next::Update, Answered));
    let ack = tcp(Refused, Forward, segment(ACK, CLIENT_NEXT, 501, 0));
    assert_eq!(ack, (Next::Promote, Established));
    let never_answered = FlowEntry {
        answer_seq: 0,
        ..entry(Refused, Forward)
    };
    let ack = Advance::of(
        &never_answered,
        true,
        &segment(ACK, CLIENT_NEXT, 1, 0),
        nobody,
    );
    assert_eq!((ack.next, ack.shared.state), (Next::Keep, Refused));
}

#[test]
fn one_fin_leaves_the_flow_in_flight_and_the_second_closes_it() {
    let mut flow = entry(FlowState::Established, Side::Forward);
    let first = Advance::of(&flow, true, &segment(FIN | ACK, CLIENT_NEXT, 0, 0), nobody);
    assert_eq!((first.next, first.shared.fin_client), (Next::Update, 1));
    assert_eq!(first.shared.state, FlowState::Established);
    flow = FlowEntry {
        fin_client: 1,
        ..entry(FlowState::Established, Side::Reverse)
    };
    let second = Advance::of(&flow, true, &segment(FIN | ACK, BACKEND_NEXT, 0, 0), nobody);
    assert_eq!(
        (second.next, second.shared.state),
        (Next::Update, FlowState::Closing)
    );
}

#[test]
fn a_fin_that_is_not_at_the_end_of_its_direction_is_not_noted() {
    let flow = entry(FlowState::Established, Side::Forward);
    let forged = Advance::of(&flow, true, &segment(FIN | ACK, 5_000_000, 0, 0), nobody);
    assert_eq!((forged.next, forged.shared.fin_client), (Next::Keep, 0));
}

#[test]
fn an_ack_counts_only_in_a_segment_that_is_in_its_directions_reach() {
    let acked = |seq| {
        let flow = entry(FlowState::Established, Side::Forward);
        let ack = Advance::of(&flow, true, &segment(ACK, seq, 77, 0), nobody);
        ack.progress.acked
    };
    let reach = MAX_SEQ_AHEAD;
    for near in [0, reach, 0_u32.wrapping_sub(reach)] {
        assert_eq!(acked(CLIENT_NEXT.wrapping_add(near)), 77, "{near}");
    }
    for far in [reach + 1, 1 << 31, 0_u32.wrapping_sub(reach + 1)] {
        assert_eq!(acked(CLIENT_NEXT.wrapping_add(far)), 0, "forged: {far}");
    }
}

#[test]
fn a_direction_of_which_nothing_is_known_begins_at_its_first_segment() {
    for side in [Side::Forward, Side::Reverse] {
        let flow = FlowEntry {
            next_seq: 0,
            ..entry(FlowState::Established, side)
        };
        let first = Advance::of(
            &flow,
            true,
            &segment(FIN | ACK, 4_000_000_000, 9, 5),
            nobody,
        );
        let expected = Progress {
            next_seq: 4_000_000_006,
            acked: 9,
        };
        assert_eq!(first.progress, expected);
        let fins = first.shared.fin_client + first.shared.fin_backend;
        assert_eq!(fins, 1, "its FIN ends it");
        let rst = Advance::of(&flow, true, &segment(RST, 0, 0, 0), nobody);
        assert_eq!(rst.next, Next::Keep, "no number is nobody's number");
    }
}

#[test]
fn fins_that_two_cpus_noted_at_once_close_the_flow_at_its_next_packet() {
    let flow = FlowEntry {
        fin_client: 1,
        fin_backend: 1,
        ..entry(FlowState::Established, Side::Forward)
    };
    let ack = Advance::of(&flow, true, &segment(ACK, CLIENT_NEXT, 0, 0), nobody);
    assert_eq!(
        (ack.next, ack.shared.state),
        (Next::Update, FlowState::Closing)
    );
}

#[test]
fn a_backend_that_accepts_a_new_connection_on_an_old_tuple_reopens_the_flow() {
    let old = FlowEntry {
        syn_seq: 9_999,
        ..entry(FlowState::Established, Side::Reverse)
    };
    let answer = Advance::of(&old, true, &segment(SYN | ACK, 70_000, 10_000, 0), nobody);
    assert_eq!(
        (answer.next, answer.shared.state),
        (Next::Reopened, FlowState::Answered)
    );
    let challenge = Advance::of(
        &old,
        true,
        &segment(ACK, BACKEND_NEXT, CLIENT_NEXT, 0),
        nobody,
    );
    assert_eq!(
        (challenge.next, challenge.shared.state),
        (Next::Keep, FlowState::Established)
    );
}

#[test]
fn a_first_reply_promotes_udp_and_unpinned_flows_but_a_rst_does_not() {
    let udp = |side| {
        Advance::of(
            &entry(FlowState::Unanswered, side),
            false,
            &Segment::default(),
            nobody,
        )
    };
    assert_eq!(udp(Side::Reverse).next, Next::Promote);
    assert_eq!(udp(Side::Forward).next, Next::Keep);
    let unpinned = FlowEntry {
        flags: FLAG_UNPINNED,
        ..entry(FlowState::Unanswered, Side::Reverse)
    };
    let reply = Advance::of(&unpinned, true, &segment(ACK, 0, 0, 0), nobody);
    assert_eq!(reply.next, Next::Promote);
    let refused = Advance::of(&unpinned, true, &segment(RST, 33, 0, 0), || Some(33));
    assert_eq!(
        (refused.next, refused.shared.state),
        (Next::Update, FlowState::Refused)
    );
}

#[test]
fn sequence_numbers_wrap() {
    let flow = FlowEntry {
        next_seq: u32::MAX - 4,
        ..entry(FlowState::Established, Side::Forward)
    };
    let data = Advance::of(&flow, true, &segment(PSH_ACK, u32::MAX - 4, 0, 10), nobody);
    assert_eq!(data.progress.next_seq, 5);
}
