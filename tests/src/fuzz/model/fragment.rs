//! Section 4: later fragments follow their first one.

use std::collections::HashMap;
use std::net::IpAddr;

use super::packet::{Fragment, Ip, has_ports, is_extension};
use super::send::Sent;
use super::types::Tuple;
use super::{Ended, Model, Packet, drop, icmp, pass};

/// How long a first fragment is remembered, in ticks.
const LIFETIME: u32 = 28_611;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Identification.
    pub identification: u32,
    /// Protocol number in the IPv4 header or in the IPv6 fragment header.
    pub protocol: u8,
}

/// First fragments: their 5-tuples, and when they came.
pub type Fragments = HashMap<Key, (Tuple, u32)>;

const fn key(ip: &Ip, fragment: &Fragment) -> Key {
    Key {
        src: ip.src,
        dst: ip.dst,
        identification: fragment.identification,
        protocol: fragment.protocol,
    }
}

impl Model {
    /// Remembers the first fragment of a datagram of `tuple`.
    pub(super) fn keep(&mut self, packet: &Packet<'_>, fragment: &Fragment, tuple: Tuple) {
        let kept = (tuple, packet.now);
        self.fragments.insert(key(&packet.ip, fragment), kept);
    }

    /// A fragment without a transport header, of which the headers say `protocol`.
    pub(super) fn later_fragment(
        &mut self,
        packet: &mut Packet<'_>,
        fragment: &Fragment,
        protocol: u8,
    ) -> Result<Sent, Ended> {
        let ip = packet.ip.clone();
        let is_vip = self.is_vip(ip.dst);
        let kept = self.fragments.get(&key(&ip, fragment)).copied();
        let is_recent = |tick: u32| {
            let age = packet.now.wrapping_sub(tick);
            age <= LIFETIME || age > u32::MAX / 2
        };
        let Some((tuple, _)) = kept.filter(|(_, tick)| is_recent(*tick)) else {
            let is_known = has_ports(protocol)
                || protocol == icmp::number(ip.is_v4)
                || (!ip.is_v4 && is_extension(protocol));
            return Err(match (is_known, is_vip) {
                (true, true) => drop("fragment"),
                (true, false) => pass("fragment_from_backend"),
                (false, true) => pass("other_protocol"),
                (false, false) => pass("not_ours"),
            });
        };
        let Some((_, entry)) = self.tables.find(&tuple) else {
            let listeners = &self.config.listeners;
            let is_listener = listeners.contains_key(&(tuple.dst, tuple.protocol));
            return Err(match (is_vip, is_listener) {
                (true, true) => drop("fragment"),
                (true, false) => pass("not_ours"),
                (false, _) => pass("fragment_from_backend"),
            });
        };
        self.check_hold(&entry, false, packet.now)?;
        if tuple.is_tcp() && self.is_cut(&tuple, &entry, packet.now) {
            return Err(drop("flow_cut"));
        }
        if packet.check_ttl().is_err() {
            return self.time_exceeded(packet);
        }
        self.send(packet, &tuple, &entry, None)
    }
}
