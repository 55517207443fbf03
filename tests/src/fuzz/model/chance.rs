//! Rule 3.9: a half-open flow goes to another backend.

use super::cut::Action;
use super::flow::{Found, shared};
use super::packet::Segment;
use super::tables::Table;
use super::types::{Entry, Side, State, Tuple};
use super::{Ended, Listener, Model, Packet, drop, select};

/// Backends beside the first one.
const CHANCES: u8 = 2;
/// Backends of a ring that are looked at.
const LOOKS: usize = 8;
/// Silence after which a SYN counts as unanswered, in ticks.
const UNANSWERED: u32 = 96;
/// Resets of one backend in a window of 2^7 ticks that are told of.
const BURST: u32 = 8;
/// For how many ticks a backend that refuses is not tried.
const REFUSING: u32 = 954;
/// How far ahead of a packet's tick another CPU's may be.
const AHEAD: u32 = 16;

/// When a backend answered and refused a SYN last; 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// It answered.
    pub answered: u32,
    /// It refused, and has not answered since.
    pub refused: u32,
}

impl Heard {
    const fn is_refusing(self, now: u32) -> bool {
        let is_ahead = self.refused.wrapping_sub(now) <= AHEAD;
        self.refused != 0 && (is_ahead || now.wrapping_sub(self.refused) <= REFUSING)
    }
}

fn has_no_answer(entry: &Entry) -> bool {
    matches!(entry.state, State::Unanswered | State::Refused)
        && entry.answer == 0
        && !entry.unpinned
}

/// Whether nobody has answered, and not too many were asked.
pub(super) fn may_go_on(entry: &Entry) -> bool {
    has_no_answer(entry) && entry.chances < CHANCES
}

fn low(id: u32) -> u16 {
    u16::try_from(id & 0xffff).expect("16 bits")
}

impl Model {
    /// The backend of `entry` has reset an established flow.
    pub(super) fn count_reset(&mut self, packet: &mut Packet<'_>, entry: &Entry) {
        let window = packet.now >> 7;
        let (known, count) = self.resets.entry(entry.backend).or_default();
        *count = if *known == window { *count + 1 } else { 1 };
        *known = window;
        if *count == BURST {
            packet.note("reset_burst");
        }
    }

    pub(super) fn hear_answer(&mut self, entry: &Entry, now: u32) {
        let heard = self.heard.entry(entry.backend).or_default();
        (heard.answered, heard.refused) = (now, 0);
    }

    /// An ICMP error says that the backend whose entry it is cannot be reached.
    pub(super) fn is_withheld(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        entry: &Entry,
    ) -> bool {
        let now = packet.now;
        let client = tuple.other(entry);
        let is_open = tuple.is_tcp() && entry.side == Side::Backend && may_go_on(entry);
        if !is_open || entry.left || self.another(packet, &client, entry).is_none() {
            return false;
        }
        let Some((table, _)) = self.tables.find(tuple) else {
            return false;
        };
        let marked = Entry {
            seen: now,
            refused: true,
            ..*entry
        };
        self.tables.set(table, *tuple, marked);
        true
    }

    /// The backend refuses: `after` is the entry as it is if the client is told.
    pub(super) fn refusal(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        (entry, after): (Entry, Entry),
    ) -> Result<Found, Ended> {
        packet.note("syn_refused");
        self.heard.entry(entry.backend).or_default().refused = packet.now;
        let client = tuple.other(&entry);
        let is_withheld = may_go_on(&after) && self.another(packet, &client, &after).is_some();
        let own = Entry {
            seen: packet.now,
            refused: entry.refused || is_withheld,
            ..entry
        };
        if is_withheld {
            self.tables.set(Table::Lru, *tuple, own);
            return Err(drop("refusal_withheld"));
        }
        let own = shared(&own, &after);
        self.tables.set(Table::Lru, *tuple, own);
        packet.count_change(&entry, own.state);
        if let Some((table, at, other)) = self.tables.other(tuple, &own) {
            self.tables.set(table, at, shared(&other, &after));
        }
        Ok(Found::Entry(own))
    }

    /// The client says again what its backend, silent for so many ticks, has not answered.
    pub(super) fn repeated(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        segment: &Segment,
        own: Entry,
        silent: u32,
    ) -> Result<Found, Ended> {
        let before = self.tables.other(tuple, &own);
        let is_refused = before.is_some_and(|(_, _, it)| it.refused);
        if !has_no_answer(&own) || !(is_refused || silent >= UNANSWERED) {
            return Ok(Found::Entry(own));
        }
        if !is_refused && own.state == State::Unanswered {
            packet.note("syn_unanswered");
        }
        if !may_go_on(&own) {
            return Ok(Found::Entry(own));
        }
        let Some(there) = self.another(packet, tuple, &own) else {
            return Ok(Found::Entry(own));
        };
        if !self.inserts.take(packet.now) {
            return Ok(Found::Entry(own));
        }
        let at = tuple.other(&there);
        if let Some((_, owner)) = self.tables.find(&at) {
            if owner.to == tuple.dst {
                self.tables.remove(Table::Established, &at);
                self.tables.remove(Table::Lru, &at);
            } else {
                self.tables.forget(&at, &owner);
            }
        }
        let replies = Entry {
            refused: false,
            ..there.mirrored(tuple)
        };
        if !self.tables.insert(Table::Lru, at, replies) {
            return Ok(Found::Entry(own));
        }
        let other = self.tables.other(tuple, &own);
        if other.is_some_and(|(_, _, old)| old.state.is_answered() || old.answer != 0) {
            self.tables.remove(Table::Lru, &at);
            return Ok(Found::Entry(own));
        }
        if let Some((table, at, old)) = other {
            let left = Entry {
                state: State::Cut,
                left: true,
                seen: packet.now,
                ..old
            };
            self.tables.set(table, at, left);
        }
        if self.tables.get(Table::Lru, tuple).is_none() {
            self.tables.remove(Table::Lru, &at);
            return self.without_flow(packet, tuple, segment);
        }
        self.tables.set(Table::Lru, *tuple, there);
        packet.note("second_chance");
        if own.color == there.color {
            packet.count_change(&own, there.state);
        } else {
            if own.is_in_flight() && !own.preview {
                packet.counters(&own).moved += 1;
            }
            packet.counters(&there).new_flows += 1;
        }
        Ok(Found::Entry(there))
    }

    /// The client's entry as it is with another backend.
    fn another(&mut self, packet: &mut Packet<'_>, client: &Tuple, entry: &Entry) -> Option<Entry> {
        let key = (client.dst, client.protocol);
        let listener = self.config.listeners.get(&key).copied()?;
        let is_its = listener.removed_until.is_none() && listener.service == entry.service;
        if !is_its || !listener.second_chance {
            return None;
        }
        let fresh = self.fresh_color(listener.service, listener.preview);
        let mut colors = vec![entry.color];
        if fresh != entry.color {
            colors.push(fresh);
        }
        let rings = colors
            .into_iter()
            .flat_map(|color| self.ring(client, &listener, color));
        let all: Vec<(u32, u8)> = rings.collect();
        all.into_iter().find_map(|(id, color)| {
            let there = Entry {
                to: self.config.backends[&id].endpoint,
                side: Side::Client,
                state: State::Unanswered,
                backend: id,
                color,
                chances: entry.chances + 1,
                tried: low(entry.backend),
                ..*entry
            };
            self.is_open(packet, client, entry, &there).then_some(there)
        })
    }

    /// The first backends that a color has for the client.
    fn ring(&self, client: &Tuple, listener: &Listener, color: u8) -> Vec<(u32, u8)> {
        let (start, len) = listener.tables[usize::from(color)];
        if len == 0 {
            return Vec::new();
        }
        let first = self.config.slots[(start + select::slot(client, len)) as usize];
        let ring = listener.rings[usize::from(color)];
        let next = |id: &u32| Some(self.config.backends[id].next[ring]);
        let ids = std::iter::successors(Some(first), next);
        ids.take(LOOKS).map(|id| (id, color)).collect()
    }

    fn is_open(
        &mut self,
        packet: &mut Packet<'_>,
        client: &Tuple,
        entry: &Entry,
        there: &Entry,
    ) -> bool {
        let now = packet.now;
        let id = there.backend;
        let was_tried = id == entry.backend || (entry.chances > 0 && low(id) == entry.tried);
        let heard = self.heard.get(&id).copied().unwrap_or_default();
        if was_tried || there.to.ip() == client.src.ip() || heard.is_refusing(now) {
            return false;
        }
        if self.due(client, there, now) != Action::None || self.is_ejected(id) {
            return false;
        }
        match self.find_or_pair(packet, &client.other(there)) {
            None => true,
            Some((_, owner)) => {
                owner.side == Side::Backend && (owner.to == client.dst || owner.state.is_over())
            }
        }
    }
}
