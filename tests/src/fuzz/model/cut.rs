//! Rule 3.1: flows that are cut, and the RST that answers their packets.

use super::chance::may_go_on;
use super::checksum;
use super::packet::Segment;
use super::rewrite::{Draft, swap};
use super::send::Sent;
use super::tables::Table;
use super::types::{Entry, Side, State, Tuple, Verdict};
use super::{Ended, Model, Packet, drop};

/// An order for the flows of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// From this tick on, for the flows that began until then.
    pub deadline: u32,
    /// What it is for.
    pub action: Action,
    /// What a pause of its listener drops.
    pub hold: Hold,
    /// Tick at which the pause ends.
    pub hold_until: u32,
    /// No flow begins here.
    pub ejected: bool,
}

/// See [`Order`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Nothing.
    #[default]
    None,
    /// What begins.
    Fresh,
    /// Everything.
    All,
}

/// Longest pause: 30 s in ticks.
const LONGEST_HOLD: u32 = 28_611;

/// See [`Order`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// TCP and UDP.
    Reset,
    /// UDP alone.
    Move,
    /// As `Reset`, but for TCP flows that may go elsewhere.
    ResetAnswered,
}

/// What becomes of the packet of a cut flow.
pub(super) enum Cut {
    /// It begins a flow of its own.
    Afresh,
    /// It is translated, and changes nothing.
    Translated,
    /// It is answered.
    Answered,
}

/// Whether `then` is now or before, half of the clock's range back at most.
const fn is_past(then: u32, now: u32) -> bool {
    now.wrapping_sub(then) <= u32::MAX / 2
}

impl Model {
    pub(super) fn is_cut(&self, tuple: &Tuple, entry: &Entry, now: u32) -> bool {
        let action = self.due(tuple, entry, now);
        let goes_on = action == Action::ResetAnswered && tuple.is_tcp() && may_go_on(entry);
        entry.state == State::Cut || entry.left || (action != Action::None && !goes_on)
    }

    /// The order that has come for the flow, if it is meant.
    pub(super) fn due(&self, tuple: &Tuple, entry: &Entry, now: u32) -> Action {
        let order = self.cuts.get(&entry.backend).copied().unwrap_or_default();
        let is_due = is_past(order.deadline, now) && is_past(entry.born, order.deadline);
        match order.action {
            Action::Move if tuple.is_tcp() => Action::None,
            action if is_due && !entry.preview => action,
            _ => Action::None,
        }
    }

    /// Whether a dead backend answers a flow that is not cut.
    pub(super) fn answers_too_late(
        &self,
        tuple: &Tuple,
        segment: &Segment,
        entry: &Entry,
        now: u32,
    ) -> bool {
        let is_answer = tuple.is_tcp() && entry.side == Side::Backend && !segment.rst;
        is_answer && self.due(tuple, entry, now) == Action::ResetAnswered
    }

    /// Whether no flow begins at a backend.
    pub(super) fn is_ejected(&self, backend: u32) -> bool {
        self.cuts.get(&backend).is_some_and(|order| order.ejected)
    }

    /// Rule 3.0.
    pub(super) fn check_hold(&self, entry: &Entry, begins: bool, now: u32) -> Result<(), Ended> {
        let order = self.cuts.get(&entry.backend).copied().unwrap_or_default();
        let is_meant = match order.hold {
            Hold::None => false,
            Hold::Fresh => begins,
            Hold::All => true,
        };
        let left = order.hold_until.wrapping_sub(now);
        if is_meant && !entry.preview && (1..=LONGEST_HOLD).contains(&left) {
            return Err(drop("paused"));
        }
        Ok(())
    }

    pub(super) fn packet_of_cut(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        segment: &Segment,
        (table, entry): (Table, Entry),
    ) -> Result<Cut, Ended> {
        let is_client = entry.side == Side::Client;
        let begins = !tuple.is_tcp() || segment.is_initial_syn();
        if is_client && begins {
            if tuple.is_tcp() {
                packet.note("tuple_reused");
                packet.count_forgotten(&entry);
            } else {
                packet.note("flow_moved");
                if entry.is_in_flight() {
                    packet.counters(&entry).moved += 1;
                }
            }
            self.tables.forget(tuple, &entry);
            return Ok(Cut::Afresh);
        }
        if !tuple.is_tcp() {
            return Ok(Cut::Translated);
        }
        self.mark(packet, tuple, table, &entry);
        if segment.rst {
            return Err(drop(if entry.left {
                "late_answer"
            } else {
                "flow_cut"
            }));
        }
        Ok(Cut::Answered)
    }

    fn mark(&mut self, packet: &mut Packet<'_>, tuple: &Tuple, table: Table, entry: &Entry) {
        let own = Entry {
            state: State::Cut,
            seen: packet.now,
            ..*entry
        };
        if entry.state != State::Cut {
            if entry.is_in_flight() {
                packet.counters(entry).resets += 1;
            }
            if let Some((other_table, at, other)) = self.tables.other(tuple, entry) {
                self.tables
                    .set(other_table, at, super::flow::shared(&other, &own));
            }
        }
        self.tables.set(table, *tuple, own);
        if table == Table::Established {
            self.close(packet, tuple, &own);
        }
    }
}

/// The RST that answers a segment whose TCP header is at `at`; its checksum is left to hardware where
/// the segment's was.
pub(super) fn reset(
    packet: &Packet<'_>,
    at: usize,
    segment: &Segment,
    is_unfinished: bool,
) -> Sent {
    let ip = &packet.ip;
    let mut draft = Draft::of(&packet.frame[..at + 20]);
    swap(&mut draft.frame, 0..6, 6..12);
    draft.swap_addresses(ip);
    draft.make_whole(ip);
    draft.set_own_lengths(ip);
    let (seq, ack, flags) = if segment.ack {
        (segment.ack_number, 0, 0x04)
    } else {
        (0, segment.end(), 0x14)
    };
    let tcp = &mut draft.frame[at..];
    swap(tcp, 0..2, 2..4);
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12..20].copy_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    let covered = draft.transport_cover(ip, at, super::types::TCP);
    let check = if is_unfinished {
        // Of the pseudo header alone, and not inverted.
        !checksum::of(&covered[..covered.len() - 20])
    } else {
        checksum::of(&covered)
    };
    draft.frame[at + 16..at + 18].copy_from_slice(&check.to_be_bytes());
    Sent {
        verdict: Verdict::Tx,
        reason: "reset_sent",
        frame: draft.frame,
    }
}
