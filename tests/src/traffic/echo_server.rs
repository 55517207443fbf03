//! The echo server: answers each numbered question, over TCP and UDP, and says who it is.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::identity::{Identity, QUESTION, answer};
use crate::lab::Host;

/// Answers an 8-byte number (big endian) with the same 8 bytes and its own tag, on TCP as a stream
/// of such messages, on UDP in one datagram each. Stops when dropped.
pub struct EchoServer {
    stop: CancellationToken,
    _guard: DropGuard,
}

impl EchoServer {
    /// Serves TCP and UDP on each of `addresses` of `host`; ready when this returns.
    pub fn start(host: &Host, identity: Identity, addresses: &[SocketAddr]) -> Result<Self> {
        let stop = CancellationToken::new();
        for &address in addresses {
            let stop = stop.clone();
            host.block_on(serve(address, identity, stop))
                .with_context(|| format!("serving echo at {address} on host {}", host.name()))?;
        }
        Ok(Self {
            _guard: stop.clone().drop_guard(),
            stop,
        })
    }

    /// As [`EchoServer::start`], in the network and the runtime of the caller.
    pub async fn start_here(identity: Identity, addresses: &[SocketAddr]) -> Result<Self> {
        let stop = CancellationToken::new();
        for &address in addresses {
            serve(address, identity, stop.clone())
                .await
                .with_context(|| format!("serving echo at {address}"))?;
        }
        Ok(Self {
            _guard: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Stops listening and ends all connections.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn serve(address: SocketAddr, identity: Identity, stop: CancellationToken) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .context("listening on TCP")?;
    let socket = UdpSocket::bind(address).await.context("binding UDP")?;
    let tcp = accept(listener, identity, stop.clone());
    tokio::spawn(stop.clone().run_until_cancelled_owned(tcp));
    tokio::spawn(stop.run_until_cancelled_owned(answer_datagrams(socket, identity)));
    Ok(())
}

async fn accept(listener: TcpListener, identity: Identity, stop: CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let serving = answer_stream(stream, identity);
                tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
            }
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
