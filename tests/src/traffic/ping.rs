//! Echo requests.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, send, socket, sockopt,
};

use crate::lab::Host;

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
    let (family, protocol, (request, reply)) = match target {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, V4),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, V6),
    };
    let socket = socket(family, SocketType::DGRAM, Some(protocol)).context("opening a socket")?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(limit))
        .context("setting the time limit")?;
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
