//! RSTs from the agent to both sides of cut TCP flows, so that a side that only waits hears of it.
//!
//! Without the right to send them each side is reset by the program, in answer to its next packet.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};
use switcher_common::{address::WideAddress, packet::OWN_TTL, scan::CutFlow, service};

/// Raw sockets of both families.
pub(super) struct Resetter {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

/// One RST: as if `from` had sent it to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reset {
    from: SocketAddr,
    to: SocketAddr,
    /// Sequence number: what `to` expects next, if nothing is on its way.
    seq: u32,
}

impl Resetter {
    /// Opens the sockets; says so where the agent may not.
    pub(super) fn open() -> Self {
        let socket = |domain| match raw_socket(domain) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "no raw socket: both sides of a cut flow hear of it with their own next packet; CAP_NET_RAW would let the agent tell them at once"
                );
                None
            }
        };
        Self {
            v4: socket(Domain::IPV4),
            v6: socket(Domain::IPV6),
        }
    }

    /// Resets both sides of `flow`.
    pub(super) fn reset(&mut self, flow: &CutFlow) {
        if service::Protocol::from_number(flow.protocol) != Some(service::Protocol::Tcp) {
            return;
        }
        for reset in resets(flow) {
            self.send(&reset);
        }
    }

    fn send(&self, reset: &Reset) {
        let socket = if reset.to.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        let Some(socket) = socket else {
            return;
        };
        // A raw socket takes no port.
        let to = SocketAddr::new(reset.to.ip(), 0);
        let sent = packet(reset).map(|bytes| socket.send_to(&bytes, &to.into()));
        if let Some(Err(error)) = sent {
            tracing::debug!(%error, to = %reset.to, "RST not sent; the program answers its next packet");
        }
    }
}

fn raw_socket(domain: Domain) -> std::io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    if domain == Domain::IPV6 {
        socket.set_header_included_v6(true)?;
    } else {
        socket.set_header_included_v4(true)?;
    }
    // A full send buffer must not hold up the scan: the program answers instead.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// To the client as from the VIP, to the backend as from the client.
fn resets(flow: &CutFlow) -> [Reset; 2] {
    let endpoint = |address: WideAddress, port_be: u16| {
        SocketAddr::new(address.to_ip(), u16::from_be(port_be))
    };
    let client = endpoint(flow.client, flow.client_port_be);
    [
        Reset {
            from: endpoint(flow.vip, flow.vip_port_be),
            to: client,
            seq: flow.backend_next_seq,
        },
        Reset {
            from: client,
            to: endpoint(flow.backend, flow.backend_port_be),
            seq: flow.client_next_seq,
        },
    ]
}

/// The packet, IP header included; `None` for addresses of two families, which no flow has.
fn packet(reset: &Reset) -> Option<Vec<u8>> {
    let ip = match (reset.from.ip(), reset.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            PacketBuilder::ipv4(from.octets(), to.octets(), OWN_TTL)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            PacketBuilder::ipv6(from.octets(), to.octets(), OWN_TTL)
        }
        _ => return None,
    };
    let tcp = ip
        .tcp(reset.from.port(), reset.to.port(), reset.seq, 0)
        .rst();
    let mut bytes = Vec::with_capacity(tcp.size(0));
    tcp.write(&mut bytes, &[]).ok()?;
    Some(bytes)
}
