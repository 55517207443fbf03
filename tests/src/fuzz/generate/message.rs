//! ICMP messages: errors about a conversation's packets, as somebody on their way sends them, and
//! echo requests.

use std::net::{IpAddr, SocketAddr};

use super::build::{Body, Draft};
use super::{Generator, interface_of, mutate};
use crate::fuzz::model::Model;
use crate::fuzz::model::types::Tuple;
use crate::fuzz::step::Step;
use crate::fuzz::world::{self, Ip, at};

impl Generator {
    /// A message that has to do with conversation `which`, more or less.
    pub(super) fn message(&mut self, which: usize, model: &Model) -> Step {
        let tuple = self.talks[which].tuple;
        let flow = model.tables.find(&tuple);
        let (ingress, mut draft) = match flow {
            Some((_, entry)) if self.rng.u8(..4) != 0 => {
                if self.rng.bool() {
                    // About a packet on its way to the backend: to the client, from anywhere there.
                    let about = tuple.translated(&entry);
                    let ingress = interface_of(model, entry.to.ip());
                    (ingress, self.error(which, about))
                } else {
                    // About a reply: to the VIP, from a router before the client.
                    (self.talks[which].ingress, self.error(which, tuple.turned()))
                }
            }
            _ => (self.talks[which].ingress, self.echo(tuple)),
        };
        self.decorate(&mut draft);
        let mut frame = draft.frame();
        if self.rng.u8(..6) == 0 {
            mutate::mutate(&mut self.rng, &mut frame);
        }
        Step::Packet { ingress, frame }
    }

    /// An error that quotes a packet of `about`.
    fn error(&mut self, which: usize, about: Tuple) -> Draft {
        let quoted = self.quoted(which, about);
        let ip = if about.is_v6() { Ip::V6 } else { Ip::V4 };
        let rng = &mut self.rng;
        let kinds: &[u8] = match ip {
            Ip::V4 => &[3, 3, 3, 11, 12, 4, 5],
            Ip::V6 => &[1, 2, 2, 3, 4, 5, 137],
        };
        let kind = kinds[rng.usize(..kinds.len())];
        let rest = [&[0, 0, rng.u8(..8), rng.u8(..)], &quoted[..]].concat();
        let from = match rng.u8(..4) {
            0 => about.dst.ip(),
            1 => at(ip, world::BLUE, 11),
            _ => self.foreign(ip),
        };
        let to = match self.rng.u8(..16) {
            0 => about.dst.ip(),
            _ => about.src.ip(),
        };
        let body = Body::Icmp {
            kind,
            code: self.rng.u8(..5),
            rest,
        };
        Draft::new(SocketAddr::new(from, 0), SocketAddr::new(to, 0), body)
    }

    /// The beginning of a packet of `about`.
    fn quoted(&mut self, which: usize, about: Tuple) -> Vec<u8> {
        let body = self.talks[which].quoted_body(&mut self.rng);
        let mut draft = Draft::new(about.src, about.dst, body);
        draft.ttl = self.rng.u8(..4);
        if self.rng.u8(..8) == 0 && about.dst.is_ipv4() {
            draft.options = vec![1; 8];
        }
        let mut packet = draft.packet();
        if self.rng.u8(..8) == 0 {
            let at = self.rng.usize(..packet.len().min(64));
            packet[at] ^= 1 << self.rng.u8(..8);
        }
        let headers = if about.is_v6() { 40 } else { 20 };
        let len = match self.rng.u8(..4) {
            // What RFC 792 asks for, and next to that.
            0 => headers + self.rng.usize(7..10),
            // With and without TCP's checksum.
            1 => headers + self.rng.usize(16..20),
            _ => packet.len(),
        };
        packet.truncate(len);
        packet
    }

    /// An echo request to a VIP, or another message.
    fn echo(&mut self, tuple: Tuple) -> Draft {
        let is_v4 = tuple.dst.is_ipv4();
        let kind = match self.rng.u8(..8) {
            0 => self.rng.u8(..),
            _ if is_v4 => 8,
            _ => 128,
        };
        let ip = if is_v4 { Ip::V4 } else { Ip::V6 };
        let src: IpAddr = match self.rng.u8(..8) {
            0 => self.martian(ip),
            _ => tuple.src.ip(),
        };
        let body = Body::Icmp {
            kind,
            code: u8::from(self.rng.u8(..8) == 0),
            rest: (0..self.rng.usize(..60)).map(|_| self.rng.u8(..)).collect(),
        };
        Draft::new(SocketAddr::new(src, 0), tuple.dst, body)
    }
}
