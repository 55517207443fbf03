//! Bulk data: many bytes over one connection, and datagrams of any size, answered in kind.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Identity;
use super::serving::{Serving, Tasks};
use crate::lab::Host;

/// The bytes of every transfer and datagram, over and over: 251 is prime, so that nothing that is
/// lost, doubled or in another order looks right.
const PATTERN: [u8; 251 * 64] = {
    let mut bytes = [0; 251 * 64];
    let mut at = 0;
    while at < bytes.len() {
        #[expect(clippy::cast_possible_truncation, reason = "below 251")]
        {
            bytes[at] = (at % 251) as u8;
        }
        at += 1;
    }
    bytes
};

/// A datagram begins with the tag of who sent it (0 from clients) and its number, big endian.
const HEAD: usize = 16;

/// Answers transfers over TCP and datagrams over UDP. Stops when dropped.
pub struct BulkServer(Serving);

impl BulkServer {
    /// Serves TCP and UDP on each of `addresses` of `host`; ready when this returns.
    pub fn start(host: &Host, identity: Identity, addresses: &[SocketAddr]) -> Result<Self> {
        let (serving, tasks) = Serving::new();
        for &address in addresses {
            let tasks = tasks.clone();
            host.block_on(serve(address, identity, tasks))
                .with_context(|| format!("serving bulk at {address} on host {}", host.name()))?;
        }
        Ok(Self(serving))
    }

    /// Stops listening, ends all connections, and returns when that is done.
    pub fn end(self) {
        self.0.end();
    }
}

async fn serve(address: SocketAddr, identity: Identity, tasks: Tasks) -> Result<()> {
    let listener = TcpListener::bind(address).await.context("listening")?;
    let socket = tokio::net::UdpSocket::bind(address).await?;
    tasks.spawn(accept(listener, tasks.clone()));
    tasks.spawn(answer_datagrams(socket, identity));
    Ok(())
}

async fn accept(listener: TcpListener, tasks: Tasks) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => tasks.spawn(answer(stream)),
            // The connection ended before it was accepted, or descriptors are short for a moment.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Two lengths, then as many bytes as the first, are answered with as many bytes as the second
/// and the path MTU. What went wrong is the client's to notice.
async fn answer(mut stream: TcpStream) -> Result<()> {
    let (up, down) = (stream.read_u64().await?, stream.read_u64().await?);
    receive(&mut stream, up).await?;
    send(&mut stream, down).await?;
    let mtu = path_mtu(&stream, stream.peer_addr()?)?;
    Ok(stream.write_u32(mtu).await?)
}

async fn answer_datagrams(socket: tokio::net::UdpSocket, identity: Identity) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        // An error here belongs to a datagram sent earlier (ICMP); the next one may be fine.
        if let Ok((length @ HEAD.., client)) = socket.recv_from(&mut buffer).await {
            buffer[..8].copy_from_slice(&identity.tag().to_be_bytes());
            let _ = socket.send_to(&buffer[..length], client).await;
        }
    }
}

/// The path MTUs that the two ends of a transfer knew at its end, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtus {
    /// From the client to the VIP.
    pub client: u32,
    /// From the backend to the client.
    pub backend: u32,
}

/// Sends `up` bytes from `host` to `target` and receives `down` bytes, all of them checked.
pub fn transfer(
    host: &Host,
    target: SocketAddr,
    (up, down): (u64, u64),
    limit: Duration,
) -> Result<PathMtus> {
    let work = async move {
        let mut stream = TcpStream::connect(target).await.context("connecting")?;
        stream.write_u64(up).await?;
        stream.write_u64(down).await?;
        send(&mut stream, up).await.context("sending")?;
        receive(&mut stream, down).await.context("receiving")?;
        let backend = stream.read_u32().await.context("reading the path MTU")?;
        let client = path_mtu(&stream, target)?;
        anyhow::Ok(PathMtus { client, backend })
    };
    host.block_on(async move { tokio::time::timeout(limit, work).await })
        .with_context(|| format!("not within {limit:?}"))
        .flatten()
        .with_context(|| format!("sending {up} and receiving {down} bytes by {target}"))
}

async fn send(stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut left = length;
    while left > 0 {
        let now = PATTERN.len().min(usize::try_from(left)?);
        stream.write_all(&PATTERN[..now]).await?;
        left -= now as u64;
    }
    Ok(())
}

async fn receive(stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut buffer = vec![0; PATTERN.len()];
    let mut left = length;
    while left > 0 {
        let now = buffer.len().min(usize::try_from(left)?);
        stream.read_exact(&mut buffer[..now]).await?;
        ensure!(
            buffer[..now] == PATTERN[..now],
            "other bytes than were sent"
        );
        left -= now as u64;
    }
    Ok(())
}

/// The path MTU that the kernel knows for a connected socket, in bytes.
fn path_mtu(socket: impl AsFd, peer: SocketAddr) -> Result<u32> {
    let mtu = match peer {
        SocketAddr::V4(_) => sockopt::ip_mtu(socket),
        SocketAddr::V6(_) => sockopt::ipv6_mtu(socket),
    };
    mtu.context("asking for the path MTU")
}

/// A UDP flow from a client to a [`BulkServer`].
pub struct Datagrams {
    socket: UdpSocket,
    target: SocketAddr,
    sent: u64,
}

impl Datagrams {
    /// A flow from `host`; an answer that takes longer than `limit` is lost.
    pub fn open(host: &Host, target: SocketAddr, limit: Duration) -> Result<Self> {
        let any = if target.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = host.run(|| UdpSocket::bind(any)).context("binding UDP")?;
        socket.connect(target).context("connecting UDP")?;
        socket.set_read_timeout(Some(limit))?;
        Ok(Self {
            socket,
            target,
            sent: 0,
        })
    }

    /// From now on a datagram larger than the path MTU is an error instead of several fragments.
    pub fn never_fragment(&self) -> Result<()> {
        use sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
        match self.target {
            SocketAddr::V4(_) => {
                sockopt::set_ip_mtu_discover(&self.socket, Ipv4PathMtuDiscovery::DO)
            }
            SocketAddr::V6(_) => {
                sockopt::set_ipv6_mtu_discover(&self.socket, Ipv6PathMtuDiscovery::DO)
            }
        }
        .context("asking for path MTU discovery")
    }

    /// The path MTU that the kernel knows by now, in bytes.
    pub fn path_mtu(&self) -> Result<u32> {
        path_mtu(&self.socket, self.target)
    }

    /// Its packets are forwarded by less than `hops` routers.
    pub fn set_hops(&self, hops: u8) -> Result<()> {
        match self.target {
            SocketAddr::V4(_) => sockopt::set_ip_ttl(&self.socket, hops.into()),
            SocketAddr::V6(_) => sockopt::set_ipv6_unicast_hops(&self.socket, Some(hops)),
        }
        .context("setting the time to live")
    }

    /// Sends a datagram of `length` bytes, at least 16, and waits for its answer, which has the
    /// same length.
    pub fn exchange(&mut self, length: usize) -> Result<Identity> {
        let datagram = self.send(length)?;
        let what = || format!("the answer to {}", self.describe(length));
        let mut answer = vec![0; length + 1];
        let received = self.socket.recv(&mut answer);
        let received = received.with_context(|| format!("waiting for {}", what()))?;
        let answer = answer.get(..received).and_then(<[u8]>::split_first_chunk);
        let (tag, rest) = answer.with_context(|| format!("no tag in {}", what()))?;
        ensure!(rest == &datagram[8..], "other bytes are {}", what());
        Identity::from_tag(u64::from_be_bytes(*tag))
    }

    /// Sends a datagram of `length` bytes, at least 16, and returns it.
    pub fn send(&mut self, length: usize) -> Result<Vec<u8>> {
        self.sent += 1;
        let mut datagram = [0; 8].to_vec();
        datagram.extend(self.sent.to_be_bytes());
        datagram.extend(PATTERN.iter().cycle().take(length - HEAD));
        self.socket
            .send(&datagram)
            .with_context(|| format!("sending {}", self.describe(length)))?;
        Ok(datagram)
    }

    fn describe(&self, length: usize) -> String {
        format!(
            "datagram {} of {length} bytes to {}",
            self.sent, self.target
        )
    }

    /// The flow's own address and port.
    pub fn local(&self) -> Result<SocketAddr> {
        self.socket
            .local_addr()
            .context("asking for the own address")
    }
}
