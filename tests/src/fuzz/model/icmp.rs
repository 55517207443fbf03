//! Section 5: ICMP and ICMPv6.

use std::net::IpAddr;

use super::packet::Ip;
use super::rewrite::{Draft, End, Transport, Zero, swap};
use super::send::Sent;
use super::types::{Entry, ICMP, ICMPV6, Side, TCP, Tuple, UDP, Verdict, endpoint};
use super::{Ended, Model, Packet, checksum, drop, pass};

/// Bytes of an ICMP header.
const HEADER: usize = 8;

/// The packet that an error is about.
struct Quote {
    /// Its IP header.
    ip: Ip,
    transport: Transport,
    /// Of the flow's packets that go where the error goes.
    tuple: Tuple,
}

impl Model {
    /// A message that begins at `at`.
    pub(super) fn message(&mut self, packet: &mut Packet<'_>, at: usize) -> Result<Sent, Ended> {
        let ip = packet.ip.clone();
        let to_vip = self.is_vip(ip.dst);
        let unrelated = pass(if to_vip { "icmp_unrelated" } else { "not_ours" });
        let message = &packet.frame[at..ip.at + ip.len];
        if message.len() < HEADER {
            return Err(unrelated);
        }
        let (echo, errors): (u8, &[u8]) = if ip.is_v4 {
            (8, &[3, 11, 12])
        } else {
            (128, &[1, 2, 3, 4])
        };
        match (message[0], message[1]) {
            (kind, 0) if kind == echo && to_vip => {
                if self.is_martian(ip.src) {
                    return Err(drop("martian_source"));
                }
                if !self.can_answer(packet) {
                    return Err(unrelated);
                }
                Ok(answer(packet, at))
            }
            (kind, _) if errors.contains(&kind) => {
                let quote = quote(packet.frame, &ip, at).ok_or(unrelated)?;
                let found = self.find_or_pair(packet, &quote.tuple);
                let (_, entry) = found.ok_or(unrelated)?;
                let is_too_big = match (ip.is_v4, message[0], message[1]) {
                    (true, kind, code) => (kind, code) == (3, 4),
                    (false, kind, _) => kind == 2,
                };
                if !is_too_big && self.is_withheld(packet, &quote.tuple, &entry) {
                    return Err(drop("refusal_withheld"));
                }
                self.error(packet, at, &quote, &entry)
            }
            _ => Err(unrelated),
        }
    }

    fn error(
        &mut self,
        packet: &mut Packet<'_>,
        at: usize,
        quote: &Quote,
        entry: &Entry,
    ) -> Result<Sent, Ended> {
        if entry.left {
            return Err(drop("late_answer"));
        }
        if packet.ip.ttl <= 1 {
            return Err(drop("ttl_exceeded"));
        }
        let ip = &packet.ip;
        let (outside, inside) = match entry.side {
            Side::Client => (End::Destination, End::Source),
            Side::Backend => (End::Source, End::Destination),
        };
        let mut draft = Draft::of(packet.frame);
        let before = message_sum(&draft, ip, at);
        draft.set_end(&quote.ip, Some(quote.transport), inside, entry.to);
        draft.set_end(ip, None, outside, entry.to);
        let after = message_sum(&draft, ip, at);
        draft.update(at + 2, before, after, Zero::Zero);
        let (mut src, mut dst) = (ip.src, ip.dst);
        match entry.side {
            Side::Client => dst = entry.to.ip(),
            Side::Backend => src = entry.to.ip(),
        }
        let sent = self.leave(packet, draft, (src, dst), false)?;
        packet.note("icmp_translated");
        Ok(sent)
    }
}

/// The sum of what the message's checksum covers.
fn message_sum(draft: &Draft, ip: &Ip, at: usize) -> u64 {
    let message = checksum::sum(&draft.frame[at..ip.at + ip.len]);
    if ip.is_v4 {
        message
    } else {
        message + checksum::sum(&draft.frame[ip.at + 8..ip.at + 40])
    }
}

/// The answer to an echo request.
fn answer(packet: &Packet<'_>, at: usize) -> Sent {
    let ip = &packet.ip;
    let mut draft = Draft::of(packet.frame);
    let before = message_sum(&draft, ip, at);
    draft.frame[at] = if ip.is_v4 { 0 } else { 129 };
    let after = message_sum(&draft, ip, at);
    draft.update(at + 2, before, after, Zero::Zero);
    draft.swap_addresses(ip);
    draft.set_ttl(ip, 64);
    swap(&mut draft.frame, 0..6, 6..12);
    Sent {
        verdict: Verdict::Tx,
        reason: "echo_answered",
        frame: draft.frame,
    }
}

/// What the error at `at` quotes, if it is a packet of TCP or UDP of its own addressee.
fn quote(frame: &[u8], ip: &Ip, at: usize) -> Option<Quote> {
    let begin = at + HEADER;
    let bytes = &frame[begin..ip.at + ip.len];
    let first = *bytes.first()?;
    let (len, protocol, src, dst) = if ip.is_v4 {
        let len = usize::from(first & 0x0f) * 4;
        let header = bytes.get(..20)?;
        let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        if first >> 4 != 4 || len < 20 || offset != 0 {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
            Some(octets.into())
        };
        (len, header[9], address(12)?, address(16)?)
    } else {
        let header = bytes.get(..40)?;
        if first >> 4 != 6 {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
            Some(octets.into())
        };
        (40, header[6], address(8)?, address(24)?)
    };
    let quoted = bytes.get(len..)?;
    if !matches!(protocol, TCP | UDP) || quoted.len() < 8 || src != ip.dst {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([quoted[at], quoted[at + 1]]);
    Some(Quote {
        ip: Ip {
            at: begin,
            len: bytes.len(),
            src,
            dst,
            ..ip.clone()
        },
        transport: Transport {
            protocol,
            at: begin + len,
            has_checksum: protocol == UDP || quoted.len() >= 18,
        },
        tuple: Tuple {
            src: endpoint(dst, port(2)),
            dst: endpoint(src, port(0)),
            protocol,
        },
    })
}

/// The protocol number of the family's ICMP.
pub(super) const fn number(is_v4: bool) -> u8 {
    if is_v4 { ICMP } else { ICMPV6 }
}
