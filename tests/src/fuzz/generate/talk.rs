//! A client and a backend: what one of them sends next, given what the tables say of their flow.

use std::net::SocketAddr;

use fastrand::Rng;

use super::build::{ACK, Body, Draft, FIN, PSH, RST, SYN};
use crate::fuzz::model::Model;
use crate::fuzz::model::types::{Entry, State, Tuple};
use crate::fuzz::world;

/// A conversation.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    /// The client's packets, as they come in.
    pub(super) tuple: Tuple,
    /// By which interface they do.
    pub(super) ingress: &'static str,
    /// Next sequence numbers of client and backend.
    next: [u32; 2],
    /// Number of the newest SYN.
    syn: u32,
    /// Where its packets went last: known for a while after the flow is gone.
    backend: Option<SocketAddr>,
    /// Where they went before that.
    former: Option<SocketAddr>,
    /// Packets until it is over.
    pub(super) left: u32,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Backend,
}

/// A segment's numbers and flags, before it has ends.
struct Say {
    sender: Sender,
    flags: u8,
    seq: u32,
    ack: u32,
    payload: usize,
}

impl Talk {
    pub(super) fn new(rng: &mut Rng, tuple: Tuple, ingress: &'static str) -> Self {
        let isn = rng.u32(..);
        Self {
            tuple,
            ingress,
            next: [isn.wrapping_add(1), rng.u32(..)],
            syn: isn,
            backend: None,
            former: None,
            left: rng.u32(4..40),
        }
    }

    /// The next packet; `None` when nobody has anything to send.
    pub(super) fn next(&mut self, rng: &mut Rng, model: &Model) -> (Sender, Draft) {
        let flow = model.tables.find(&self.tuple).map(|(_, entry)| entry);
        if let Some(entry) = flow
            && self.backend != Some(entry.to)
        {
            self.former = self.backend;
            self.backend = Some(entry.to);
        }
        let is_tcp = self.tuple.is_tcp();
        let mut say = if is_tcp {
            self.segment(rng, flow.as_ref())
        } else {
            Self::datagram(rng, flow.as_ref())
        };
        if self.backend.is_none() {
            say.sender = Sender::Client;
        }
        let former = self.former.filter(|_| rng.u8(..4) == 0);
        let backend = former.or(self.backend).unwrap_or(self.tuple.dst);
        let (src, dst) = match say.sender {
            Sender::Client => (self.tuple.src, self.tuple.dst),
            Sender::Backend => (backend, self.tuple.src),
        };
        let is_narrow = self.tuple.dst.port() == world::NARROW_PORT && rng.bool();
        let payload = if is_narrow {
            rng.usize(500..1_400)
        } else {
            say.payload
        };
        let payload = vec![rng.u8(..); payload];
        let body = if is_tcp {
            let options = if say.flags & SYN == 0 { 0 } else { 4 };
            Body::Tcp {
                flags: say.flags,
                seq: say.seq,
                ack: say.ack,
                options: vec![1; options],
                payload,
            }
        } else {
            let has_checksum = rng.u8(..8) != 0;
            Body::Udp {
                has_checksum,
                payload,
            }
        };
        let mut draft = Draft::new(src, dst, body);
        draft.dont_fragment = !is_narrow || rng.u8(..4) != 0;
        (say.sender, draft)
    }

    /// Something that one of the two may have sent.
    pub(super) fn quoted_body(&self, rng: &mut Rng) -> Body {
        let is_narrow = self.tuple.dst.port() == world::NARROW_PORT;
        let len = if is_narrow {
            rng.usize(500..1_400)
        } else {
            rng.usize(..200)
        };
        let payload = vec![rng.u8(..); len];
        if self.tuple.is_tcp() {
            return Body::Tcp {
                flags: PSH | ACK,
                seq: self.next[0],
                ack: self.next[1],
                options: Vec::new(),
                payload,
            };
        }
        let has_checksum = rng.u8(..4) != 0;
        Body::Udp {
            has_checksum,
            payload,
        }
    }

    fn datagram(rng: &mut Rng, flow: Option<&Entry>) -> Say {
        let sender = match flow {
            None if rng.u8(..8) != 0 => Sender::Client,
            Some(_) if rng.bool() => Sender::Client,
            _ => Sender::Backend,
        };
        Say {
            sender,
            flags: 0,
            seq: 0,
            ack: 0,
            payload: length(rng),
        }
    }

    fn segment(&mut self, rng: &mut Rng, flow: Option<&Entry>) -> Say {
        let roll = rng.u8(..100);
        match flow.map(|it| it.state) {
            None => match roll {
                0..70 => self.syn(rng, rng.clone().bool()),
                70..85 => self.data(rng, Sender::Client),
                85..93 => self.data(rng, Sender::Backend),
                _ => self.reset(rng),
            },
            Some(State::Unanswered) => match roll {
                0..48 => self.answer(rng),
                48..70 => self.syn(rng, false),
                70..78 => self.syn(rng, true),
                78..88 => self.refusal(rng),
                88..94 => self.data(rng, Sender::Client),
                _ => self.data(rng, Sender::Backend),
            },
            Some(State::Answered) => match roll {
                0..65 => self.first_ack(rng),
                65..75 => self.answer(rng),
                75..82 => self.syn(rng, rng.clone().bool()),
                82..90 => self.reset(rng),
                90..95 => self.data(rng, Sender::Client),
                _ => self.data(rng, Sender::Backend),
            },
            Some(State::Established) => match roll {
                0..30 => self.data(rng, Sender::Client),
                30..60 => self.data(rng, Sender::Backend),
                60..70 => self.fin(rng, Sender::Client),
                70..80 => self.fin(rng, Sender::Backend),
                80..85 => self.say(Sender::Client, ACK, 0),
                85..92 => self.reset(rng),
                92..96 => self.syn(rng, rng.clone().u8(..4) != 0),
                _ => self.answer(rng),
            },
            Some(State::Closing) => match roll {
                0..25 => self.syn(rng, true),
                25..40 => self.data(rng, Sender::Client),
                40..55 => self.data(rng, Sender::Backend),
                55..70 => self.fin(rng, Sender::Backend),
                70..80 => self.say(Sender::Client, ACK, 0),
                80..90 => self.answer(rng),
                _ => self.reset(rng),
            },
            Some(State::Cut) => match roll {
                0..30 => self.reset(rng),
                30..40 => self.syn(rng, true),
                40..70 => self.data(rng, Sender::Client),
                _ => self.data(rng, Sender::Backend),
            },
            Some(State::Refused) => match roll {
                0..30 => self.syn(rng, true),
                30..50 => self.answer(rng),
                50..70 => self.first_ack(rng),
                70..80 => self.syn(rng, false),
                80..90 => self.data(rng, Sender::Backend),
                _ => self.reset(rng),
            },
        }
    }

    fn say(&self, sender: Sender, flags: u8, payload: usize) -> Say {
        let [client, backend] = self.next;
        let (seq, ack) = match sender {
            Sender::Client => (client, backend),
            Sender::Backend => (backend, client),
        };
        Say {
            sender,
            flags,
            seq,
            ack,
            payload,
        }
    }

    fn advance(&mut self, sender: Sender, by: usize) {
        let next = &mut self.next[usize::from(sender == Sender::Backend)];
        *next = next.wrapping_add(u32::try_from(by).expect("half of the numbers at most"));
    }

    fn syn(&mut self, rng: &mut Rng, is_new: bool) -> Say {
        if is_new {
            self.syn = rng.u32(..);
        }
        let payload = if rng.u8(..16) == 0 {
            rng.usize(1..64)
        } else {
            0
        };
        self.next[0] = self.syn.wrapping_add(1);
        self.advance(Sender::Client, payload);
        Say {
            sender: Sender::Client,
            flags: SYN,
            seq: self.syn,
            ack: if rng.bool() { 0 } else { rng.u32(..) },
            payload,
        }
    }

    /// A SYN-ACK, sometimes of another connection, or one that fits nothing.
    fn answer(&mut self, rng: &mut Rng) -> Say {
        if rng.u8(..3) != 0 {
            self.next[1] = rng.u32(..);
        }
        let seq = self.next[1];
        self.next[1] = seq.wrapping_add(1);
        let beyond = match rng.u8(..16) {
            0 => rng.u32(..),
            1 => [0, 1, 1_501, 1_502][rng.usize(..4)],
            _ => 1,
        };
        Say {
            sender: Sender::Backend,
            flags: SYN | ACK,
            seq,
            ack: self.syn.wrapping_add(beyond),
            payload: 0,
        }
    }

    /// The ACK that ends the handshake, sometimes at the edge of what is believed.
    fn first_ack(&self, rng: &mut Rng) -> Say {
        let mut say = self.say(Sender::Client, ACK, 0);
        if rng.u8(..16) == 0 {
            let beyond = [65_536, 65_537][rng.usize(..2)];
            say.ack = say.ack.wrapping_add(beyond);
        }
        say
    }

    fn data(&mut self, rng: &mut Rng, sender: Sender) -> Say {
        let payload = length(rng);
        let mut say = self.say(sender, PSH | ACK, payload);
        match rng.u8(..20) {
            // Out of reach, at its edges, sent again, or acknowledging nonsense.
            0 => say.seq = say.seq.wrapping_add(rng.u32(..)),
            1 => {
                let edge = [131_072, 131_073][rng.usize(..2)];
                let len = u32::try_from(payload).expect("a short payload");
                say.seq = say.seq.wrapping_add(edge).wrapping_sub(len);
            }
            2 => {
                let back = [2_000, 140_000, 1 << 20][rng.usize(..3)];
                say.seq = say.seq.wrapping_sub(rng.u32(..back));
            }
            3 => say.ack = rng.u32(..),
            4 => say.ack = say.ack.wrapping_add([65_536, 65_537][rng.usize(..2)]),
            // More than its reach goes another way; the other side acknowledges it, or not yet.
            6 if rng.u8(..4) == 0 => {
                let unseen = [131_073, 140_000, 1 << 24, 1 << 31][rng.usize(..4)];
                self.advance(sender, unseen);
                if rng.bool() {
                    return self.say(other(sender), ACK, 0);
                }
            }
            5 => say.flags = [PSH, 0, PSH | ACK | 0x20, 0xc0 | ACK][rng.usize(..4)],
            _ => self.advance(sender, payload),
        }
        say
    }

    fn fin(&mut self, rng: &mut Rng, sender: Sender) -> Say {
        let payload = if rng.bool() { 0 } else { rng.usize(..32) };
        let mut say = self.say(sender, FIN | ACK, payload);
        match rng.u8(..10) {
            0 => say.seq = say.seq.wrapping_add(rng.u32(..4)),
            1 => say.seq = rng.u32(..),
            2 => say.flags |= SYN,
            _ => self.advance(sender, payload + 1),
        }
        say
    }

    /// A RST that refuses the SYN, or nearly.
    fn refusal(&mut self, rng: &mut Rng) -> Say {
        let beyond = [1, 1, 1, 0, 1_501, 1_502, rng.u32(..)][rng.usize(..7)];
        Say {
            sender: Sender::Backend,
            flags: if rng.u8(..8) == 0 { RST } else { RST | ACK },
            seq: if rng.bool() { 0 } else { rng.u32(..) },
            ack: self.syn.wrapping_add(beyond),
            payload: 0,
        }
    }

    fn reset(&mut self, rng: &mut Rng) -> Say {
        let sender = if rng.bool() {
            Sender::Client
        } else {
            Sender::Backend
        };
        let mut say = self.say(sender, RST | if rng.bool() { ACK } else { 0 }, 0);
        if rng.bool() {
            // Forged: near, or anywhere.
            let off = if rng.bool() {
                rng.u32(1..100)
            } else {
                rng.u32(..)
            };
            say.seq = say.seq.wrapping_add(off);
        }
        say
    }
}

const fn other(sender: Sender) -> Sender {
    match sender {
        Sender::Client => Sender::Backend,
        Sender::Backend => Sender::Client,
    }
}

fn length(rng: &mut Rng) -> usize {
    match rng.u8(..32) {
        0 => rng.usize(500..1_400),
        1..8 => 0,
        _ => rng.usize(1..64),
    }
}
