//! Sections 6 and 7: the rewritten frame, and its way out.

use std::net::IpAddr;

use super::packet::Upper;
use super::rewrite::{Draft, End, Transport};
use super::route::{Route, Way};
use super::types::{Entry, Side, Tuple, Verdict};
use super::{Ended, Model, Packet, checksum, drop};

/// A packet that was rewritten, or answered.
pub(super) struct Sent {
    pub(super) verdict: Verdict,
    pub(super) reason: &'static str,
    pub(super) frame: Vec<u8>,
}

impl Model {
    /// Translates the packet by `entry`, and sends it on. `transport` is where its ports are.
    pub(super) fn send(
        &mut self,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
        entry: &Entry,
        transport: Option<Transport>,
    ) -> Result<Sent, Ended> {
        let to = tuple.translated(entry);
        let mut draft = Draft::of(packet.frame);
        match entry.side {
            Side::Client => draft.set_end(&packet.ip, transport, End::Destination, to.dst),
            Side::Backend => draft.set_end(&packet.ip, transport, End::Source, to.src),
        }
        let unfinished = transport.filter(|it| self.is_unfinished(packet, *it));
        if let Some(it) = unfinished {
            let sum = pseudo_sum(packet, to.src.ip(), to.dst.ip(), it);
            let field = it.checksum_at();
            draft.frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let ends = (to.src.ip(), to.dst.ip());
        let sent = match self.leave(packet, draft, ends, unfinished.is_some()) {
            Err(Ended(Verdict::Drop, "too_big")) => {
                let mtu = self.mtu(packet, to.src.ip(), to.dst.ip());
                return self.too_big(packet, mtu);
            }
            sent => sent?,
        };
        let bytes = packet.frame.len();
        let counters = packet.counters(entry);
        counters.packets += 1;
        counters.bytes += u64::try_from(bytes).expect("a frame's length");
        Ok(sent)
    }

    fn route(&self, packet: &Packet<'_>, src: IpAddr, dst: IpAddr) -> Route {
        self.routes.look_up(packet.ingress, src, dst, packet.ip.len)
    }

    fn mtu(&self, packet: &Packet<'_>, src: IpAddr, dst: IpAddr) -> u32 {
        match self.route(packet, src, dst) {
            Route::TooBig(mtu) => mtu,
            _ => 0,
        }
    }

    /// Sends a rewritten packet that is from `src` to `dst` now; an unfinished one only by the stack.
    pub(super) fn leave(
        &self,
        packet: &Packet<'_>,
        mut draft: Draft,
        (src, dst): (IpAddr, IpAddr),
        is_unfinished: bool,
    ) -> Result<Sent, Ended> {
        let ip = &packet.ip;
        let (verdict, reason) = match self.route(packet, src, dst) {
            Route::Refused => return Err(drop("no_route")),
            Route::TooBig(_) if ip.dont_fragment && !is_unfinished => return Err(drop("too_big")),
            Route::TooBig(_) => (Verdict::Pass, "rewritten_above_mtu"),
            Route::NoNeighbour => (Verdict::Pass, "rewritten_no_neighbour"),
            Route::ForwardingOff => (Verdict::Pass, "rewritten_forwarding_off"),
            Route::NeedsStack => (Verdict::Pass, "rewritten_route_needs_stack"),
            Route::Next { interface, mac } => {
                let way = self
                    .routes
                    .way(packet.ingress, interface, &packet.link.tags);
                let is_direct = matches!(way, Way::Back | Way::On);
                if is_direct && !is_unfinished {
                    draft.set_ttl(ip, ip.ttl - 1);
                    draft.set_link(self.routes.interfaces[interface].mac, mac);
                }
                match way {
                    Way::Back | Way::On if is_unfinished => {
                        (Verdict::Pass, "rewritten_checksum_left")
                    }
                    Way::Back => (Verdict::Tx, "transmitted"),
                    Way::On => (Verdict::Redirect, "redirected"),
                    Way::OtherTags => (Verdict::Pass, "rewritten_vlan"),
                    Way::NotTaken => (Verdict::Pass, "rewritten_no_redirect"),
                }
            }
        };
        Ok(Sent {
            verdict,
            reason,
            frame: draft.frame,
        })
    }

    /// Section 6: whether the packet's checksum is still to be computed.
    pub(super) fn is_unfinished(&self, packet: &Packet<'_>, transport: Transport) -> bool {
        let ip = &packet.ip;
        let is_fragment = matches!(
            ip.upper,
            Upper::Transport {
                fragment: Some(_),
                ..
            }
        );
        if !self.routes.interfaces[packet.ingress].told.generic || is_fragment {
            return false;
        }
        let field = transport.checksum_at();
        let pseudo = pseudo_sum(packet, ip.src, ip.dst, transport);
        if packet.frame[field..field + 2] != pseudo.to_be_bytes() {
            return false;
        }
        let body = &packet.frame[transport.at..ip.at + ip.len];
        let whole = u64::from(pseudo) + checksum::sum(body);
        body.len() > LONGEST_SUMMED || !whole.is_multiple_of(65_535)
    }

    /// Whether `XDP_TX` can leave by the interface that the packet came in by.
    pub(super) fn can_answer(&self, packet: &Packet<'_>) -> bool {
        let told = self.routes.interfaces[packet.ingress].told;
        told.generic || !told.no_transmit
    }
}

/// What is longer from its transport header on, in bytes, is not summed up.
const LONGEST_SUMMED: usize = 9_727;

/// The sum of the pseudo header of the packet, if it were from `src` to `dst`: 1 to 65 535.
fn pseudo_sum(packet: &Packet<'_>, src: IpAddr, dst: IpAddr, transport: Transport) -> u16 {
    let len = packet.ip.at + packet.ip.len - transport.at;
    let sum = checksum::sum(&octets(src))
        + checksum::sum(&octets(dst))
        + u64::from(transport.protocol)
        + u64::try_from(len).expect("a packet's length");
    match u16::try_from(sum % 65_535) {
        Ok(0) | Err(_) => 0xffff,
        Ok(sum) => sum,
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(it) => it.octets().to_vec(),
        IpAddr::V6(it) => it.octets().to_vec(),
    }
}
