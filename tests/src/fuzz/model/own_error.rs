//! The ICMP errors that the node itself sends (section 7).

use std::net::IpAddr;

use super::packet::Upper;
use super::rewrite::Transport;
use super::send::{Sent, octets};
use super::types::Verdict;
use super::{Ended, Model, Packet, checksum, drop, icmp};

/// Bytes of a packet that are quoted.
const QUOTED: usize = 128;

impl Model {
    /// Tells the sender that the packet's time to live is over.
    pub(super) fn time_exceeded(&mut self, packet: &Packet<'_>) -> Result<Sent, Ended> {
        let kind = if packet.ip.is_v4 { 11 } else { 3 };
        let rest = [0; 4];
        self.tell(packet, [kind, 0], rest, "time_exceeded_sent")
            .ok_or(drop("ttl_exceeded"))
    }

    /// Tells the sender that the next hop takes `mtu` bytes at most.
    pub(super) fn too_big(&mut self, packet: &Packet<'_>, mtu: u32) -> Result<Sent, Ended> {
        let what = if packet.ip.is_v4 { [3, 4] } else { [2, 0] };
        self.tell(packet, what, mtu.to_be_bytes(), "too_big_sent")
            .ok_or(drop("too_big"))
    }

    fn tell(
        &mut self,
        packet: &Packet<'_>,
        what: [u8; 2],
        rest: [u8; 4],
        reason: &'static str,
    ) -> Option<Sent> {
        let Upper::Transport {
            protocol,
            at,
            fragment,
        } = packet.ip.upper
        else {
            return None;
        };
        let transport = Transport {
            protocol,
            at,
            has_checksum: true,
        };
        let is_later = fragment.is_some_and(|it| !it.is_first());
        if is_later
            || !super::packet::has_ports(protocol)
            || self.is_martian(packet.ip.src)
            || !self.can_answer(packet)
            || self.is_unfinished(packet, transport)
        {
            return None;
        }
        let cap = if reason == "too_big_sent" {
            &mut self.told_large
        } else {
            &mut self.told_late
        };
        if !cap.take(packet.now) {
            return None;
        }
        let ip = &packet.ip;
        let len = (at - ip.at + 8).max(QUOTED).min(ip.len) / 4 * 4;
        let quoted = &packet.frame[ip.at..ip.at + len];
        let mut message = [&what[..], &[0, 0], &rest, quoted].concat();
        let sum = if ip.is_v4 {
            checksum::of(&message)
        } else {
            let pseudo = [
                octets(ip.dst),
                octets(ip.src),
                u32::try_from(message.len()).ok()?.to_be_bytes().to_vec(),
                vec![0, 0, 0, icmp::number(false)],
            ];
            checksum::of(&[&pseudo.concat()[..], &message].concat())
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = [&packet.frame[6..12], &packet.frame[..6]].concat();
        frame.extend(&packet.frame[12..ip.at]);
        frame.extend(header(ip.dst, ip.src, message.len()));
        frame.extend(message);
        Some(Sent {
            verdict: Verdict::Tx,
            reason,
            frame,
        })
    }
}

/// An IP header of the node's own, for `len` bytes of ICMP.
fn header(src: IpAddr, dst: IpAddr, len: usize) -> Vec<u8> {
    let word = |len: usize| u16::try_from(len).expect("a short message").to_be_bytes();
    let ends = [octets(src), octets(dst)].concat();
    if src.is_ipv6() {
        let fixed = [&[0x60, 0, 0, 0][..], &word(len), &[icmp::number(false), 64]];
        return [fixed.concat(), ends].concat();
    }
    let fixed = [
        &[0x45, 0][..],
        &word(20 + len),
        &[0, 0, 0x40, 0, 64, icmp::number(true), 0, 0],
    ];
    let mut header = [fixed.concat(), ends].concat();
    let sum = checksum::of(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}
