//! A client and a backend that talk through the program: the packets of one flow.

use std::net::SocketAddr;

use anyhow::Result;
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};

use crate::flows::Flow;
use crate::packet::{ACK, FIN, PSH, Packet, RST, SYN};
use crate::rig::{Rig, first};
use crate::setup::Kind;

/// Sequence number of the client's SYN.
pub(crate) const CLIENT_SEQ: u32 = 1_000;
/// Sequence number of the backend's SYN-ACK.
pub(crate) const BACKEND_SEQ: u32 = 9_000;

/// A flow of the plain setup.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    pub(crate) kind: Kind,
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) color: Color,
    /// Next sequence numbers of client and backend.
    next: [u32; 2],
}

impl Talk {
    /// Of which nothing is sent yet; its first packet will be from `port`, and go to `color`.
    pub(crate) fn unsent(rig: &Rig, kind: Kind, port: u16, color: Color) -> Self {
        Self {
            kind,
            client: rig.client(kind.family, port),
            vip: rig.vip(kind),
            backend: rig.backend(kind, color),
            color,
            next: [CLIENT_SEQ + 1, BACKEND_SEQ + 1],
        }
    }

    /// Sends the first packet from `port`, which goes to `color`.
    pub(crate) fn begin(rig: &mut Rig, kind: Kind, port: u16, color: Color) -> Result<Self> {
        let talk = Self::unsent(rig, kind, port, color);
        let expected = rig.to_backend(&talk.first(), color)?;
        rig.expect("the first packet", &talk.first(), &expected)?;
        Ok(talk)
    }

    /// As [`Self::begin`], until both sides have answered.
    pub(crate) fn open(rig: &mut Rig, kind: Kind, port: u16, color: Color) -> Result<Self> {
        let talk = Self::begin(rig, kind, port, color)?;
        let returned = rig.to_client(&talk.answer(), talk.vip)?;
        if talk.kind.protocol == Protocol::Udp {
            let returned = returned.noting(Reason::Promoted);
            rig.expect("the answer", &talk.answer(), &returned)?;
            return Ok(talk);
        }
        rig.expect("the SYN-ACK", &talk.answer(), &returned)?;
        let forwarded = rig.to_backend(&talk.acknowledgement(), color)?;
        let promoted = forwarded.noting(Reason::Promoted);
        rig.expect("the ACK", &talk.acknowledgement(), &promoted)?;
        Ok(talk)
    }

    /// The first packet: a SYN, or a datagram.
    pub(crate) fn first(&self) -> Packet {
        first(self.kind, self.client, self.vip)
    }

    /// The backend's first packet: a SYN-ACK, or a datagram.
    pub(crate) fn answer(&self) -> Packet {
        match self.kind.protocol {
            Protocol::Tcp => Packet {
                seq: BACKEND_SEQ,
                ack: CLIENT_SEQ + 1,
                ..self.of_backend(SYN | ACK)
            },
            Protocol::Udp => self.of_backend(0).payload(b"answer"),
        }
    }

    /// The ACK that ends the handshake.
    pub(crate) fn acknowledgement(&self) -> Packet {
        self.of_client(ACK)
    }

    /// A packet of the client, after the handshake.
    pub(crate) fn of_client(&self, flags: u8) -> Packet {
        match self.kind.protocol {
            Protocol::Tcp => {
                let [seq, ack] = self.next;
                Packet::tcp(self.client, self.vip, flags, seq, ack)
            }
            Protocol::Udp => Packet::udp(self.client, self.vip),
        }
    }

    /// A packet of the backend, after the handshake.
    pub(crate) fn of_backend(&self, flags: u8) -> Packet {
        match self.kind.protocol {
            Protocol::Tcp => {
                let [ack, seq] = self.next;
                Packet::tcp(self.backend, self.client, flags, seq, ack)
            }
            Protocol::Udp => Packet::udp(self.backend, self.client),
        }
    }

    /// The client sends so many bytes, which go another way.
    pub(crate) const fn skip(&mut self, bytes: u32) {
        self.next[0] += bytes;
    }

    /// Sends `packet` of the client, which goes to the backend with these notes.
    pub(crate) fn send(
        &mut self,
        rig: &mut Rig,
        what: &str,
        packet: &Packet,
        notes: &[Reason],
    ) -> Result<()> {
        let expected = rig.to_backend(packet, self.color)?;
        let expected = notes.iter().fold(expected, |it, note| it.noting(*note));
        rig.expect(what, packet, &expected)?;
        move_on(&mut self.next[0], packet);
        Ok(())
    }

    /// Sends `packet` of the backend, which goes to the client with these notes.
    pub(crate) fn reply(
        &mut self,
        rig: &mut Rig,
        what: &str,
        packet: &Packet,
        notes: &[Reason],
    ) -> Result<()> {
        let expected = rig.to_client(packet, self.vip)?;
        let expected = notes.iter().fold(expected, |it, note| it.noting(*note));
        rig.expect(what, packet, &expected)?;
        move_on(&mut self.next[1], packet);
        Ok(())
    }

    /// Data goes both ways between this client and this backend, and the flow stays as it is.
    pub(crate) fn goes_on(&mut self, rig: &mut Rig, when: &str) -> Result<()> {
        let before = self.flow(rig)?;
        let kind = self.kind;
        let request = self.of_client(PSH | ACK).payload(b"more?");
        self.send(rig, &format!("{kind:?}: data {when}"), &request, &[])?;
        let answer = self.of_backend(PSH | ACK).payload(b"more.");
        self.reply(rig, &format!("{kind:?}: answer {when}"), &answer, &[])?;
        anyhow::ensure!(
            self.flow(rig)? == before,
            "{kind:?}: data {when} changed the flow from {before:?} to {:?}",
            self.flow(rig)?
        );
        Ok(())
    }

    /// What the flow tables say.
    pub(crate) fn flow(&self, rig: &Rig) -> Result<Flow> {
        rig.flow(&self.first())
    }
}

/// Counts what `packet` adds to its direction, unless it is one of before.
fn move_on(next: &mut u32, packet: &Packet) {
    if packet.protocol == Protocol::Tcp && packet.seq == *next && packet.flags & RST == 0 {
        let len = u32::try_from(packet.payload.len()).expect("a short payload");
        *next += len + u32::from(packet.flags & FIN);
    }
}
