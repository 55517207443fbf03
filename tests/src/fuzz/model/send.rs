//! Sections 6 and 7: the rewritten frame, and its way out.

use std::net::IpAddr;

use super::rewrite::{Draft, End, Transport};
use super::route::{Route, Way};
use super::types::{Entry, Side, Tuple, Verdict};
use super::{Ended, Model, Packet, drop};

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
        let sent = match self.leave(packet, draft, to.src.ip(), to.dst.ip()) {
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

    /// Sends a rewritten packet that is from `src` to `dst` now.
    pub(super) fn leave(
        &self,
        packet: &Packet<'_>,
        mut draft: Draft,
        src: IpAddr,
        dst: IpAddr,
    ) -> Result<Sent, Ended> {
        let ip = &packet.ip;
        let is_generic = self.routes.interfaces[packet.ingress].told.generic;
        let (verdict, reason) = match self.route(packet, src, dst) {
            Route::Refused => return Err(drop("no_route")),
            Route::TooBig(_) if ip.dont_fragment && !is_generic => return Err(drop("too_big")),
            Route::TooBig(_) => (Verdict::Pass, "rewritten_above_mtu"),
            Route::NoNeighbour => (Verdict::Pass, "rewritten_no_neighbour"),
            Route::ForwardingOff => (Verdict::Pass, "rewritten_forwarding_off"),
            Route::NeedsStack => (Verdict::Pass, "rewritten_route_needs_stack"),
            Route::Next { interface, mac } => {
                let way = self
                    .routes
                    .way(packet.ingress, interface, &packet.link.tags);
                if matches!(way, Way::Back | Way::On) {
                    draft.set_ttl(ip, ip.ttl - 1);
                    draft.set_link(self.routes.interfaces[interface].mac, mac);
                }
                match way {
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

    /// Whether `XDP_TX` can leave by the interface that the packet came in by.
    pub(super) fn can_answer(&self, packet: &Packet<'_>) -> bool {
        let told = self.routes.interfaces[packet.ingress].told;
        told.generic || !told.no_transmit
    }
}
