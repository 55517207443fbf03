//! Section 3: the flow of a packet, followed, or begun.

use super::cut::Cut;
use super::packet::Segment;
use super::state::{Fate, follow};
use super::tables::Table;
use super::types::{Entry, Side, State, Tuple};
use super::{Ended, Model, Packet, drop};

/// What is done with a packet that has a flow.
pub(super) enum Found {
    /// It is translated.
    Entry(Entry),
    /// Its flow is cut: it is answered.
    Cut,
}

impl Model {
    /// What the packet is translated by, or answered for.
    pub(super) fn flow(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        segment: &Segment,
    ) -> Result<Found, Ended> {
        let Some((table, entry)) = self.tables.find(tuple) else {
            return self.without_flow(packet, tuple, segment);
        };
        let is_young_reply = table == Table::Lru && entry.side == Side::Backend;
        if is_young_reply && self.is_older(packet, tuple, &entry) {
            return self.flow(packet, tuple, segment);
        }
        self.check_hold(&entry, false, packet.now)?;
        if self.is_cut(tuple, &entry, packet.now) {
            return match self.packet_of_cut(packet, tuple, segment, (table, entry))? {
                Cut::Afresh => self.without_flow(packet, tuple, segment),
                Cut::Answered => Ok(Found::Cut),
                Cut::Translated => packet.check_ttl().map(|()| Found::Entry(entry)),
            };
        }
        if self.answers_too_late(tuple, segment, &entry, packet.now) {
            return Ok(Found::Cut);
        }
        packet.check_ttl()?;
        self.follow(packet, tuple, segment, (table, entry))
    }

    fn follow(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        segment: &Segment,
        (table, entry): (Table, Entry),
    ) -> Result<Found, Ended> {
        if tuple.is_tcp() && table == Table::Lru && entry.side == Side::Backend {
            let client = self.tables.find(&tuple.other(&entry));
            if client.is_some_and(|(_, client)| !entry.belongs_to(tuple, &client)) {
                return Err(drop("reply_tuple_taken"));
            }
        }
        let other = self.tables.other(tuple, &entry);
        let reverse = other.as_ref().map(|(_, _, other)| other);
        let (after, fate) = follow(&entry, tuple.is_tcp(), segment, reverse);
        let proves_itself = match fate {
            Fate::BegunAnew | Fate::Refused => false,
            Fate::Established => entry.side == Side::Client,
            _ => true,
        };
        if !proves_itself && !self.comes_by_its_route(packet, tuple) {
            packet.note("reply_unverified");
            let own = Entry {
                seen: packet.now,
                ..entry
            };
            self.tables.set(table, *tuple, own);
            return Ok(Found::Entry(own));
        }
        match fate {
            Fate::Refused if table == Table::Lru => {
                return self.refusal(packet, tuple, (entry, after));
            }
            Fate::Repeated => packet.note("syn_retransmit"),
            Fate::Anew => {
                packet.note("tuple_reused");
                packet.count_forgotten(&entry);
                self.tables.forget(tuple, &entry);
                return self.without_flow(packet, tuple, segment);
            }
            Fate::BegunAnew if !self.takes_fresh(&entry) => {
                packet.count_forgotten(&entry);
                self.tables.forget(tuple, &entry);
                return Err(drop("reopened_on_old_color"));
            }
            Fate::Restored => packet.note("flow_restored"),
            Fate::Changed if after.state == State::Answered => self.hear_answer(&after, packet.now),
            Fate::Changed if after.state == State::Closing && segment.rst => {
                if entry.side == Side::Backend {
                    self.count_reset(packet, &entry);
                }
            }
            Fate::Same | Fate::Changed | Fate::Established | Fate::BegunAnew | Fate::Refused => {}
        }
        let own = Entry {
            seen: packet.now,
            end: after.end,
            acked: after.acked,
            fin: after.fin,
            ..shared(&entry, &after)
        };
        self.tables.set(table, *tuple, own);
        packet.count_change(&entry, own.state);
        if !matches!(fate, Fate::Same | Fate::Repeated)
            && let Some((other_table, at, other)) = other
        {
            let mut other = shared(&other, &after);
            if fate == Fate::BegunAnew {
                (other.end, other.acked, other.fin) = (segment.ack_number, 0, 0);
            }
            self.tables.set(other_table, at, other);
        }
        let is_due = matches!(fate, Fate::Established | Fate::Restored) || entry.seen != packet.now;
        match (table, own.state) {
            (Table::Lru, State::Established) if is_due => self.establish(packet, tuple, &own),
            (Table::Lru, _) if own.side == Side::Client => self.mend(packet, tuple, &own),
            (Table::Established, State::Closing) => self.close(packet, tuple, &own),
            _ => {}
        }
        if fate == Fate::Repeated && table == Table::Lru {
            let silent = packet.now.wrapping_sub(entry.seen);
            let silent = if silent < 1 << 31 { silent } else { 0 };
            return self.repeated(packet, tuple, segment, own, silent);
        }
        Ok(Found::Entry(own))
    }

    /// Moves a flow to the established table, both directions, if there is room.
    fn establish(&mut self, packet: &mut Packet<'_>, tuple: &Tuple, own: &Entry) {
        if self.place_is_taken(packet, tuple, own) {
            return;
        }
        let is_new = self.move_to(Table::Established, tuple, own);
        packet.note(if is_new {
            "flow_established"
        } else {
            "established_table_full"
        });
        let client = match own.side {
            Side::Client => *tuple,
            Side::Backend => tuple.other(own),
        };
        let ring = &mut self.rings[usize::from(tuple.is_v6())];
        let established = is_new.then_some(client);
        let (notes, swept) = ring.sweep(&mut self.tables, established, &self.idle, packet.now);
        packet.notes.extend(notes);
        for entry in &swept {
            packet.count_forgotten(entry);
        }
    }

    /// Moves a flow that seems over to the LRU.
    pub(super) fn close(&mut self, packet: &mut Packet<'_>, tuple: &Tuple, own: &Entry) {
        if !self.place_is_taken(packet, tuple, own) && self.move_to(Table::Lru, tuple, own) {
            packet.note("flow_closed");
        }
    }

    /// Makes the entry for the replies again.
    fn mend(&mut self, packet: &mut Packet<'_>, tuple: &Tuple, own: &Entry) {
        let at = tuple.other(own);
        let is_left_over = |(_, it): (Table, Entry)| it.to == tuple.dst && own.succeeds(&it);
        if self.tables.find(&at).is_some_and(is_left_over) {
            self.tables.remove(Table::Established, &at);
            self.tables.remove(Table::Lru, &at);
        }
        if !self.place_is_taken(packet, tuple, own) && self.tables.find(&at).is_none() {
            self.tables.insert(Table::Lru, at, own.mirrored(tuple));
            if !own.may_be_alone() {
                packet.note("direction_restored");
            }
        }
    }

    /// Whether another flow's entry lies where that of the flow's other direction belongs.
    fn place_is_taken(&self, packet: &mut Packet<'_>, tuple: &Tuple, own: &Entry) -> bool {
        let in_place = self.tables.find(&tuple.other(own));
        let is_taken = in_place.is_some_and(|(_, it)| !own.belongs_to(tuple, &it));
        if is_taken {
            packet.note("direction_taken");
        }
        is_taken
    }

    /// Both entries into a table, and out of the other one. Where there is one already, it stays.
    fn move_to(&mut self, table: Table, tuple: &Tuple, own: &Entry) -> bool {
        let mut mirror = own.mirrored(tuple);
        let at = tuple.other(own);
        if let Some((_, _, other)) = self.tables.other(tuple, own) {
            mirror.end = other.end;
            mirror.acked = other.acked;
            mirror.fin = other.fin;
            mirror.seen = other.seen;
        }
        if !self.is_in(table, *tuple, *own) {
            return false;
        }
        if !self.is_in(table, at, mirror) {
            self.tables.remove(table, tuple);
            return false;
        }
        let from = match table {
            Table::Lru => Table::Established,
            Table::Established => Table::Lru,
        };
        self.tables.remove(from, tuple);
        self.tables.remove(from, &at);
        true
    }

    fn is_in(&mut self, table: Table, tuple: Tuple, entry: Entry) -> bool {
        self.tables.get(table, &tuple).is_some() || self.tables.insert(table, tuple, entry)
    }

    /// Whether the packet came in by what leads back to its source. Where the kernel
    /// forwards nothing it does not say, and the packet counts as if it did.
    pub(super) fn comes_by_its_route(&self, packet: &Packet<'_>, tuple: &Tuple) -> bool {
        use super::route::Route;
        let (from, to) = (tuple.dst.ip(), tuple.src.ip());
        match self.routes.look_up(packet.ingress, from, to, 0) {
            Route::ForwardingOff => true,
            Route::Next { .. } | Route::NoNeighbour => {
                let tags = &packet.link.tags;
                self.routes.is_way_back(packet.ingress, to, tags)
            }
            Route::TooBig(_) | Route::Refused | Route::NeedsStack => false,
        }
    }

    pub(super) fn fresh_color(&self, service: u16, preview: bool) -> u8 {
        self.colors[usize::from(service)].active ^ u8::from(preview)
    }

    fn takes_fresh(&self, entry: &Entry) -> bool {
        let is_shared = self.colors[usize::from(entry.service)].split > 0 && !entry.preview;
        is_shared || self.fresh_color(entry.service, entry.preview) == entry.color
    }
}

/// `entry` with what both directions hold alike, as `after` has it.
pub(super) fn shared(entry: &Entry, after: &Entry) -> Entry {
    Entry {
        state: after.state,
        syn: after.syn,
        answer: after.answer,
        ..*entry
    }
}
