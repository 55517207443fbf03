//! One TCP connection to an echo server from a port of the caller's choice, asked and ended by hand.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use super::identity::{ANSWER, Identity, read_answer};
use crate::lab::Host;

/// A connection that is open.
pub struct Conversation {
    stream: TcpStream,
    next: u64,
    by: Option<Identity>,
}

impl Conversation {
    /// Connects from `port` of `host`, which may be in use for another destination, to `target`.
    /// `limit` is for each step of the connection's life.
    pub fn open(host: &Host, port: u16, target: SocketAddr, limit: Duration) -> Result<Self> {
        let stream = host
            .run(|| dial(port, target, limit))
            .with_context(|| format!("connecting from port {port} to {target}"))?;
        Ok(Self {
            stream,
            next: 0,
            by: None,
        })
    }

    /// Asks, and returns who answered; another one than before is an error.
    pub fn ask(&mut self) -> Result<Identity> {
        let number = self.next;
        self.next += 1;
        let mut bytes = [0; ANSWER];
        self.stream
            .write_all(&number.to_be_bytes())
            .and_then(|()| self.stream.read_exact(&mut bytes))
            .with_context(|| format!("question {number} from {:?}", self.stream.local_addr()))?;
        let (answered, by) = read_answer(bytes)?;
        ensure!(
            answered == number,
            "the answer to question {number} says {answered}"
        );
        let before = *self.by.get_or_insert(by);
        ensure!(
            before == by,
            "question {number} was answered by {by}, earlier ones by {before}"
        );
        Ok(by)
    }

    /// The connection itself.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends it by FINs of both sides.
    pub fn close(mut self) -> Result<()> {
        let mut rest = Vec::new();
        self.stream
            .shutdown(Shutdown::Write)
            .and_then(|()| self.stream.read_to_end(&mut rest))
            .context("closing a connection")?;
        ensure!(
            rest.is_empty(),
            "{} bytes after the last answer",
            rest.len()
        );
        Ok(())
    }

    /// Ends it by a RST.
    pub fn abort(self) -> Result<()> {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
            .context("asking for a RST at the end of a connection")
    }

    /// Ends it as a crash of the client's machine does: nothing is sent.
    pub fn vanish(self) -> Result<()> {
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on))?;
        // SAFETY: pointer and length are those of one readable int, which the kernel copies.
        let result = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_REPAIR,
                (&raw const on).cast(),
                length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("setting TCP_REPAIR (needs root)");
        }
        Ok(())
    }
}

fn dial(port: u16, target: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let (family, any) = match target {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket: OwnedFd = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    for timeout in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, timeout, Some(limit))?;
    }
    bind(&socket, &SocketAddr::new(any, port))?;
    connect(&socket, &target)?;
    Ok(TcpStream::from(socket))
}
