//! ICMP and ICMPv6 errors about a flow's packets, from beyond both sides of the node. What becomes of
//! them is built by etherparse.

mod left_alone;
mod translated;

use std::net::IpAddr;

use anyhow::Result;
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::{Family, Lab};

use crate::message::Message;
use crate::packet::{ACK, Packet};
use crate::rig::{Expected, Rig};
use crate::setup::Kind;
use crate::talk::Talk;

/// An error: in words, type and code, and the second half of its header.
type Error = (&'static str, [u8; 2], [u8; 4]);

const ERRORS_V4: [Error; 9] = [
    ("network unreachable", [3, 0], [0; 4]),
    ("host unreachable", [3, 1], [0; 4]),
    ("port unreachable", [3, 3], [0; 4]),
    ("fragmentation needed, MTU 1280", [3, 4], [0, 0, 5, 0]),
    ("prohibited by an administrator", [3, 13], [0; 4]),
    ("time to live exceeded", [11, 0], [0; 4]),
    ("reassembly time exceeded", [11, 1], [0; 4]),
    ("parameter problem at byte 8", [12, 0], [8, 0, 0, 0]),
    (
        "an unreachable of a code that nobody knows",
        [3, 200],
        [0xff; 4],
    ),
];

const ERRORS_V6: [Error; 9] = [
    ("no route", [1, 0], [0; 4]),
    ("prohibited by an administrator", [1, 1], [0; 4]),
    ("address unreachable", [1, 3], [0; 4]),
    ("port unreachable", [1, 4], [0; 4]),
    ("packet too big, MTU 1280", [2, 0], [0, 0, 5, 0]),
    ("hop limit exceeded", [3, 0], [0; 4]),
    ("reassembly time exceeded", [3, 1], [0; 4]),
    ("parameter problem at byte 6", [4, 1], [0, 0, 0, 6]),
    (
        "an unreachable of a code that nobody knows",
        [1, 200],
        [0xff; 4],
    ),
];

fn errors(family: Family) -> &'static [Error] {
    match family {
        Family::V4 => &ERRORS_V4,
        Family::V6 => &ERRORS_V6,
    }
}

/// Which side of the node an error comes from.
#[derive(Clone, Copy, Debug)]
enum Beyond {
    /// Beyond the client's side, about a packet of the backend.
    Client,
    /// Beyond the backend's side, about a packet of the client.
    Backend,
}

const SIDES: [Beyond; 2] = [Beyond::Client, Beyond::Backend];

/// A router that is neither end's.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([203, 0, 113, 9]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 9]),
    }
}

/// A packet of a flow that met an error: as it was beyond the node, and as its sender knows it.
struct Failed {
    beyond: Packet,
    sent: Packet,
}

impl Failed {
    /// A packet of `talk` from the other side than the error, with three hops left.
    fn new(talk: &Talk, from: Beyond) -> Self {
        let (beyond, sent) = match from {
            Beyond::Client => {
                let sent = talk.of_backend(ACK);
                (
                    Packet {
                        from: talk.vip,
                        ..sent.clone()
                    },
                    sent,
                )
            }
            Beyond::Backend => {
                let sent = talk.of_client(ACK);
                (
                    Packet {
                        to: talk.backend,
                        ..sent.clone()
                    },
                    sent,
                )
            }
        };
        Self { beyond, sent }.with(|packet| packet.payload(&[9; 40]).ttl(3))
    }

    /// Both changed alike.
    fn with(self, change: impl Fn(Packet) -> Packet) -> Self {
        Self {
            beyond: change(self.beyond),
            sent: change(self.sent),
        }
    }
}

/// What an error about a packet of `talk` becomes.
struct Case {
    error: Message,
    translated: Message,
}

impl Case {
    fn new(
        rig: &Rig,
        talk: &Talk,
        from: Beyond,
        (_, kind, rest): Error,
        failed: &Failed,
    ) -> Result<Self> {
        let router = router(talk.kind.family);
        let error = Message {
            rest,
            body: failed.beyond.packet()?,
            ..Message::new(router, failed.beyond.from.ip(), kind)
        };
        let (from, to, link) = match from {
            Beyond::Client => (router, talk.backend.ip(), rig.link(talk.color.name())?),
            Beyond::Backend => (talk.vip.ip(), talk.client.ip(), rig.link("client")?),
        };
        let translated = Message {
            from,
            to,
            body: failed.sent.packet()?,
            ..error.sent(link)
        };
        Ok(Self { error, translated })
    }

    /// With only the first `len` bytes of the quote.
    fn cut(mut self, len: usize) -> Self {
        self.error.body.truncate(len);
        self.translated.body.truncate(len);
        self
    }

    /// Both changed alike.
    fn with(mut self, change: impl Fn(&mut Message)) -> Self {
        change(&mut self.error);
        change(&mut self.translated);
        self
    }

    /// Translated, and left to the stack to be sent on.
    fn for_the_stack(&self) -> Message {
        Message {
            link: self.error.link,
            ttl: self.error.ttl,
            ..self.translated.clone()
        }
    }

    fn expect(&self, rig: &mut Rig, what: &str) -> Result<()> {
        let sent = Expected::frame(Reason::Redirected, self.translated.bytes()?);
        let noted = sent.noting(Reason::IcmpTranslated);
        rig.expect_frame(what, &self.error.bytes()?, &noted)
    }

    fn expect_untouched(&self, rig: &mut Rig, what: &str, reason: Reason) -> Result<()> {
        rig.expect_frame(what, &self.error.bytes()?, &Expected::untouched(reason))
    }
}

/// What happens to an error that is about no flow.
fn unrelated(from: Beyond) -> Reason {
    match from {
        Beyond::Client => Reason::IcmpUnrelated,
        Beyond::Backend => Reason::NotOurs,
    }
}

/// Runs `test` for each kind of traffic and each side, on an open flow that must not change by it.
fn for_each_side(test: impl Fn(&mut Rig, &Talk, Beyond) -> Result<()> + Send) -> Result<()> {
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, move |rig| {
        for (port, kind) in (4000..).zip(Kind::ALL) {
            let mut talk = Talk::open(rig, kind, port, Color::Blue)?;
            let before = (talk.flow(rig)?, rig.counters.traffic(1, Color::Blue)?);
            for from in SIDES {
                test(rig, &talk, from)?;
            }
            let after = (talk.flow(rig)?, rig.counters.traffic(1, Color::Blue)?);
            assert_eq!(before, after, "{kind:?}: an error is no packet of the flow");
            talk.goes_on(rig, "after errors")?;
        }
        Ok(())
    })
}
