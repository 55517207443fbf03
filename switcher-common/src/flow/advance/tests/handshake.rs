//! How a flow begins, and begins anew.

use super::{super::*, *};

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
fn a_connection_that_begins_anew_has_no_fin() {
    let mut flow = Flow::established();
    flow.client(FIN | ACK, CLIENT_NEXT, BACKEND_NEXT, 0);
    flow.backend(FIN | ACK, BACKEND_NEXT, CLIENT_NEXT, 0);
    flow.client(SYN, 40_000, 0, 0);
    let answered = flow.backend(SYN | ACK, 90_000, 40_001, 0);
    assert_eq!(answered, FlowState::Answered);
    assert_eq!(flow.entries.map(|it| it.fin_end), [0, 0]);
    assert_eq!(flow.entries.map(|it| it.next_seq), [40_001, 90_001]);
}

#[test]
fn g7_what_a_backend_sends_of_a_connection_counts_as_its_answer_where_the_syn_ack_was_missed() {
    use FlowState::{Answered, Established, Refused, Unanswered};
    let client_next = CLIENT_NEXT + 2_000;
    let rows = [
        ("acknowledges the SYN", ACK, CLIENT_NEXT, true),
        ("acknowledges all", PSH_ACK, client_next, true),
        ("its FIN", FIN | ACK, client_next, true),
        ("acknowledges nothing", ACK, CLIENT_NEXT - 1, false),
        (
            "acknowledges what was not sent",
            ACK,
            client_next + 1,
            false,
        ),
        ("has no ACK", 0x08, CLIENT_NEXT, false),
        ("a SYN-ACK of that kind", SYN | ACK, client_next, false),
    ];
    for state in [Unanswered, Refused] {
        for (what, flags, ack, is_answer) in rows {
            let mut flow = Flow {
                entries: [Side::Forward, Side::Reverse].map(|side| entry(Unanswered, side)),
            };
            flow.client(PSH_ACK, CLIENT_NEXT, 0, 2_000);
            for entry in &mut flow.entries {
                entry.state = state as u8;
            }
            let answered = flow.backend(flags, BACKEND_NEXT, ack, 40);
            assert_eq!(answered == Answered, is_answer, "{state:?}: {what}");
            if !is_answer {
                assert_eq!(answered, state, "{what}");
                continue;
            }
            let forged = flow.client(ACK, client_next, BACKEND_NEXT - 1, 0);
            assert_eq!(forged, Answered, "{state:?}: {what}");
            let established = flow.client(ACK, client_next, BACKEND_NEXT, 0);
            assert_eq!(established, Established, "{state:?}: {what}");
        }
    }
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
    let refused = Advance::of(&unpinned, true, &segment(RST, 33, 0, 0), || {
        acknowledging(33)
    });
    assert_eq!(
        (refused.next, refused.shared.state),
        (Next::Update, FlowState::Refused)
    );
}
