//! How a flow ends by FINs.

use super::{super::*, *};

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
