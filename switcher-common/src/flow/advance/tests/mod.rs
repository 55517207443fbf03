//! Rows for the rules of the state machine.

mod end;
mod handshake;
mod reach;
mod reset;
mod stream;

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
