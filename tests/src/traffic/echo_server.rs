//! The echo server: answers each numbered question, over TCP and UDP, and says who it is.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::identity::{Identity, QUESTION, answer};
use super::serving::{Serving, Tasks};
use crate::lab::Host;

/// Answers an 8-byte number (big endian) with the same 8 bytes and its own tag, on TCP as a stream
/// of such messages, on UDP in one datagram each. Stops when dropped.
pub struct EchoServer(Serving);

impl EchoServer {
    /// Serves TCP and UDP on each of `addresses` of `host`; ready when this returns.
    pub fn start(host: &Host, identity: Identity, addresses: &[SocketAddr]) -> Result<Self> {
        let (serving, tasks) = Serving::new();
        for &address in addresses {
            let tasks = tasks.clone();
            host.block_on(serve(address, identity, tasks))
                .with_context(|| format!("serving echo at {address} on host {}", host.name()))?;
        }
        Ok(Self(serving))
    }

    /// As [`EchoServer::start`], in the network and the runtime of the caller.
    pub async fn start_here(identity: Identity, addresses: &[SocketAddr]) -> Result<Self> {
        let (serving, tasks) = Serving::new();
        for &address in addresses {
            serve(address, identity, tasks.clone())
                .await
                .with_context(|| format!("serving echo at {address}"))?;
        }
        Ok(Self(serving))
    }

    /// Stops listening, ends all connections, and returns when that is done.
    pub fn end(self) {
        self.0.end();
    }
}

async fn serve(address: SocketAddr, identity: Identity, tasks: Tasks) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .context("listening on TCP")?;
    let socket = UdpSocket::bind(address).await.context("binding UDP")?;
    tasks.spawn(accept(listener, identity, tasks.clone()));
    tasks.spawn(answer_datagrams(socket, identity));
    Ok(())
}

async fn accept(listener: TcpListener, identity: Identity, tasks: Tasks) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => tasks.spawn(answer_stream(stream, identity)),
            // The connection ended before it was accepted, or descriptors are short for a moment.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Answers until the client closes; what went wrong is the client's to notice.
async fn answer_stream(mut stream: TcpStream, identity: Identity) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut question = [0; QUESTION];
    loop {
        stream.read_exact(&mut question).await.ok()?;
        stream.write_all(&answer(question, identity)).await.ok()?;
    }
}

async fn answer_datagrams(socket: UdpSocket, identity: Identity) {
    let mut buffer = [0; QUESTION];
    loop {
        // An error here belongs to a datagram sent earlier (ICMP); the next one may be fine.
        if let Ok((QUESTION, client)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&answer(buffer, identity), client).await;
        }
    }
}
