//! Single connections from a port that the test chooses, to servers that say who they are.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use switcher_common::service::Protocol;
use switcher_tests::{
    lab::{Family, Lab},
    node::LabService,
    traffic::{ECHO_PORT, Identity},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(10);

/// One kind of traffic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
}

impl Kind {
    /// IPv4 and IPv6, TCP and UDP.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let protocols = [Protocol::Tcp, Protocol::Udp];
        Family::ALL
            .into_iter()
            .flat_map(move |family| protocols.map(|protocol| Self { family, protocol }))
    }

    /// The VIP of the echo service of this kind, of [`crate::services`].
    pub(crate) fn target(self, lab: &Lab) -> SocketAddr {
        match self.protocol {
            Protocol::Tcp => LabService::stream(1).target(lab, self.family),
            Protocol::Udp => LabService::datagram(2).target(lab, self.family),
        }
    }

    /// Name of that service.
    pub(crate) const fn service(self) -> &'static str {
        match self.protocol {
            Protocol::Tcp => "stream",
            Protocol::Udp => "datagram",
        }
    }

    /// An endpoint of the first client. Ports below 10000 are used by no load.
    pub(crate) fn client(self, lab: &Lab, port: u16) -> SocketAddr {
        let address = lab.topology().links[0].far_addresses(self.family)[0];
        SocketAddr::new(address, port)
    }
}

/// A connection to an echo server, or a UDP flow.
pub(crate) struct Probe<'lab> {
    lab: &'lab Lab,
    family: Family,
    socket: Option<Socket>,
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl<'lab> Probe<'lab> {
    /// Connects from `from` to the echo service of `kind`. A UDP flow begins with [`Self::backend`].
    pub(crate) fn open(lab: &'lab Lab, kind: Kind, from: SocketAddr) -> Result<Self> {
        Self::to(lab, kind, from, kind.target(lab))
    }

    /// Connects from `from` to an echo server at `to`, which is of `kind`.
    pub(crate) fn to(lab: &'lab Lab, kind: Kind, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let opening = async move {
            let opened = timeout(LIMIT, open(kind.protocol, from, to)).await;
            opened.context("no connection in time")?
        };
        let socket = lab.client().block_on(opening);
        let socket = socket.with_context(|| format!("connecting from {from} to {to}"))?;
        Ok(Self {
            lab,
            family: kind.family,
            socket: Some(socket),
        })
    }

    /// Asks the server who it is.
    pub(crate) fn backend(&mut self) -> Result<SocketAddr> {
        let mut socket = self.socket.take().context("the connection is broken")?;
        let asking = async move {
            let tag = timeout(LIMIT, ask(&mut socket)).await;
            (socket, tag)
        };
        let (socket, tag) = self.lab.client().block_on(asking);
        let tag = tag.context("no answer in time")??;
        self.socket = Some(socket);
        let by = Identity::from_tag(tag)?;
        let addresses = self.lab.backends(by.color, self.family);
        let address = addresses
            .get(by.backend as usize)
            .context("an unknown backend")?;
        Ok(SocketAddr::new(*address, ECHO_PORT))
    }
}

async fn open(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Result<Socket> {
    Ok(match protocol {
        Protocol::Tcp => {
            let socket = if to.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            socket.bind(from)?;
            Socket::Tcp(socket.connect(to).await?)
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(from).await?;
            socket.connect(to).await?;
            Socket::Udp(socket)
        }
    })
}

/// The server's tag: the second half of its answer.
async fn ask(socket: &mut Socket) -> Result<u64> {
    let question = 7_u64.to_be_bytes();
    let mut answer = [0; 16];
    match socket {
        Socket::Tcp(stream) => {
            stream.write_all(&question).await?;
            stream.read_exact(&mut answer).await?;
        }
        Socket::Udp(socket) => {
            socket.send(&question).await?;
            socket.recv(&mut answer).await?;
        }
    }
    let (_, tag) = answer.split_at(question.len());
    Ok(u64::from_be_bytes(tag.try_into()?))
}
