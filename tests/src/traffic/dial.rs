//! Client sockets, each with a source port that was not used for a while.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::lab::Ports;

/// Ports in a row that may be taken, by long-lived connections or `TIME_WAIT`, before giving up.
const TRIES: u32 = 4096;

/// A socket that is bound to a source port and not connected yet.
pub(super) fn tcp_socket(ports: &Ports, target: SocketAddr) -> Result<TcpSocket> {
    bind(ports, target, |source| {
        let socket = if target.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.bind(source)?;
        Ok(socket)
    })
}

/// Connects `socket`.
pub(super) async fn connect(socket: TcpSocket, target: SocketAddr) -> Result<TcpStream> {
    let stream = socket.connect(target).await.context("connecting")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    Ok(stream)
}

/// A UDP socket, bound to a source port, that talks to `target` only.
pub(super) async fn udp_socket(ports: &Ports, target: SocketAddr) -> Result<UdpSocket> {
    let socket = bind(ports, target, std::net::UdpSocket::bind)?;
    socket
        .set_nonblocking(true)
        .context("setting a socket up")?;
    let socket = UdpSocket::from_std(socket).context("setting a socket up")?;
    socket
        .connect(target)
        .await
        .context("connecting a UDP socket")?;
    Ok(socket)
}

fn bind<T>(
    ports: &Ports,
    target: SocketAddr,
    mut bind_to: impl FnMut(SocketAddr) -> io::Result<T>,
) -> Result<T> {
    let any = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    for _ in 0..TRIES {
        match bind_to(SocketAddr::new(any, ports.next())) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            other => return other.context("binding a source port"),
        }
    }
    anyhow::bail!("{TRIES} source ports in a row are taken: lower the rate of new connections")
}
