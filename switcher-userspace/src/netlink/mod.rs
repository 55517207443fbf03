//! Asking the kernel about the node's interfaces: requests over a netlink socket, answered before the
//! call returns, and word of changes.
//!
//! Blocking on purpose: the kernel answers at once, and the socket belongs to the network
//! namespace of the thread that opens it, which an executor could change between two awaits.

pub(crate) mod address;
pub(crate) mod events;
pub(crate) mod generic;
pub(crate) mod link;
pub(crate) mod neighbour;
pub(crate) mod netdev;

use std::{fmt::Debug, io};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Messages begin at multiples of this (`NLMSG_ALIGNTO`).
const ALIGN: usize = 4;

/// A socket of one netlink protocol.
pub(crate) struct Netlink {
    socket: Socket,
    sequence_number: u32,
}

/// What a message of an answer means for the whole answer.
enum Step<M> {
    Item(M),
    /// A message that the parser does not understand.
    Unreadable(io::Error),
    /// The answer to something else.
    Skip,
    Done,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence_number: 0,
        })
    }

    /// The one answer to `request`.
    pub(crate) fn get<M>(&mut self, request: M) -> io::Result<M>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let mut answers = self.ask(request, 0)?;
        answers
            .pop()
            .ok_or_else(|| io::Error::other("the kernel's answer is empty; expected one message"))
    }

    /// All entries of a table but those that the parser does not understand: a strange interface
    /// must not keep the agent from starting on others.
    pub(crate) fn dump<M>(&mut self, request: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.ask(request, NLM_F_DUMP)
    }

    fn ask<M>(&mut self, request: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.send(request, flags)?;
        let mut answers = Vec::new();
        let is_dump = flags & NLM_F_DUMP != 0;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for step in self.steps(&datagram)? {
                match step {
                    Step::Item(item) => answers.push(item),
                    Step::Unreadable(error) if !is_dump => return Err(error),
                    Step::Unreadable(_) | Step::Skip => continue,
                    Step::Done => return Ok(answers),
                }
                if !is_dump {
                    return Ok(answers);
                }
            }
        }
    }

    fn send<M: NetlinkSerializable>(&mut self, request: M, flags: u16) -> io::Result<()> {
        self.sequence_number += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence_number;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    fn steps<M: NetlinkDeserializable + Debug>(&self, datagram: &[u8]) -> io::Result<Vec<Step<M>>> {
        let mut steps = Vec::new();
        let mut rest = datagram;
        while !rest.is_empty() {
            // Checks that a message is neither shorter than its header nor longer than what is left.
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let len = (message.length() as usize).next_multiple_of(ALIGN);
            steps.push(match NetlinkMessage::deserialize(rest) {
                Ok(message) => self.step(message)?,
                Err(error) => Step::Unreadable(io::Error::other(error)),
            });
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(steps)
    }

    fn step<M: Debug>(&self, message: NetlinkMessage<M>) -> io::Result<Step<M>> {
        if message.header.sequence_number != self.sequence_number {
            return Ok(Step::Skip);
        }
        match message.payload {
            NetlinkPayload::InnerMessage(item) => Ok(Step::Item(item)),
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => Ok(Step::Done),
            _ => Ok(Step::Skip),
        }
    }
}
