//! The life of a flow under any sequence of packets, of senders who mean it and of others.

use proptest::collection::vec;
use proptest::prelude::*;
use switcher_common::address::Ipv4;
use switcher_common::flow::{
    ACK, Advance, FIN, FLAG_UNPINNED, FlowEntry, FlowState, Next, RST, SYN, Segment, Shared, Side,
};

use crate::shape::config;

/// A packet of either direction.
#[derive(Clone, Copy, Debug)]
struct Event {
    side: Side,
    segment: Segment,
}

/// Numbers of which many fit each other, so that handshakes happen.
fn numbers() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(100),
        Just(101),
        Just(102),
        Just(500),
        Just(501),
        Just(502),
        any::<u32>()
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let flags = prop_oneof![
        Just(SYN),
        Just(SYN | ACK),
        Just(ACK),
        Just(FIN | ACK),
        Just(RST),
        any::<u8>()
    ];
    let payload = prop_oneof![Just(0), 1..1400_u16];
    let fields = (any::<bool>(), flags, numbers(), numbers(), payload);
    fields.prop_map(|(forward, flags, seq, ack, payload_len)| Event {
        side: if forward {
            Side::Forward
        } else {
            Side::Reverse
        },
        segment: Segment {
            flags,
            seq,
            ack,
            payload_len,
        },
    })
}

/// Both entries of a flow, advanced as the program does it.
#[derive(Clone, Copy, Debug)]
struct Flow {
    entries: [FlowEntry<Ipv4>; 2],
}

impl Flow {
    fn begun(syn: &Segment, flags: u8) -> Self {
        let forward = FlowEntry {
            syn_seq: syn.seq,
            next_seq: syn.end_seq(),
            acked: syn.ack,
            flags,
            state: FlowState::Unanswered as u8,
            side: Side::Forward as u8,
            ..FlowEntry::default()
        };
        let reverse = FlowEntry {
            side: Side::Reverse as u8,
            next_seq: 0,
            acked: 0,
            ..forward
        };
        Self {
            entries: [forward, reverse],
        }
    }

    fn state(&self) -> FlowState {
        self.entries[0].state()
    }

    fn shared(&self) -> Shared {
        self.entries[0].shared()
    }

    fn advance(&mut self, is_tcp: bool, event: &Event) -> Next {
        let own = event.side as usize;
        let peer = self.entries[1 - own].progress();
        let advance = Advance::of(&self.entries[own], is_tcp, &event.segment, || Some(peer));
        if !matches!(
            advance.next,
            Next::Keep | Next::KeepRetransmit | Next::Reselect
        ) {
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
}

fn initial_syn(segment: &Segment) -> bool {
    segment.flags & (SYN | ACK | RST) == SYN
}

/// A flow after its handshake: the client's next number is 101, the backend's 501.
fn established() -> Flow {
    let mut flow = Flow::begun(&first_segment(false), 0);
    let steps = [
        (Side::Reverse, SYN | ACK, 500, 101),
        (Side::Forward, ACK, 101, 501),
    ];
    for (side, flags, seq, ack) in steps {
        let segment = Segment {
            flags,
            seq,
            ack,
            payload_len: 0,
        };
        flow.advance(true, &Event { side, segment });
    }
    assert_eq!(flow.state(), FlowState::Established);
    flow
}

/// A SYN, or what is in the middle of a stream.
fn first_segment(unpinned: bool) -> Segment {
    Segment {
        flags: if unpinned { ACK } else { SYN },
        seq: 100,
        ..Segment::default()
    }
}

fn flags(unpinned: bool) -> u8 {
    if unpinned { FLAG_UNPINNED } else { 0 }
}

/// What must hold of one step, from `before` to `after`.
fn check_step(event: &Event, next: Next, before: &Flow, after: &Flow) -> Result<(), TestCaseError> {
    let (segment, forward) = (&event.segment, event.side == Side::Forward);
    let (old, new) = (before.state(), after.state());
    prop_assert_eq!(
        after.shared(),
        after.entries[1].shared(),
        "the entries disagree"
    );
    prop_assert_eq!(new as u8, after.entries[0].state, "an unknown state");
    match next {
        Next::Keep | Next::KeepRetransmit => {
            prop_assert_eq!(after.shared(), before.shared());
        }
        Next::Promote => prop_assert!(
            !matches!(old, FlowState::Established | FlowState::Closing),
            "promoted from {:?}",
            old
        ),
        Next::Restore => {
            prop_assert!(old == FlowState::Closing && segment.flags & (SYN | ACK) == ACK);
            prop_assert_eq!(new, FlowState::Established);
            let acked = after.entries[event.side as usize].acked;
            prop_assert_eq!(
                acked,
                segment.ack,
                "a RST that answers it has another number"
            );
        }
        Next::Reselect => {
            prop_assert!(forward && initial_syn(segment), "{:?} selects", segment);
            prop_assert!(old != FlowState::Established, "an established flow moves");
        }
        Next::Reopened => {
            prop_assert!(!forward && segment.flags & (SYN | ACK) == SYN | ACK);
            prop_assert_eq!(new, FlowState::Answered);
        }
        Next::Refused => {
            // Only the answer to the SYN of a half-open flow says that its backend refuses.
            prop_assert!(!forward && segment.flags & (RST | ACK) == RST | ACK);
            prop_assert_eq!((old, new), (FlowState::Unanswered, FlowState::Refused));
            prop_assert_eq!(before.entries[0].flags & FLAG_UNPINNED, 0);
            let beyond = segment.ack.wrapping_sub(before.shared().syn_seq);
            prop_assert!((1..=1_501).contains(&beyond), "{} beyond the SYN", beyond);
        }
        Next::Update => {}
    }
    if old != FlowState::Closing && new == FlowState::Closing && !segment.is_rst() {
        let [forward, reverse] = after.entries;
        prop_assert_eq!(
            forward.fin_end,
            reverse.acked,
            "the client's FIN is not acknowledged"
        );
        prop_assert_eq!(
            reverse.fin_end,
            forward.acked,
            "the backend's FIN is not acknowledged"
        );
    }
    if segment.is_rst() {
        prop_assert!(
            matches!(next, Next::Keep | Next::Update | Next::Refused),
            "a RST: {:?}",
            next
        );
        prop_assert!(new == old || new.is_over(), "a RST: {:?} to {:?}", old, new);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_tcp_flow_is_established_before_its_backend_has_answered(
        events in vec(events(), 1..40),
        unpinned in any::<bool>(),
    ) {
        let mut flow = Flow::begun(&first_segment(unpinned), flags(unpinned));
        let mut answered = false;
        for event in &events {
            let (before, segment) = (flow, &event.segment);
            let next = flow.advance(true, event);
            check_step(event, next, &before, &flow)?;
            let reply = event.side == Side::Reverse && !segment.is_rst();
            let is_answer = segment.flags & ACK != 0 && (segment.flags & SYN != 0 || {
                let since_syn = |number: u32| number.wrapping_sub(before.shared().syn_seq);
                let sent = since_syn(before.entries[0].next_seq);
                (1..=sent).contains(&since_syn(segment.ack))
            });
            answered |= reply && (is_answer || flow.entries[0].flags != 0);
            prop_assert!(
                answered || !matches!(flow.state(), FlowState::Established | FlowState::Closing),
                "{:?} before the backend answered", flow.state()
            );
            if next == Next::Reselect {
                // The program forgets the flow and records one that the SYN begins.
                flow = Flow::begun(segment, 0);
                answered = false;
            }
        }
    }

    #[test]
    fn whoever_knows_no_number_ends_no_established_flow(
        forged in vec((events(), any::<[u32; 2]>()), 1..20),
        data in 1..1400_u16,
    ) {
        let mut flow = established();
        let shared = flow.shared();
        for (event, [seq, ack]) in &forged {
            // Random numbers; the few that fit by chance are left out, and SYNs have their own test.
            let segment = Segment { seq: *seq, ack: *ack, flags: event.segment.flags & !SYN, ..event.segment };
            let near = |number: u32, known: u32| number.wrapping_sub(known).wrapping_add(300_000) < 600_000;
            if near(*seq, 0) || near(*ack, 0) {
                continue;
            }
            flow.advance(true, &Event { side: event.side, segment });
        }
        let segment = Segment { flags: ACK, seq: 101, ack: 501, payload_len: data };
        flow.advance(true, &Event { side: Side::Forward, segment });
        prop_assert_eq!(flow.shared(), shared, "after forged segments");
    }

    #[test]
    fn a_udp_flow_is_established_by_its_first_reply_and_by_nothing_else(
        events in vec(events(), 1..20),
    ) {
        let mut flow = Flow::begun(&Segment::default(), 0);
        let mut answered = false;
        for event in &events {
            let next = flow.advance(false, event);
            let first_reply = !answered && event.side == Side::Reverse;
            answered |= first_reply;
            prop_assert_eq!(next, if first_reply { Next::Promote } else { Next::Keep });
            let state = if answered { FlowState::Established } else { FlowState::Unanswered };
            prop_assert_eq!(flow.state(), state);
        }
    }
}
