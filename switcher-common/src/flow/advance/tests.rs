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

fn nobody() -> Option<Progress> {
    None
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "as the lookup of the other direction answers"
)]
fn acknowledging(acked: u32) -> Option<Progress> {
    Some(Progress {
        acked,
        ..Progress::default()
    })
}

/// Both directions of a flow, advanced as the program does it.
struct Flow {
    entries: [FlowEntry<Ipv4>; 2],
}

impl Flow {
    /// The client has sent up to 101, the backend up to 501, and both know of it.
    fn established() -> Self {
        let [mut forward, mut reverse] =
            [Side::Forward, Side::Reverse].map(|side| entry(FlowState::Established, side));
        (forward.acked, reverse.acked) = (BACKEND_NEXT, CLIENT_NEXT);
        Self {
            entries: [forward, reverse],
        }
    }

    fn state(&self) -> FlowState {
        self.entries[0].state()
    }

    fn send(&mut self, side: Side, segment: Segment) -> Next {
        let own = side as usize;
        let peer = self.entries[1 - own].progress();
        let advance = Advance::of(&self.entries[own], true, &segment, || Some(peer));
        if !matches!(advance.next, Next::Keep | Next::KeepRetransmit) {
            for entry in &mut self.entries {
                entry.set_shared(&advance.shared);
            }
        }
        if advance.next == Next::Reopened {
            self.entries[1 - own].begin_anew(advance.progress.acked);
        }
        self.entries[own].set_progress(0, &advance.progress);
        advance.next
    }

    fn client(&mut self, flags: u8, seq: u32, ack: u32, payload_len: u16) -> FlowState {
        self.send(Side::Forward, segment(flags, seq, ack, payload_len));
        self.state()
    }

    fn backend(&mut self, flags: u8, seq: u32, ack: u32, payload_len: u16) -> FlowState {
        self.send(Side::Reverse, segment(flags, seq, ack, payload_len));
        self.state()
    }
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
fn a_flow_that_has_ended_is_restored_by_data_behind_a_fin_and_by_nothing_else() {
    use FlowState::{Closing, Established};
    for side in [Side::Forward, Side::Reverse] {
        let mut flow = Flow::established();
        flow.client(FIN | ACK, CLIENT_NEXT, BACKEND_NEXT, 0);
        flow.backend(FIN | ACK, BACKEND_NEXT, CLIENT_NEXT + 1, 0);
        assert_eq!(
            flow.client(ACK, CLIENT_NEXT + 1, BACKEND_NEXT + 1, 0),
            Closing
        );
        let [next, acked] = match side {
            Side::Forward => [CLIENT_NEXT + 1, BACKEND_NEXT + 1],
            Side::Reverse => [BACKEND_NEXT + 1, CLIENT_NEXT + 1],
        };
        let ended = flow.entries;
        for late in [
            segment(ACK, next, acked, 0),
            segment(ACK, next, acked - 1, 0),
            segment(PSH_ACK, next - 51, acked - 60, 50),
            segment(FIN | ACK, next - 1, acked, 0),
            segment(PSH_ACK, next.wrapping_add(1 << 30), acked, 10),
            segment(SYN, next, acked, 10),
            segment(RST, next, 0, 0),
        ] {
            if side == Side::Forward && late.is_initial_syn() {
                continue;
            }
            assert_eq!(flow.send(side, late), Next::Keep, "{side:?}: {late:?}");
            assert_eq!(flow.entries, ended, "{side:?}: {late:?}");
        }
        let data = segment(PSH_ACK, next, acked, 10);
        assert_eq!(flow.send(side, data), Next::Restore, "{side:?}");
        assert_eq!(flow.state(), Established);
        assert_eq!(
            flow.send(side, segment(ACK, next + 10, acked, 0)),
            Next::Keep
        );
        let fin = segment(FIN | ACK, next + 10, acked, 0);
        assert_eq!(
            flow.send(side, fin),
            Next::Keep,
            "it ends there, unacknowledged"
        );
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
fn g10_a_flow_is_in_flight_until_each_side_has_acknowledged_the_other_ones_fin() {
    use FlowState::{Closing, Established};
    let mut flow = Flow::established();
    // The client closes its half with its request; the tail of the answer is lost on its way.
    let request_end = CLIENT_NEXT + 20;
    assert_eq!(
        flow.client(FIN | ACK, CLIENT_NEXT, BACKEND_NEXT, 19),
        Established
    );
    let end = BACKEND_NEXT + 7_001;
    assert_eq!(
        flow.backend(FIN | ACK, BACKEND_NEXT, request_end, 7_000),
        Established
    );
    let acknowledges = |flow: &mut Flow, ack| flow.client(ACK, request_end, ack, 0);
    assert_eq!(acknowledges(&mut flow, BACKEND_NEXT + 4_500), Established);
    assert_eq!(
        flow.backend(FIN | ACK, BACKEND_NEXT + 4_500, request_end, 2_500),
        Established
    );
    assert_eq!(
        acknowledges(&mut flow, end - 1),
        Established,
        "but for the FIN"
    );
    assert_eq!(acknowledges(&mut flow, end), Closing);
}

#[test]
fn the_last_two_acks_may_come_in_either_order_and_after_older_ones() {
    use FlowState::{Closing, Established};
    for client_first in [true, false] {
        let mut flow = Flow::established();
        let (client_end, backend_end) = (CLIENT_NEXT + 1, BACKEND_NEXT + 1);
        // Both close at once.
        flow.client(FIN | ACK, CLIENT_NEXT, BACKEND_NEXT, 0);
        assert_eq!(
            flow.backend(FIN | ACK, BACKEND_NEXT, CLIENT_NEXT, 0),
            Established
        );
        let of_client = segment(ACK, client_end, backend_end, 0);
        let of_backend = segment(ACK, backend_end, client_end, 0);
        let overtaken = Segment {
            ack: of_client.ack - 1,
            ..of_client
        };
        let [first, last] = if client_first {
            [(Side::Forward, of_client), (Side::Reverse, of_backend)]
        } else {
            [(Side::Reverse, of_backend), (Side::Forward, of_client)]
        };
        flow.send(first.0, first.1);
        flow.send(Side::Forward, overtaken);
        assert_eq!(flow.state(), Established);
        flow.send(last.0, last.1);
        assert_eq!(flow.state(), Closing, "client first: {client_first}");
    }
}

#[test]
fn a_forged_fin_ends_nothing_and_hides_no_other_one() {
    use FlowState::{Closing, Established};
    let mut flow = Flow::established();
    for side in [Side::Forward, Side::Reverse] {
        for seq in [5_000_000, 120_000, 7, 4_000_000_000] {
            flow.send(side, segment(FIN | ACK, seq, 77, 0));
            assert_eq!(flow.state(), Established, "{side:?} {seq}");
        }
    }
    flow.client(FIN | ACK, CLIENT_NEXT, BACKEND_NEXT, 0);
    flow.backend(FIN | ACK, BACKEND_NEXT, CLIENT_NEXT + 1, 0);
    assert_eq!(
        flow.client(ACK, CLIENT_NEXT + 1, BACKEND_NEXT + 1, 0),
        Closing
    );
}

#[test]
fn a_segment_far_ahead_does_not_keep_a_flow_open_that_is_closed_properly() {
    let mut flow = Flow::established();
    flow.client(ACK, CLIENT_NEXT + MAX_SEQ_AHEAD - 100, BACKEND_NEXT, 0);
    flow.client(FIN | ACK, CLIENT_NEXT, BACKEND_NEXT, 0);
    flow.backend(FIN | ACK, BACKEND_NEXT, CLIENT_NEXT + 1, 0);
    let last = flow.client(ACK, CLIENT_NEXT + 1, BACKEND_NEXT + 1, 0);
    assert_eq!(last, FlowState::Closing);
}

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
fn a_fin_behind_more_than_is_in_reach_is_seen() {
    let mut flow = Flow::established();
    let far = CLIENT_NEXT + 500_000;
    flow.client(FIN | ACK, far, BACKEND_NEXT, 0);
    // What was lost before it comes again; the FIN does not.
    for seq in (CLIENT_NEXT..far).step_by(50_000) {
        flow.client(PSH_ACK, seq, BACKEND_NEXT, 50_000);
    }
    flow.backend(FIN | ACK, BACKEND_NEXT, far + 1, 0);
    let last = flow.client(ACK, far + 1, BACKEND_NEXT + 1, 0);
    assert_eq!(last, FlowState::Closing);
}

#[test]
fn an_acknowledged_fin_is_not_replaced_and_data_behind_it_shows_that_it_was_none() {
    let fin_end = |flow: &Flow| flow.entries[0].fin_end;
    let mut flow = Flow::established();
    flow.client(FIN | ACK, CLIENT_NEXT, BACKEND_NEXT, 0);
    flow.backend(ACK, BACKEND_NEXT, CLIENT_NEXT + 1, 0);
    flow.client(FIN | ACK, CLIENT_NEXT + 500, BACKEND_NEXT, 0);
    assert_eq!(fin_end(&flow), CLIENT_NEXT + 1);
    flow.client(ACK, CLIENT_NEXT, BACKEND_NEXT, 0);
    assert_eq!(fin_end(&flow), CLIENT_NEXT + 1, "an ACK");
    flow.client(PSH_ACK, CLIENT_NEXT + 1, BACKEND_NEXT, 30);
    assert_eq!(fin_end(&flow), 0);
    flow.client(FIN | ACK, CLIENT_NEXT + 31, BACKEND_NEXT, 0);
    assert_eq!(fin_end(&flow), CLIENT_NEXT + 32);
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
fn a_flow_that_was_recorded_at_a_fin_ends_like_any_other() {
    let fin = segment(FIN | ACK, 700, 500, 0);
    let begun = Progress::begun(&fin);
    assert_eq!(begun.fin_end, 701);
    let mut flow = Flow::established();
    for entry in &mut flow.entries {
        entry.state = FlowState::Unanswered as u8;
        entry.flags = FLAG_UNPINNED;
    }
    flow.entries[0].set_progress(0, &begun);
    flow.entries[1].set_progress(0, &Progress::default());
    flow.backend(FIN | ACK, 500, 701, 0);
    assert_eq!(flow.state(), FlowState::Established);
    assert_eq!(flow.client(ACK, 701, 501, 0), FlowState::Closing);
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

#[test]
fn sequence_numbers_wrap() {
    let flow = FlowEntry {
        next_seq: u32::MAX - 4,
        ..entry(FlowState::Established, Side::Forward)
    };
    let data = Advance::of(&flow, true, &segment(PSH_ACK, u32::MAX - 4, 0, 10), nobody);
    assert_eq!(data.progress.next_seq, 5);
}
