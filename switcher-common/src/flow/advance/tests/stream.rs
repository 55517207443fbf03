//! The short way comes to what the state machine comes to, or leaves the packet to that.

use super::*;

const STATES: [FlowState; 6] = [
    FlowState::Unanswered,
    FlowState::Answered,
    FlowState::Established,
    FlowState::Closing,
    FlowState::Refused,
    FlowState::Cut,
];
/// Numbers around where a direction stands, at both ends of its reach, and far away.
const NUMBERS: [u32; 9] = [
    0,
    1,
    CLIENT_NEXT - 1,
    CLIENT_NEXT,
    CLIENT_NEXT + 1,
    CLIENT_NEXT + MAX_SEQ_AHEAD,
    CLIENT_NEXT + MAX_SEQ_AHEAD + 1,
    CLIENT_NEXT.wrapping_sub(MAX_SEQ_AHEAD + 1),
    0x8000_0000,
];

/// Calls `with` for entries in all states, of both sides, with and without numbers, FIN and marks.
fn each_entry(mut with: impl FnMut(FlowEntry<Ipv4>)) {
    for state in STATES {
        for side in [Side::Forward, Side::Reverse] {
            for (next_seq, acked, fin_end) in [
                (CLIENT_NEXT, 0, 0),
                (CLIENT_NEXT, CLIENT_NEXT, 0),
                (CLIENT_NEXT, BACKEND_NEXT, CLIENT_NEXT),
                (0, 0, 0),
            ] {
                for flags in [0, FLAG_UNPINNED, crate::flow::FLAG_LEFT] {
                    with(FlowEntry {
                        next_seq,
                        acked,
                        fin_end,
                        flags,
                        ..entry(state, side)
                    });
                }
            }
        }
    }
}

fn each_segment(mut with: impl FnMut(Segment)) {
    for flags in [0, ACK, PSH_ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK] {
        for seq in NUMBERS {
            for ack in NUMBERS {
                with(segment(flags, seq, ack, 0));
                with(segment(flags, seq, ack, 1_460));
            }
        }
    }
}

#[test]
fn in_mid_stream_a_packet_comes_to_what_the_state_machine_says_and_else_is_left_to_it() {
    let mut in_stream = 0;
    each_entry(|entry| {
        each_segment(|segment| {
            for is_tcp in [true, false] {
                let Some(progress) = Advance::in_stream(&entry, is_tcp, &segment) else {
                    continue;
                };
                in_stream += 1;
                for peer in [nobody(), acknowledging(0), acknowledging(segment.seq)] {
                    let advance = Advance::of(&entry, is_tcp, &segment, || peer);
                    let kept = Advance {
                        next: Next::Keep,
                        shared: entry.shared(),
                        progress,
                    };
                    assert_eq!(advance, kept, "{entry:?} {segment:?} {peer:?}");
                    let is_established = entry.state() == FlowState::Established;
                    assert!(is_established && !entry.is_left(), "{entry:?}");
                }
            }
        });
    });
    assert!(in_stream > 1_000, "{in_stream}");
}

#[test]
fn what_stands_where_its_direction_stands_goes_the_short_way() {
    for side in [Side::Forward, Side::Reverse] {
        let entry = entry(FlowState::Established, side);
        for payload_len in [0, 1_460] {
            let segment = segment(ACK, entry.next_seq, 7, payload_len);
            assert!(Advance::in_stream(&entry, true, &segment).is_some());
        }
        assert!(Advance::in_stream(&entry, false, &Segment::default()).is_some());
    }
}
