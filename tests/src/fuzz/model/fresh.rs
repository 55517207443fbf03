//! Rules 3.5 to 3.7: packets of which the tables know no flow, and flows that lack an entry.

use std::net::{IpAddr, SocketAddr};

use super::flow::Found;
use super::packet::Segment;
use super::route::Route;
use super::tables::Table;
use super::types::{Entry, Side, State, Tuple};
use super::{Ended, Listener, Model, Packet, drop, pass, select};

/// Backends that are tried for a free reply tuple.
const TRIES: usize = 4;

impl Model {
    /// Begins a flow, or finds whose reply it is.
    pub(super) fn without_flow(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        segment: &Segment,
    ) -> Result<Found, Ended> {
        let key = (tuple.dst, tuple.protocol);
        match self.config.listeners.get(&key).copied() {
            Some(listener) => match listener.removed_until {
                Some(until) if has_passed(until, packet.now) => {
                    self.stray_reply(packet, tuple, segment)
                }
                Some(_) => Err(drop("listener_removed")),
                None => self
                    .select(packet, tuple, segment, &listener)
                    .map(Found::Entry),
            },
            None => self.stray_reply(packet, tuple, segment),
        }
    }

    fn select(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        segment: &Segment,
        listener: &Listener,
    ) -> Result<Entry, Ended> {
        packet.check_ttl()?;
        if self.is_martian(tuple.src.ip()) {
            return Err(drop("martian_source"));
        }
        let begins = !tuple.is_tcp() || segment.is_initial_syn();
        let colors = self.colors[usize::from(listener.service)];
        let color = if listener.preview {
            self.fresh_color(listener.service, true)
        } else if begins {
            colors.active ^ u8::from(select::share(tuple.src.ip()) < colors.split)
        } else {
            colors.base
        };
        let entry = Entry {
            to: tuple.dst,
            side: Side::Client,
            state: State::Unanswered,
            syn: segment.seq,
            answer: 0,
            end: segment.end(),
            acked: segment.ack_number,
            seen: packet.now,
            born: packet.now,
            backend: 0,
            service: listener.service,
            color,
            preview: listener.preview,
            unpinned: !begins,
            fin: if segment.fin { segment.end() } else { 0 },
            chances: 0,
            tried: 0,
            left: false,
            refused: false,
            alone: false,
        };
        let entry = self.assign(packet, tuple, entry, listener)?;
        self.check_hold(&entry, begins, packet.now)?;
        if !begins {
            packet.note("unpinned");
            if segment.rst {
                return Ok(entry);
            }
        }
        self.record(packet, tuple, &entry)?;
        Ok(entry)
    }

    /// Rule 3.5: no host that a reply could go to, or one of our own addresses.
    pub(super) fn is_martian(&self, address: IpAddr) -> bool {
        let is_nobody = match address {
            IpAddr::V4(it) => matches!(it.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(it) => it.is_unspecified() || it.is_loopback() || it.is_multicast(),
        };
        is_nobody || self.is_vip(address) || self.routes.own.contains(&address)
    }

    /// The slot's backend, or one further along its ring.
    fn assign(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        mut entry: Entry,
        listener: &Listener,
    ) -> Result<Entry, Ended> {
        let color = usize::from(entry.color);
        let (start, len) = listener.tables[color];
        if len == 0 {
            return Err(drop("no_backend"));
        }
        let first = self.config.slots[(start + select::slot(tuple, len)) as usize];
        let mut id = first;
        let mut reason = "source_is_backend";
        for tried in 0..=TRIES {
            let is_last = tried == TRIES;
            if is_last && !self.is_ejected(first) {
                break;
            }
            if is_last {
                id = first;
            }
            let backend = self.config.backends[&id];
            entry.backend = id;
            entry.to = backend.endpoint;
            if (is_last || !self.is_ejected(id)) && entry.to.ip() != tuple.src.ip() {
                entry.alone = self.config.exclusive.contains(&id);
                if entry.alone || self.claim(packet, tuple, &entry) {
                    return Ok(entry);
                }
                reason = "reply_tuple_taken";
            }
            id = backend.next[listener.rings[color]];
        }
        Err(drop(reason))
    }

    /// Whether the flow's replies can be told from those of every other; what is in the way and over
    /// is forgotten.
    fn claim(&mut self, packet: &mut Packet<'_>, tuple: &Tuple, entry: &Entry) -> bool {
        let at = tuple.other(entry);
        let Some((_, owner)) = self.find_or_pair(packet, &at) else {
            return true;
        };
        let is_leftover = owner.to == tuple.dst || owner.state.is_over();
        if owner.side == Side::Client || !is_leftover {
            return false;
        }
        self.tables.forget(&at, &owner);
        true
    }

    fn record(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        entry: &Entry,
    ) -> Result<(), Ended> {
        if !self.inserts.take(packet.now) {
            return Err(drop("insert_rate_exceeded"));
        }
        self.tables.insert(Table::Lru, *tuple, *entry);
        if !entry.may_be_alone() {
            let at = tuple.other(entry);
            self.tables.insert(Table::Lru, at, entry.mirrored(tuple));
        }
        let counters = packet.counters(entry);
        counters.new_flows += 1;
        counters.unpinned += u64::from(entry.unpinned);
        Ok(())
    }

    /// Rule 3.6.
    fn stray_reply(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        segment: &Segment,
    ) -> Result<Found, Ended> {
        let key = (tuple.src, tuple.protocol);
        let begins = tuple.is_tcp() && segment.is_initial_syn();
        if !begins && let Some(again) = self.pair(packet, tuple) {
            return match self.tables.find(tuple) {
                Some(_) => self.flow(packet, tuple, segment),
                None => Ok(Found::Entry(again)),
            };
        }
        let Some(owner) = self.config.endpoints.get(&key).copied() else {
            return Err(pass("not_ours"));
        };
        let (src, dst) = (tuple.src.ip(), tuple.dst.ip());
        let way = self.routes.look_up(packet.ingress, src, dst, 0);
        if begins || matches!(way, Route::NeedsStack | Route::ForwardingOff) {
            return Err(pass("not_ours"));
        }
        let Some((vip, backend)) = owner else {
            return Err(drop("unexpected_reply"));
        };
        if !self.comes_by_its_route(packet, tuple) {
            return Err(drop("unexpected_reply"));
        }
        packet.check_ttl()?;
        let of = self.config.backends[&backend];
        let entry = Entry {
            to: vip,
            side: Side::Backend,
            state: State::Unanswered,
            syn: 0,
            answer: 0,
            end: segment.end(),
            acked: segment.ack_number,
            seen: packet.now,
            born: packet.now,
            backend,
            service: of.service,
            color: of.color,
            preview: false,
            unpinned: true,
            fin: if segment.fin { segment.end() } else { 0 },
            chances: 0,
            tried: 0,
            left: false,
            refused: false,
            alone: false,
        };
        self.check_hold(&entry, false, packet.now)?;
        if self.tables.find(&tuple.other(&entry)).is_some() {
            return Err(drop("reply_tuple_taken"));
        }
        if segment.is_syn_ack() {
            return Err(drop("unexpected_reply"));
        }
        if !segment.rst {
            self.record(packet, tuple, &entry)?;
        }
        packet.note("reply_repinned");
        Ok(Found::Entry(entry))
    }

    /// The VIPs and ports of those who alone use an endpoint, or did before the newest edition.
    fn owners(&self, endpoint: SocketAddr, protocol: u8) -> Vec<SocketAddr> {
        let owners = self.config.owners.get(&(endpoint, protocol));
        owners.cloned().unwrap_or_default()
    }

    /// Makes the entry of the replies for a flow that has none.
    pub(super) fn pair(&mut self, packet: &mut Packet<'_>, reply: &Tuple) -> Option<Entry> {
        let clients = self.owners(reply.src, reply.protocol).into_iter();
        let mut clients = clients.map(|vip| Tuple {
            src: reply.dst,
            dst: vip,
            protocol: reply.protocol,
        });
        let (at, table, client) = clients.find_map(|at| {
            let (table, client) = self.tables.find(&at)?;
            let is_its = client.side == Side::Client && client.to == reply.src;
            is_its.then_some((at, table, client))
        })?;
        let again = client.mirrored(&at);
        if self.tables.insert(table, *reply, again) && !client.may_be_alone() {
            packet.note("direction_restored");
        }
        Some(again)
    }

    /// The entry of a reply, which is made before if a flow lacks it.
    pub(super) fn find_or_pair(
        &mut self,
        packet: &mut Packet<'_>,
        reply: &Tuple,
    ) -> Option<(Table, Entry)> {
        let found = self.tables.find(reply);
        if found.is_none() && self.pair(packet, reply).is_some() {
            return self.tables.find(reply);
        }
        found
    }

    /// Takes the entry of a reply in the LRU away if it is an older flow's, and makes that of the one that has
    /// begun alone since.
    pub(super) fn is_older(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        entry: &Entry,
    ) -> bool {
        let client = self.tables.find(&tuple.other(entry));
        let is_older = client.is_some_and(|(_, client)| {
            let is_its = client.side == Side::Client && client.to == tuple.src;
            is_its && client.succeeds(entry)
        });
        if is_older {
            self.tables.remove(Table::Lru, tuple);
        }
        is_older && self.pair(packet, tuple).is_some()
    }
}

/// Whether the tick `then` has come: ticks wrap, and half of them lie ahead.
const fn has_passed(then: u32, now: u32) -> bool {
    now.wrapping_sub(then) < 1 << 31
}
