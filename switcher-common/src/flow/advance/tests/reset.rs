//! What a RST ends, and what undoes it.

use super::{super::*, *};

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
    let acknowledged = Advance::of(&entry(Established, Forward), true, &rst(90), || {
        acknowledging(90)
    });
    assert_eq!(
        acknowledged.shared.state, Closing,
        "what the other side has acknowledged"
    );
    let unknown = Advance::of(&entry(Established, Forward), true, &rst(0), || {
        acknowledging(0)
    });
    assert_eq!(unknown.next, Next::Keep, "nothing is acknowledged yet");
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
