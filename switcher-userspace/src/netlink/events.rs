//! Word from the kernel that something has changed.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_sys::{Socket, SocketAddr};

/// A socket that the kernel writes to when something changes. What has changed is asked for anew, so
/// the messages themselves do not matter.
pub(crate) struct Events {
    socket: Socket,
}

impl Events {
    /// Subscribes to a multicast group of `protocol`, in the network namespace of this thread.
    pub(crate) fn subscribe(protocol: isize, group: u32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(group)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Forgets all messages that have come so far.
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

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
