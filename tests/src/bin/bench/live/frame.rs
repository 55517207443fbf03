//! Frames as they leave their sender, and as they must arrive.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, TcpHeader, UdpHeader};
use switcher_common::service::Protocol;

use super::job::{FIRST_PORT, FRAME, Job, PORTS_PER_ADDRESS};

/// As they are sent.
pub(super) const TTL: u8 = 64;
const CLIENT_SEQ: u32 = 1_000;
const SERVER_SEQ: u32 = 5_000;

/// What a frame says to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// The client's first segment.
    Syn,
    /// The server's answer.
    SynAck,
    /// The client's answer to that.
    Ack,
    /// TCP data after it, of either end; always the same.
    Segment,
    /// UDP data of either end.
    Datagram,
}

impl Says {
    pub(super) const fn protocol(self) -> Protocol {
        match self {
            Self::Datagram => Protocol::Udp,
            _ => Protocol::Tcp,
        }
    }

    /// Without the addresses' part of its checksum.
    fn tcp(self, is_reverse: bool) -> TcpHeader {
        let (own, other) = if is_reverse {
            (SERVER_SEQ, CLIENT_SEQ)
        } else {
            (CLIENT_SEQ, SERVER_SEQ)
        };
        let is_first = matches!(self, Self::Syn | Self::SynAck);
        let has_ack = self != Self::Syn;
        TcpHeader {
            syn: is_first,
            ack: has_ack,
            psh: self == Self::Segment,
            acknowledgment_number: if has_ack { other + 1 } else { 0 },
            sequence_number: own + u32::from(!is_first),
            window_size: 65_535,
            ..TcpHeader::default()
        }
    }

    const fn payload_len(self) -> usize {
        match self {
            Self::Syn | Self::SynAck | Self::Ack => 0,
            Self::Segment => FRAME - 54,
            Self::Datagram => FRAME - 42,
        }
    }
}

/// A frame on one link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) says: Says,
    pub(super) is_reverse: bool,
    /// Destination and source.
    pub(super) macs: [[u8; 6]; 2],
    pub(super) ttl: u8,
    /// The client; of a job, unspecified with port 0.
    pub(super) client: SocketAddrV4,
    /// The other end, as this link knows it.
    pub(super) server: SocketAddrV4,
}

/// The client of a job's frame, which the generator fills in.
pub(super) const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// The client of a flow, as the generator makes it.
pub(super) fn client(first: Ipv4Addr, flow: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::from_bits(first.to_bits() + flow / PORTS_PER_ADDRESS);
    // As few as that fit 16 bits.
    let port = u16::try_from(flow % PORTS_PER_ADDRESS).unwrap_or(u16::MAX);
    SocketAddrV4::new(address, FIRST_PORT.saturating_add(port))
}

impl Frame {
    pub(super) fn bytes(&self) -> Result<[u8; FRAME]> {
        let (from, to) = if self.is_reverse {
            (self.server, self.client)
        } else {
            (self.client, self.server)
        };
        let [destination, source] = self.macs;
        let link = Ethernet2Header {
            source,
            destination,
            ether_type: EtherType::IPV4,
        };
        let number = IpNumber(self.says.protocol() as u8);
        let mut ip = Ipv4Header::new(0, self.ttl, number, from.ip().octets(), to.ip().octets())?;
        ip.dont_fragment = true;
        let payload = vec![0x5a; self.says.payload_len()];
        let transport = match self.says.protocol() {
            Protocol::Tcp => {
                let mut tcp = self.says.tcp(self.is_reverse);
                (tcp.source_port, tcp.destination_port) = (from.port(), to.port());
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &payload)?;
                tcp.to_bytes().to_vec()
            }
            Protocol::Udp => UdpHeader::with_ipv4_checksum(from.port(), to.port(), &ip, &payload)?
                .to_bytes()
                .to_vec(),
        };
        ip.set_payload_len(transport.len() + payload.len())?;
        ip.header_checksum = ip.calc_header_checksum();
        let parts = [&link.to_bytes()[..], &ip.to_bytes(), &transport, &payload];
        let mut frame = [0; FRAME];
        for (to, from) in frame.iter_mut().zip(parts.concat()) {
            *to = from;
        }
        Ok(frame)
    }

    /// What the generator makes of it: `flows` flows from number `first` on, of clients from `address` on.
    pub(super) fn job(&self, address: Ipv4Addr, first: u32, flows: u32) -> Result<Job> {
        let mut frame = [0; FRAME / 8];
        let bytes = self.bytes()?;
        for (word, bytes) in frame.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(Job {
            frame,
            address: address.to_bits(),
            first,
            flows,
            is_reverse: u32::from(self.is_reverse),
        })
    }

    /// An error unless `arrived` is this frame, of one of the job's flows; the flow's number.
    pub(super) fn check(&self, arrived: [u8; FRAME], job: &Job) -> Result<u32> {
        let at = if self.is_reverse { 30 } else { 26 };
        let [a, b, c, d] = [0, 1, 2, 3].map(|it| arrived[at + it]);
        let at = if self.is_reverse { 36 } else { 34 };
        let port = u16::from_be_bytes([arrived[at], arrived[at + 1]]);
        let client = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port);
        let flow = flow_of(client, job).with_context(|| format!("a frame of no flow: {client}"))?;
        let expected = Self { client, ..*self }.bytes()?;
        ensure!(
            arrived == expected,
            "a frame of flow {flow} arrived as {arrived:02x?}, expected {expected:02x?}"
        );
        Ok(flow)
    }
}

/// The number of a client's flow in the job.
fn flow_of(client: SocketAddrV4, job: &Job) -> Option<u32> {
    let host = client.ip().to_bits().checked_sub(job.address)?;
    let port = u32::from(client.port().checked_sub(FIRST_PORT)?);
    let flow = host.checked_mul(PORTS_PER_ADDRESS)?.checked_add(port)?;
    let is_ours = port < PORTS_PER_ADDRESS && (job.first..job.first + job.flows).contains(&flow);
    is_ours.then_some(flow)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_TO_SERVER: Frame = Frame {
        says: Says::Segment,
        is_reverse: false,
        macs: [[1; 6], [2; 6]],
        ttl: 63,
        client: NOBODY,
        server: SocketAddrV4::new(Ipv4Addr::new(10, 3, 0, 11), 7_001),
    };

    #[test]
    fn a_frame_of_the_job_is_known_by_its_flow_and_any_other_byte_is_noticed() {
        let first = Ipv4Addr::new(10, 1, 0, 2);
        let job = FRAME_TO_SERVER.job(first, 0, 65_536).expect("a job");
        let client = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 3), FIRST_PORT + 5);
        let arrived = Frame {
            client,
            ..FRAME_TO_SERVER
        };
        let bytes = arrived.bytes().expect("a frame");
        let flow = FRAME_TO_SERVER
            .check(bytes, &job)
            .expect("it is of the job");
        assert_eq!(flow, PORTS_PER_ADDRESS + 5);
        for at in 0..FRAME {
            let mut wrong = bytes;
            wrong[at] ^= 0x40;
            let is_another_flow = (26..30).contains(&at) || (34..36).contains(&at);
            let checked = FRAME_TO_SERVER.check(wrong, &job);
            assert!(
                checked.is_err(),
                "byte {at}, {is_another_flow}: {checked:?}"
            );
        }
    }
}
