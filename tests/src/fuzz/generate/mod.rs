//! Sequences: conversations through the data path, disturbed in every way that the rules know of.
//!
//! Random, but with what the tables say in view: a packet that meets nothing tests nothing.

pub mod build;
mod fragments;
mod message;
pub(super) mod mutate;
mod talk;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;

use self::build::{Body, Draft};
use self::talk::{Sender, Talk};
use super::model::cut::{Action, Hold};
use super::model::route::Told;
use super::model::tables::Table;
use super::model::types::{Entry, Side, State, TCP, Tuple, UDP};
use super::model::{Colors, Model};
use super::step::{INTERFACES, Step};
use super::world::{self, Ip, Listener, VARIANTS, at};

/// Conversations at a time.
const TALKS: usize = 48;

/// Makes one step after the other.
pub struct Generator {
    rng: Rng,
    listeners: Vec<Listener>,
    talks: Vec<Talk>,
    ended: Vec<Talk>,
    /// Steps that belong together with the one before.
    pending: Vec<Step>,
}

impl Generator {
    /// A sequence that `seed` determines, together with what the model says in between.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut generator = Self {
            rng: Rng::with_seed(seed),
            listeners: world::listeners(0),
            talks: Vec::new(),
            ended: Vec::new(),
            pending: Vec::new(),
        };
        for _ in 0..TALKS {
            let talk = generator.begin();
            generator.talks.push(talk);
        }
        generator
    }

    /// The next step.
    pub fn next(&mut self, model: &Model) -> Step {
        if let Some(step) = self.pending.pop() {
            return step;
        }
        match self.rng.u16(..2_000) {
            0..4 => Step::Colors((0..world::SERVICES).map(|_| self.colors()).collect()),
            4 => Step::Age(self.rng.u32(1..20_000)),
            155..175 => self.evict(model),
            8..12 => self.plant(model),
            140..143 | 206..215 => self.crowd(model),
            143..145 => Step::Caps([self.cap(), self.cap(), self.cap()]),
            145..155 => Step::Caps([1_000_000; 3]),
            175..180 | 215..220 => {
                self.cut(model, &[Action::Reset, Action::Move, Action::ResetAnswered])
            }
            180..195 => self.cut(model, &[Action::None]),
            220..223 => self.hold(model, &[Hold::Fresh, Hold::All]),
            223..243 => self.hold(model, &[Hold::None]),
            243..247 => self.eject(model, true),
            247..257 => self.eject(model, false),
            195..198 => self.tell(true),
            198..206 => self.tell(false),
            12 if self.rng.u8(..8) == 0 => Step::Apply(self.rng.usize(..VARIANTS)),
            13..140 => self.noise(),
            _ => self.talk(model),
        }
    }

    fn colors(&mut self) -> Colors {
        let active = self.rng.u8(..2);
        let base = if self.rng.bool() {
            active
        } else {
            self.rng.u8(..2)
        };
        let split = [0, 0, 0, 1, 50, 99, 100][self.rng.usize(..7)];
        Colors {
            active,
            base,
            split,
        }
    }

    fn talk(&mut self, model: &Model) -> Step {
        let which = self.rng.usize(..self.talks.len());
        if self.rng.u8(..16) == 0 {
            return self.message(which, model);
        }
        let talk = &mut self.talks[which];
        let (sender, mut draft) = talk.next(&mut self.rng, model);
        let ingress = match sender {
            Sender::Client => talk.ingress,
            Sender::Backend => interface_of(model, draft.src.ip()),
        };
        talk.left -= 1;
        let is_over = talk.left == 0;
        if is_over {
            let next = self.begin();
            let ended = std::mem::replace(&mut self.talks[which], next);
            self.ended.push(ended);
        }
        if self.rng.u8(..16) == 0 {
            make_sum_zero(model, &mut draft);
        }
        self.decorate(&mut draft);
        if self.rng.u8(..24) == 0 {
            return self.in_parts(ingress, &draft);
        }
        let mut frame = draft.frame();
        if self.rng.u8(..12) == 0 {
            mutate::mutate(&mut self.rng, &mut frame);
        }
        if self.rng.u8(..16) == 0 || self.is_generic(model, ingress) {
            draft.leave_unfinished(&mut frame);
        }
        let ingress = if self.rng.u8(..40) == 0 {
            self.interface()
        } else {
            ingress
        };
        Step::Packet { ingress, frame }
    }

    /// Whether it looks right that a checksum is left to hardware.
    fn is_generic(&mut self, model: &Model, ingress: &str) -> bool {
        let interface = model.routes.by_name(ingress);
        let is_generic = interface.is_some_and(|id| model.routes.interfaces[id].told.generic);
        is_generic && self.rng.bool()
    }

    /// A datagram in fragments: in order, out of order, without the first, or late.
    fn in_parts(&mut self, ingress: &'static str, draft: &Draft) -> Step {
        let mut frames = fragments::split(&mut self.rng, draft);
        match self.rng.u8(..8) {
            0 => frames.reverse(),
            1 => drop(frames.remove(0)),
            _ => {}
        }
        let mut steps: Vec<Step> = frames
            .into_iter()
            .map(|frame| Step::Packet { ingress, frame })
            .collect();
        if steps.len() > 1 && self.rng.u8(..8) == 0 {
            let ticks = [28_600, 28_612, 40_000][self.rng.usize(..3)];
            steps.insert(1, Step::Age(ticks));
        }
        steps.reverse();
        let first = steps.pop();
        self.pending.append(&mut steps);
        first.unwrap_or(Step::Age(1))
    }

    fn interface(&mut self) -> &'static str {
        INTERFACES[self.rng.usize(..INTERFACES.len())]
    }

    /// What is unusual, but right.
    fn decorate(&mut self, draft: &mut Draft) {
        let rng = &mut self.rng;
        match rng.u8(..40) {
            0 | 10 if draft.dst.is_ipv6() => draft.extensions = fragments::extensions(rng),
            0 if draft.dst.is_ipv4() => draft.options = vec![1; rng.usize(1..=10) * 4],
            1 => draft.tos = rng.u8(..),
            2 => draft.padding = rng.usize(1..20),
            3 => draft.ttl = rng.u8(..),
            4 => draft.ttl = rng.u8(..3),
            5 | 8 | 9 => draft.dont_fragment = false,
            6 => draft.tags = vec![[7, 0x6007, 0, 0x4000, 8][rng.usize(..5)]],
            7 => draft.tags = vec![rng.u16(..), 7],
            _ => {}
        }
    }

    fn begin(&mut self) -> Talk {
        if self.rng.u8(..4) == 0 && !self.ended.is_empty() {
            // The same ends again: reused ports, or the same client port to another VIP.
            let (known, is_over) = if self.rng.bool() {
                (&self.ended, true)
            } else {
                (&self.talks, false)
            };
            let Talk { tuple, ingress, .. } = known[self.rng.usize(..known.len())];
            let dst = match self.rng.u8(..4) {
                0 | 1 if is_over => tuple.dst,
                0..3 => self.twin(&tuple),
                _ => self.listener(tuple.is_v6(), tuple.protocol),
            };
            return Talk::new(&mut self.rng, Tuple { dst, ..tuple }, ingress);
        }
        let is_v6 = self.rng.bool();
        let protocol = if self.rng.u8(..3) == 0 { UDP } else { TCP };
        let dst = self.listener(is_v6, protocol);
        let (ingress, address) = self.client(if is_v6 { Ip::V6 } else { Ip::V4 });
        let src = SocketAddr::new(address, 1024 + self.rng.u16(..64));
        Talk::new(&mut self.rng, Tuple { src, dst, protocol }, ingress)
    }

    /// Another VIP with an endpoint of the tuple's, so that replies to one client port could be of both.
    fn twin(&mut self, tuple: &Tuple) -> SocketAddr {
        let endpoints = |of: &Listener| of.backends.concat().into_iter().map(|(to, _)| to);
        let is_own = |it: &&Listener| it.vip == tuple.dst && it.protocol == tuple.protocol;
        let own = self.listeners.iter().find(is_own);
        let own: Vec<SocketAddr> = own.map_or_else(Vec::new, |it| endpoints(it).collect());
        let shares = |it: &&Listener| {
            let is_other = it.vip != tuple.dst && it.protocol == tuple.protocol;
            is_other && endpoints(it).any(|to| own.contains(&to))
        };
        let twins: Vec<SocketAddr> = self
            .listeners
            .iter()
            .filter(shares)
            .map(|it| it.vip)
            .collect();
        let which = self.rng.usize(..twins.len().max(1));
        twins.get(which).copied().unwrap_or(tuple.dst)
    }

    fn listener(&mut self, is_v6: bool, protocol: u8) -> SocketAddr {
        loop {
            let listener = &self.listeners[self.rng.usize(..self.listeners.len())];
            let is_kind = listener.vip.is_ipv6() == is_v6 && listener.protocol == protocol;
            let port = listener.vip.port();
            let is_odd = port > 1000 && port != world::NARROW_PORT;
            if is_kind && (!is_odd || self.rng.u8(..3) == 0) {
                return listener.vip;
            }
        }
    }

    fn client(&mut self, ip: Ip) -> (&'static str, IpAddr) {
        let last = self.rng.u8(2..40);
        let rng = &mut self.rng;
        match rng.u8(..100) {
            0..20 => ("c1", at(ip, world::CLIENT, 2)),
            20..30 if ip == Ip::V6 => ("c1", at(ip, world::BEHIND_LINK_LOCAL, last)),
            30..38 => ("c2", at(ip, world::CLIENT2, 2)),
            38..41 => ("c1", at(ip, world::CLIENT, last)),
            41..44 => ("b", at(ip, world::BLUE, 11 + last % 2)),
            44..47 => ("c1", self.foreign(ip)),
            47..49 => ("c1", self.martian(ip)),
            _ => ("c1", at(ip, world::BEHIND, last)),
        }
    }

    fn foreign(&mut self, ip: Ip) -> IpAddr {
        let last = self.rng.u8(1..20);
        match ip {
            Ip::V4 => Ipv4Addr::new(203, 0, 113, last).into(),
            Ip::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, last.into()).into(),
        }
    }

    fn martian(&mut self, ip: Ip) -> IpAddr {
        let which = self.rng.usize(..7);
        let ours = if which == 6 {
            at(
                ip,
                [world::CLIENT, world::CLIENT2, world::BLUE][self.rng.usize(..3)],
                1,
            )
        } else {
            world::vip(ip, self.rng.u8(..world::VIPS))
        };
        match ip {
            Ip::V4 => {
                let all: [IpAddr; 5] = [
                    Ipv4Addr::UNSPECIFIED.into(),
                    Ipv4Addr::LOCALHOST.into(),
                    Ipv4Addr::BROADCAST.into(),
                    Ipv4Addr::new(224, 0, 0, 1).into(),
                    Ipv4Addr::new(240, 1, 2, 3).into(),
                ];
                all.get(which).copied().unwrap_or(ours)
            }
            Ip::V6 => {
                let all: [IpAddr; 4] = [
                    Ipv6Addr::UNSPECIFIED.into(),
                    Ipv6Addr::LOCALHOST.into(),
                    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
                    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5).into(),
                ];
                all.get(which).copied().unwrap_or(ours)
            }
        }
    }

    /// What is none of our business, or looks as if it were.
    fn noise(&mut self) -> Step {
        let ip = if self.rng.bool() { Ip::V4 } else { Ip::V6 };
        let (ingress, mut src) = self.client(ip);
        let mut dst = match self.rng.u8(..5) {
            0 => self.foreign(ip),
            1 => at(ip, world::BLUE, 11),
            _ => world::vip(ip, self.rng.u8(..world::VIPS)),
        };
        if self.rng.u8(..4) == 0 {
            (src, dst) = (at(ip, world::GREEN, 11), src);
        }
        let port =
            |rng: &mut Rng| [80, 81, 443, 444, 1001, 8080, 9443, rng.u16(..)][rng.usize(..8)];
        let (src, dst) = (
            SocketAddr::new(src, port(&mut self.rng)),
            SocketAddr::new(dst, port(&mut self.rng)),
        );
        let payload = vec![self.rng.u8(..); self.rng.usize(..60)];
        let body = match self.rng.u8(..8) {
            0 => Body::Raw {
                protocol: self.rng.u8(..),
                payload,
            },
            1 => Body::Icmp {
                kind: self.rng.u8(..),
                code: self.rng.u8(..4),
                rest: payload,
            },
            2..5 => Body::Udp {
                has_checksum: true,
                payload,
            },
            _ => Body::Tcp {
                flags: self.rng.u8(..),
                seq: self.rng.u32(..),
                ack: self.rng.u32(..),
                options: Vec::new(),
                payload,
            },
        };
        let mut frame = Draft::new(src, dst, body).frame();
        match self.rng.u8(..12) {
            0 => {
                frame = (0..self.rng.usize(14..120))
                    .map(|_| self.rng.u8(..))
                    .collect();
            }
            1..4 => mutate::mutate(&mut self.rng, &mut frame),
            _ => {}
        }
        Step::Packet { ingress, frame }
    }

    fn cap(&mut self) -> u32 {
        [0, 1, 5, 20, 1_000_000][self.rng.usize(..5)]
    }

    /// An interface becomes special, or plain again.
    fn tell(&mut self, is_special: bool) -> Step {
        let name = self.interface();
        let rng = &mut self.rng;
        let vlan = (
            rng.usize(..INTERFACES.len()),
            [0, 7, 7, 7, 0xffff][rng.usize(..5)],
        );
        let told = Told {
            vlan: rng.bool().then_some(vlan),
            master: rng.bool().then(|| rng.usize(..INTERFACES.len())),
            no_redirect: rng.bool(),
            no_transmit: rng.u8(..4) == 0,
            generic: rng.u8(..4) == 0,
        };
        Step::Tell(name, if is_special { told } else { Told::default() })
    }

    /// The backend of some flow, or one of those that have an order.
    fn backend(&mut self, model: &Model, has_order: bool) -> u32 {
        let mut ordered: Vec<u32> = model.cuts.keys().copied().collect();
        ordered.sort_unstable();
        let (_, entry) = self.flow(model, Table::Established);
        match entry {
            Some(entry) if !has_order || ordered.is_empty() => entry.backend,
            _ if ordered.is_empty() => 1,
            _ => ordered[self.rng.usize(..ordered.len())],
        }
    }

    /// An order to cut flows, or the end of one.
    fn cut(&mut self, model: &Model, actions: &[Action]) -> Step {
        let backend = self.backend(model, actions == [Action::None]);
        let action = actions[self.rng.usize(..actions.len())];
        let ago = [0, 0, 0, 1, 5, -5, 1_000, i32::MIN][self.rng.usize(..8)];
        Step::Cut(backend, action, ago)
    }

    /// A pause of the listener of some backend, or the end of one.
    fn hold(&mut self, model: &Model, holds: &[Hold]) -> Step {
        let backend = self.backend(model, true);
        let hold = holds[self.rng.usize(..holds.len())];
        let left = [0, 1, 300, 28_000, 28_612, -1][self.rng.usize(..6)];
        Step::Hold(backend, hold, left)
    }

    /// A backend is ejected, or comes back.
    fn eject(&mut self, model: &Model, is_out: bool) -> Step {
        Step::Eject(self.backend(model, !is_out), is_out)
    }

    /// The hand of the sweep comes to a flow, which may be idle.
    fn crowd(&mut self, model: &Model) -> Step {
        let (at, _) = self.flow(model, Table::Established);
        if self.rng.bool() {
            self.pending.push(Step::Crowd(at));
            return Step::Age(self.rng.u32(1_000..8_000));
        }
        Step::Crowd(at)
    }

    /// The kernel may evict either direction of an unanswered flow at any time.
    fn evict(&mut self, model: &Model) -> Step {
        let (at, entry) = self.flow(model, Table::Lru);
        match entry {
            Some(entry) if self.rng.u8(..4) != 0 => {
                if self.rng.bool() {
                    // Another flow may take its place.
                    let dst = self.twin(&at);
                    let ingress = interface_of(model, at.src.ip());
                    let talk = Talk::new(&mut self.rng, Tuple { dst, ..at }, ingress);
                    let which = self.rng.usize(..self.talks.len());
                    self.talks[which] = talk;
                }
                Step::Evict(at.other(&entry))
            }
            _ => Step::Evict(at),
        }
    }

    /// The flow of some conversation, if it can be in `table`.
    fn flow(&mut self, model: &Model, table: Table) -> (Tuple, Option<Entry>) {
        let mut at = self.talks[0].tuple;
        for _ in 0..TALKS {
            at = self.talks[self.rng.usize(..self.talks.len())].tuple;
            if let Some(entry) = model.tables.get(table, &at) {
                return (at, Some(entry));
            }
        }
        (at, None)
    }

    /// One direction of a flow in any state, or both: what no sequence of packets leads to must not
    /// lead the program astray either.
    fn plant(&mut self, model: &Model) -> Step {
        let talk = &self.talks[self.rng.usize(..self.talks.len())];
        let rng = &mut self.rng;
        let is_fitting = |id: &&u32| {
            let backend = &model.config.backends[*id];
            backend.service != 0 && backend.endpoint.is_ipv6() == talk.tuple.is_v6()
        };
        let mut ids: Vec<u32> = model
            .config
            .backends
            .keys()
            .filter(is_fitting)
            .copied()
            .collect();
        ids.sort_unstable();
        let backend = ids[rng.usize(..ids.len())];
        let to = model.config.backends[&backend].endpoint;
        let states = [
            State::Unanswered,
            State::Answered,
            State::Established,
            State::Closing,
            State::Refused,
            State::Cut,
        ];
        let client = Entry {
            to,
            side: Side::Client,
            state: states[rng.usize(..states.len())],
            syn: rng.u32(..),
            answer: if rng.bool() { 0 } else { rng.u32(..) },
            end: rng.u32(..),
            acked: rng.u32(..),
            seen: rng.u32(..10_000),
            born: rng.u32(10_000..20_000),
            backend,
            service: 1 + rng.u16(..u16::try_from(world::SERVICES).expect("few")),
            color: rng.u8(..2),
            preview: rng.u8(..4) == 0,
            unpinned: rng.u8(..4) == 0,
            fin: if rng.bool() { 0 } else { rng.u32(..) },
            chances: rng.u8(..4),
            tried: u16::try_from(ids[rng.usize(..ids.len())]).expect("the lab has fewer backends"),
            left: rng.u8(..4) == 0,
            refused: rng.u8(..4) == 0,
            alone: rng.bool(),
        };
        let table = if rng.bool() {
            Table::Lru
        } else {
            Table::Established
        };
        if rng.bool() {
            return Step::Plant(table, talk.tuple, client);
        }
        Step::Plant(
            table,
            talk.tuple.other(&client),
            client.mirrored(&talk.tuple),
        )
    }
}

/// Makes the checksum of a UDP datagram zero once it is translated: one in 65 536 is so by chance.
fn make_sum_zero(model: &Model, draft: &mut Draft) {
    let tuple = Tuple {
        src: draft.src,
        dst: draft.dst,
        protocol: UDP,
    };
    if let Some((_, entry)) = model.tables.find(&tuple) {
        let sent = tuple.translated(&entry);
        draft.make_sum_zero(sent.src, sent.dst);
    }
}

/// Where packets of `address` come in.
fn interface_of(model: &Model, address: IpAddr) -> &'static str {
    model
        .routes
        .way_back(address)
        .map_or(INTERFACES[2], |id| INTERFACES[id])
}
