//! Which numbers are in a direction's reach.

use super::{super::*, *};

#[test]
fn a_direction_of_which_much_was_not_seen_goes_on_at_what_its_receiver_acknowledged() {
    use FlowState::{Closing, Established};
    let far = CLIENT_NEXT + (1 << 24);
    let mut flow = Flow::established();
    flow.client(PSH_ACK, far, BACKEND_NEXT + 77, 100);
    assert_eq!(
        flow.entries[0].next_seq, CLIENT_NEXT,
        "anybody may have sent it"
    );
    flow.backend(ACK, BACKEND_NEXT, far, 0);
    for (what, seq, len) in [("begins there", far, 100), ("ends there", far - 50, 60)] {
        let mut flow = Flow {
            entries: flow.entries,
        };
        flow.client(PSH_ACK, seq, BACKEND_NEXT + 77, len);
        let client = flow.entries[0].progress();
        let expected = (seq + u32::from(len), BACKEND_NEXT + 77);
        assert_eq!((client.next_seq, client.acked), expected, "{what}");
    }
    // Its close is seen, and so is the other side's RST.
    flow.client(FIN | ACK, far, BACKEND_NEXT, 0);
    flow.backend(FIN | ACK, BACKEND_NEXT, far + 1, 0);
    assert_eq!(flow.state(), Established);
    assert_eq!(flow.client(ACK, far + 1, BACKEND_NEXT + 1, 0), Closing);
}

#[test]
fn what_is_sent_again_of_a_large_window_moves_no_direction_back() {
    let mut flow = Flow::established();
    let mut sent = CLIENT_NEXT;
    for _ in 0..20 {
        flow.client(PSH_ACK, sent, BACKEND_NEXT, 60_000);
        sent += 60_000;
    }
    flow.client(PSH_ACK, CLIENT_NEXT, BACKEND_NEXT + 9, 1_460);
    let client = flow.entries[0].progress();
    assert_eq!((client.next_seq, client.acked), (sent, BACKEND_NEXT + 9));
    flow.client(FIN | ACK, sent, BACKEND_NEXT + 9, 0);
    assert_eq!(flow.entries[0].fin_end, sent + 1);
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
            fin_end: 4_000_000_006,
        };
        assert_eq!(first.progress, expected);
        let rst = Advance::of(&flow, true, &segment(RST, 0, 0, 0), nobody);
        assert_eq!(rst.next, Next::Keep, "no number is nobody's number");
    }
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
