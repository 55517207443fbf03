//! Echo requests, and the errors that come back to a host.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, ipproto, recv, recvfrom, send,
    socket, sockopt,
};

use crate::lab::{Family, Host};

/// Type, code, checksum and identifier (both the kernel's), sequence number.
const HEADER: usize = 8;
/// Types of request and answer.
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);

/// Sends one echo request with `payload` bytes from `host` and waits at most `limit` for its answer, which must
/// bring them back.
pub fn ping(host: &Host, target: IpAddr, payload: usize, limit: Duration) -> Result<()> {
    host.run(|| exchange(target, payload, limit))
        .with_context(|| format!("pinging {target} with {payload} bytes from {}", host.name()))
}

fn exchange(target: IpAddr, payload: usize, limit: Duration) -> Result<()> {
    let (request, reply) = match target {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    };
    let socket = open(Family::of(target), SocketType::DGRAM, limit)?;
    rustix::net::connect(&socket, &SocketAddr::new(target, 0)).context("connecting")?;
    let mut message = vec![0; HEADER];
    message[0] = request;
    // No two bytes in a row are alike, so that shifted ones are noticed.
    message.extend((0_u8..=250).cycle().take(payload));
    send(&socket, &message, SendFlags::empty()).context("sending the request")?;
    let mut answer = vec![0; message.len() + 1];
    let (length, _) = match recv(&socket, &mut answer, RecvFlags::empty()) {
        Err(rustix::io::Errno::AGAIN) => bail!("no answer in {limit:?}"),
        other => other.context("waiting for the answer")?,
    };
    answer.truncate(length);
    let head = |of: &[u8]| (of[0], of[1], [of[6], of[7]]);
    ensure!(
        length == message.len() && head(&answer) == (reply, 0, [0; 2]),
        "an answer of {length} bytes, {:?}",
        head(&answer)
    );
    ensure!(
        answer[HEADER..] == message[HEADER..],
        "the payload came back changed"
    );
    Ok(())
}

/// The ICMP errors, of either version, that reach a host.
pub struct IcmpErrors {
    socket: OwnedFd,
    family: Family,
}

/// An error and what it quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who sent it.
    pub from: IpAddr,
    /// Type and code.
    pub kind: (u8, u8),
    /// The beginning of the packet that it is about.
    pub quoted: Vec<u8>,
}

impl IcmpErrors {
    /// Those of `family` that reach `host` from now on; each wait for one ends after `limit`.
    pub fn open(host: &Host, family: Family, limit: Duration) -> Result<Self> {
        let socket = host.run(|| open(family, SocketType::RAW, limit))?;
        Ok(Self { socket, family })
    }

    /// Waits for the next one.
    pub fn next(&self) -> Result<IcmpError> {
        loop {
            let mut message = [0; 2_048];
            let (_, length, from) = recvfrom(&self.socket, &mut message, RecvFlags::empty())
                .context("waiting for an ICMP error")?;
            let from = SocketAddr::try_from(from.context("a message from nobody")?)?.ip();
            let message = message
                .get(..length)
                .context("a message longer than its room")?;
            // Of IPv4 the header comes along, here without options.
            let message = match self.family {
                Family::V4 => message.get(20..).unwrap_or_default(),
                Family::V6 => message,
            };
            let is_error = matches!(
                (self.family, message.first()),
                (Family::V4, Some(3 | 11 | 12)) | (Family::V6, Some(1..=4))
            );
            if let (true, Some((header, quoted))) = (is_error, message.split_at_checked(HEADER)) {
                let (kind, quoted) = ((header[0], header[1]), quoted.to_vec());
                return Ok(IcmpError { from, kind, quoted });
            }
        }
    }
}

fn open(family: Family, kind: SocketType, limit: Duration) -> Result<OwnedFd> {
    let (family, protocol): (_, Protocol) = match family {
        Family::V4 => (AddressFamily::INET, ipproto::ICMP),
        Family::V6 => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = socket(family, kind, Some(protocol)).context("opening a socket for ICMP")?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(limit))
        .context("setting its time limit")?;
    Ok(socket)
}
