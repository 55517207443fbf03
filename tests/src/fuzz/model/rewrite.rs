//! Section 6: the translated frame, its checksums computed anew over all that they cover.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::checksum;
use super::packet::{Fragment, Ip, Upper};
use super::types::{TCP, UDP};

/// Which end of the packet is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Source.
    Source,
    /// Destination.
    Destination,
}

/// A frame being rewritten.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Its bytes.
    pub(super) frame: Vec<u8>,
}

impl Draft {
    /// From the frame as it came.
    #[must_use]
    pub(super) fn of(frame: &[u8]) -> Self {
        Self {
            frame: frame.to_vec(),
        }
    }

    /// Writes an address and, where `transport` says what is there, a port.
    pub(super) fn set_end(
        &mut self,
        ip: &Ip,
        transport: Option<Transport>,
        end: End,
        to: SocketAddr,
    ) {
        let at = transport.map(|it| it.at);
        let covered = self.pseudo(ip, at);
        let header = self.header_sum(ip);
        self.write_address(ip, end, to.ip());
        if let Some(at) = at {
            let at = at + if end == End::Source { 0 } else { 2 };
            self.frame[at..at + 2].copy_from_slice(&to.port().to_be_bytes());
        }
        let after = self.pseudo(ip, at);
        match transport {
            Some(it) if it.has_checksum => {
                let zero = if it.protocol == UDP {
                    Zero::MeansNone
                } else {
                    Zero::Zero
                };
                self.update(it.checksum_at(), covered, after, zero);
            }
            _ => {}
        }
        self.update_header(ip, header);
    }

    /// Writes the time to live.
    pub(super) fn set_ttl(&mut self, ip: &Ip, ttl: u8) {
        let header = self.header_sum(ip);
        self.frame[ip.at + if ip.is_v4 { 8 } else { 7 }] = ttl;
        self.update_header(ip, header);
    }

    /// Source becomes destination, which changes no checksum.
    pub(super) fn swap_addresses(&mut self, ip: &Ip) {
        let both = addresses(ip);
        let middle = both.start + both.len() / 2;
        swap(&mut self.frame, both.start..middle, middle..both.end);
    }

    /// The packet is no fragment, and has no flags but don't-fragment.
    pub(super) fn make_whole(&mut self, ip: &Ip) {
        if ip.is_v4 {
            let header = self.header_sum(ip);
            self.frame[ip.at + 6] &= 0x40;
            self.frame[ip.at + 7] = 0;
            self.update_header(ip, header);
        } else if let Upper::Transport {
            fragment: Some(Fragment {
                header: Some(at), ..
            }),
            ..
        } = ip.upper
        {
            self.frame[at + 3] &= 0xfe;
        }
    }

    /// The frame ends where its IP packet does, which has the time to live of the node's own.
    pub(super) fn set_own_lengths(&mut self, ip: &Ip) {
        let header = self.header_sum(ip);
        let len = self.frame.len() - ip.at - if ip.is_v4 { 0 } else { 40 };
        let len = u16::try_from(len).expect("a frame's length");
        let (at, ttl) = if ip.is_v4 { (2, 8) } else { (4, 7) };
        self.frame[ip.at + at..ip.at + at + 2].copy_from_slice(&len.to_be_bytes());
        self.frame[ip.at + ttl] = 64;
        self.update_header(ip, header);
    }

    /// All that the checksum of the transport part at `at` covers.
    pub(super) fn transport_cover(&self, ip: &Ip, at: usize, protocol: u8) -> Vec<u8> {
        let mut covered = self.frame[addresses(ip)].to_vec();
        let len = u16::try_from(self.frame.len() - at).expect("a frame's length");
        covered.extend([0, protocol]);
        covered.extend(len.to_be_bytes());
        covered.extend(&self.frame[at..]);
        covered
    }

    /// Writes the link addresses.
    pub(super) fn set_link(&mut self, source: [u8; 6], destination: [u8; 6]) {
        self.frame[..6].copy_from_slice(&destination);
        self.frame[6..12].copy_from_slice(&source);
    }

    /// A checksum field after its cover changed.
    pub(super) fn update(&mut self, field: usize, before: u64, after: u64, zero: Zero) {
        let old = u16::from_be_bytes([self.frame[field], self.frame[field + 1]]);
        if zero == Zero::MeansNone && old == 0 {
            return;
        }
        let new = match checksum::kept(old, before, after) {
            0 if zero == Zero::MeansNone => 0xffff,
            new => new,
        };
        self.frame[field..field + 2].copy_from_slice(&new.to_be_bytes());
    }

    fn update_header(&mut self, ip: &Ip, before: u64) {
        if ip.is_v4 {
            let after = self.header_sum(ip);
            self.update(ip.at + 10, before, after, Zero::Zero);
        }
    }

    fn header_sum(&self, ip: &Ip) -> u64 {
        if !ip.is_v4 {
            return 0;
        }
        let len = usize::from(self.frame[ip.at] & 0x0f) * 4;
        checksum::sum(&self.frame[ip.at..ip.at + len])
    }

    /// The sum of the addresses, and of the transport part if there is one. Lengths and protocol
    /// number belong to it too, but do not change.
    fn pseudo(&self, ip: &Ip, transport: Option<usize>) -> u64 {
        let addresses = checksum::sum(&self.frame[addresses(ip)]);
        let end = self.frame.len().min(ip.at + ip.len);
        let payload = transport.map_or(0, |at| checksum::sum(&self.frame[at..end]));
        addresses + payload
    }

    fn write_address(&mut self, ip: &Ip, end: End, address: IpAddr) {
        let both = addresses(ip);
        let middle = both.start + both.len() / 2;
        let place = match end {
            End::Source => both.start..middle,
            End::Destination => middle..both.end,
        };
        match address {
            IpAddr::V4(it) => self.frame[place].copy_from_slice(&it.octets()),
            IpAddr::V6(it) => self.frame[place].copy_from_slice(&it.octets()),
        }
    }
}

/// Exchanges two parts of the same length.
pub(super) fn swap(bytes: &mut [u8], first: Range<usize>, second: Range<usize>) {
    for (a, b) in first.zip(second) {
        bytes.swap(a, b);
    }
}

/// A transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    pub(super) protocol: u8,
    /// Where it begins in the frame.
    pub(super) at: usize,
    /// Whether its checksum is there.
    pub(super) has_checksum: bool,
}

impl Transport {
    /// Where the checksum is in the frame.
    pub(super) const fn checksum_at(&self) -> usize {
        self.at + if self.protocol == TCP { 16 } else { 6 }
    }
}

/// What a zero in a checksum field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    /// A sum like any other.
    Zero,
    /// No checksum: it stays, and a sum of zero is written as 0xffff.
    MeansNone,
}

const fn addresses(ip: &Ip) -> Range<usize> {
    if ip.is_v4 {
        ip.at + 12..ip.at + 20
    } else {
        ip.at + 8..ip.at + 40
    }
}
