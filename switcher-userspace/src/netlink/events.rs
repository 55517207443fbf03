//! Word from the kernel that something has changed.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};
use rustix::{io::Errno, net::sockopt};

use super::ALIGN;

/// Messages that are taken before their taker gets to act on them.
const AT_ONCE: u32 = 4_096;

/// Word of a change.
pub(crate) enum Message {
    Read(RouteNetlinkMessage),
    /// The parser does not understand it.
    Unreadable,
}

/// A socket that the kernel writes to when something changes.
pub(crate) struct Events {
    socket: Socket,
}

impl Events {
    /// Subscribes to multicast groups of `protocol`, in the network namespace of this thread.
    pub(crate) fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Makes room for so many bytes of messages; without `CAP_NET_ADMIN` for as many as `net.core.rmem_max` allows.
    pub(crate) fn set_buffer(&self, bytes: usize) -> io::Result<()> {
        match sockopt::set_socket_recv_buffer_size_force(&self.socket, bytes) {
            Err(Errno::PERM) => sockopt::set_socket_recv_buffer_size(&self.socket, bytes),
            result => result,
        }
        .map_err(io::Error::from)
    }

    /// Hands the messages of routing that have come so far to `each`, unless they are very many: then the rest
    /// waits for the next call. `false`: some were lost.
    pub(crate) fn take(&self, mut each: impl FnMut(Message)) -> io::Result<bool> {
        let mut all_came = true;
        for _ in 0..AT_ONCE {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => messages(&datagram, &mut each),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all_came),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => all_came = false,
                Err(error) => return Err(error),
            }
        }
        Ok(all_came)
    }

    /// Forgets all messages that have come so far: what has changed is asked for anew.
    pub(crate) fn drain(&self) -> io::Result<()> {
        // The kernel cuts messages off: only that they are there matters.
        let mut start = [0; 1];
        loop {
            match self.socket.recv(&mut &mut start[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Messages were lost, which is a message too.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }
}

fn messages(datagram: &[u8], each: &mut impl FnMut(Message)) {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(rest) else {
            return each(Message::Unreadable);
        };
        let len = (message.length() as usize).next_multiple_of(ALIGN);
        each(match NetlinkMessage::deserialize(rest) {
            Ok(NetlinkMessage {
                payload: NetlinkPayload::InnerMessage(message),
                ..
            }) => Message::Read(message),
            _ => Message::Unreadable,
        });
        rest = rest.get(len..).unwrap_or_default();
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
