//! A plain model of the data path, made from `docs/PACKETS.md` and sharing no code with the program:
//! its own parser ([`packet`]), checksums ([`checksum`]), state machine ([`state`]) and routes
//! ([`route`]). Slow where that makes it plain.

pub mod chance;
pub mod checksum;
pub mod cut;
mod flow;
pub mod fragment;
mod fresh;
mod icmp;
mod own_error;
mod packet;
pub mod rate;
mod rewrite;
pub mod route;
mod select;
mod send;
mod state;
pub mod sweep;
pub mod tables;
pub mod types;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use chance::Heard;
use cut::Order;
use flow::Found;
use fragment::Fragments;
use packet::{Broken, Ip, Link, Upper, has_ports};
use rate::Cap;
use rewrite::Transport;
use route::{InterfaceId, Routes};
use sweep::{Idle, Ring};
use tables::Tables;
use types::{Outcome, Traffic, Tuple, Verdict};

/// Where traffic is counted: service and color.
type Counted = ((u16, u8), Traffic);

/// What the maps say that the agent writes, in the model's words.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Listeners by VIP, port and protocol number.
    pub listeners: HashMap<(SocketAddr, u8), Listener>,
    /// Addresses of listeners.
    pub vips: HashSet<IpAddr>,
    /// Whose replies come from an endpoint, by its address, port and protocol number: the listener's
    /// VIP and port and the backend's id. `None`: not one listener's alone.
    pub endpoints: HashMap<(SocketAddr, u8), Option<(SocketAddr, u32)>>,
    /// The VIPs and ports of those who alone use an endpoint, or did in the edition that does not count.
    pub owners: HashMap<(SocketAddr, u8), Vec<SocketAddr>>,
    /// Ids of backends from whose endpoints nobody else's replies come.
    pub exclusive: HashSet<u32>,
    /// Backends by id.
    pub backends: HashMap<u32, Backend>,
    /// Backend ids: the slots of all tables.
    pub slots: Vec<u32>,
    /// The bitmap of addresses.
    pub filter: Vec<u64>,
}

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// First slot and number of slots of each color's table.
    pub tables: [(u32, u32); 2],
    /// Which of its backends' rings counts, by color.
    pub rings: [usize; 2],
    /// Its service.
    pub service: u16,
    /// Selects the standby.
    pub preview: bool,
    /// Half-open flows may go on to another backend.
    pub second_chance: bool,
    /// It is configured no more: the tick from which nobody is there.
    pub removed_until: Option<u32>,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it is.
    pub endpoint: SocketAddr,
    /// The next ones in its rings.
    pub next: [u32; 2],
    /// Its service.
    pub service: u16,
    /// 0 blue, 1 green.
    pub color: u8,
}

/// Active and base color of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Colors {
    /// Of fresh flows: 0 blue, 1 green.
    pub active: u8,
    /// Of packets in the middle of a stream.
    pub base: u8,
    /// Share of the clients, in percent, whose fresh flows go to the other color.
    pub split: u8,
}

/// The whole state.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the agent has written.
    pub config: Config,
    /// Switch state by service id.
    pub colors: Vec<Colors>,
    /// The node's routes.
    pub routes: Routes,
    /// Flows.
    pub tables: Tables,
    /// What the program keeps of established flows: IPv4's, IPv6's.
    pub rings: [Ring; 2],
    /// Idle timeouts by service id.
    pub idle: Vec<Idle>,
    /// Orders to cut flows, by backend id.
    pub cuts: HashMap<u32, Order>,
    /// What was heard of backends, by id.
    pub heard: HashMap<u32, Heard>,
    /// Window, and established flows that a backend has reset in it, by id.
    pub resets: HashMap<u32, (u32, u32)>,
    /// First fragments of datagrams.
    pub fragments: Fragments,
    /// Flows that may be recorded.
    pub inserts: Cap,
    /// ICMP errors of the node's own: time to live over.
    pub told_late: Cap,
    /// The same: too large for the next hop.
    pub told_large: Cap,
}

/// What is known of the packet at hand, and what was counted so far.
struct Packet<'a> {
    frame: &'a [u8],
    link: Link,
    ip: Ip,
    ingress: InterfaceId,
    now: u32,
    notes: Vec<&'static str>,
    counted: Vec<Counted>,
}

/// A packet that ends without being rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended(Verdict, &'static str);

const fn pass(reason: &'static str) -> Ended {
    Ended(Verdict::Pass, reason)
}

const fn drop(reason: &'static str) -> Ended {
    Ended(Verdict::Drop, reason)
}

impl Model {
    /// What happens to a frame that comes in by `ingress` at tick `now`.
    pub fn packet(&mut self, frame: &[u8], ingress: InterfaceId, now: u32) -> Outcome {
        if frame[0] & 1 != 0 {
            return ended(pass("link_multicast"), Vec::new(), Vec::new());
        }
        let Some(link) = packet::link(frame) else {
            return ended(pass("not_ip"), Vec::new(), Vec::new());
        };
        let mut packet = Packet {
            ip: packet::ip(frame, &link),
            frame,
            link,
            ingress,
            now,
            notes: Vec::new(),
            counted: Vec::new(),
        };
        match self.process(&mut packet) {
            Err(end) => ended(end, packet.notes, packet.counted),
            Ok(sent) => Outcome {
                verdict: sent.verdict,
                reason: sent.reason,
                notes: packet.notes,
                frame: Some(sent.frame),
                traffic: packet.counted,
            },
        }
    }

    fn process(&mut self, packet: &mut Packet<'_>) -> Result<send::Sent, Ended> {
        let ip = packet.ip.clone();
        let icmp = icmp::number(ip.is_v4);
        let may_be_ours = self.may_be_ours(ip.dst) || self.may_be_ours(ip.src);
        if !may_be_ours && !ip.is_directly(icmp) {
            return Err(pass("not_ours"));
        }
        let Upper::Transport {
            protocol,
            at,
            fragment,
        } = ip.upper
        else {
            return Err(self.if_ours(&ip, "extension_headers"));
        };
        if ip.is_malformed {
            return Err(self.if_ours(&ip, "bad_header"));
        }
        if ip.at + ip.len > packet.frame.len() {
            return Err(self.if_ours(&ip, "truncated"));
        }
        match fragment {
            Some(part) if !part.is_first() => {
                return self.later_fragment(packet, &part, protocol);
            }
            Some(_) if protocol == icmp && self.is_vip(ip.dst) => return Err(drop("fragment")),
            Some(_) if protocol == icmp => return Err(pass("fragment_from_backend")),
            _ if protocol == icmp => return self.message(packet, at),
            _ if !has_ports(protocol) => {
                return Err(pass(self.named(&ip, "other_protocol", "not_ours")));
            }
            _ => {}
        }
        let (tuple, segment) =
            match packet::segment(packet.frame, &ip, protocol, at, fragment.is_some()) {
                Ok(read) => read,
                Err(broken) => return Err(self.broken(packet, protocol, at, name(broken))),
            };
        if let Some(part) = fragment {
            self.keep(packet, &part, tuple);
        }
        let found = match self.flow(packet, &tuple, &segment) {
            Err(Ended(_, "ttl_exceeded")) => return self.time_exceeded(packet),
            found => found?,
        };
        let transport = Transport {
            protocol,
            at,
            has_checksum: true,
        };
        match found {
            Found::Entry(entry) => self.send(packet, &tuple, &entry, Some(transport)),
            Found::Cut if !self.can_answer(packet) => Err(drop("flow_cut")),
            Found::Cut => {
                let is_unfinished = self.is_unfinished(packet, transport);
                Ok(cut::reset(packet, at, &segment, is_unfinished))
            }
        }
    }

    /// Rule 2.1, by the map of addresses: it may say yes where the tables say no.
    fn may_be_ours(&self, address: IpAddr) -> bool {
        let bit = select::filter_bit(address);
        self.config.filter[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn is_vip(&self, address: IpAddr) -> bool {
        self.config.vips.contains(&address)
    }

    /// *Drop if ours.*
    fn if_ours(&self, ip: &Ip, reason: &'static str) -> Ended {
        if self.is_vip(ip.dst) {
            drop(reason)
        } else {
            pass("not_ours")
        }
    }

    fn named(&self, ip: &Ip, to_vip: &'static str, else_: &'static str) -> &'static str {
        if self.is_vip(ip.dst) { to_vip } else { else_ }
    }

    /// The end of rule 2.6: whoever a broken packet is to, it is ours if it has a flow.
    fn broken(
        &mut self,
        packet: &mut Packet<'_>,
        protocol: u8,
        at: usize,
        reason: &'static str,
    ) -> Ended {
        let tuple = packet::ports(packet.frame, &packet.ip, protocol, at);
        if let Some(tuple) = tuple
            && (self.tables.find(&tuple).is_some() || self.pair(packet, &tuple).is_some())
        {
            return drop(reason);
        }
        self.if_ours(&packet.ip, reason)
    }
}

const fn name(broken: Broken) -> &'static str {
    match broken {
        Broken::Truncated => "truncated",
        Broken::BadHeader => "bad_header",
    }
}

fn ended(end: Ended, notes: Vec<&'static str>, traffic: Vec<Counted>) -> Outcome {
    Outcome {
        verdict: end.0,
        reason: end.1,
        notes,
        frame: None,
        traffic,
    }
}

impl Packet<'_> {
    fn note(&mut self, reason: &'static str) {
        self.notes.push(reason);
    }

    /// The counters of the flow's color.
    fn counters(&mut self, entry: &types::Entry) -> &mut Traffic {
        let of = (entry.service, entry.color);
        let known = self.counted.iter().position(|(it, _)| *it == of);
        let at = known.unwrap_or_else(|| {
            self.counted.push((of, Traffic::default()));
            self.counted.len() - 1
        });
        &mut self.counted[at].1
    }

    /// Counts the end of a flow that is forgotten as it is, if it was in flight.
    fn count_forgotten(&mut self, entry: &types::Entry) {
        if entry.is_in_flight() && !entry.preview {
            self.counters(entry).ended += 1;
        }
    }

    /// Counts what a flow's new state means for what is in flight. Who refuses a packet in mid-stream ends
    /// nothing: it never was in flight.
    fn count_change(&mut self, before: &types::Entry, after: types::State) {
        let after = types::Entry {
            state: after,
            ..*before
        };
        let never_was = |it: &types::Entry| it.unpinned && it.state == types::State::Refused;
        if before.preview || never_was(before) || never_was(&after) {
            return;
        }
        match (before.is_in_flight(), after.is_in_flight()) {
            (true, false) => self.counters(before).ended += 1,
            (false, true) if before.state.is_over() => self.counters(before).restored += 1,
            _ => {}
        }
    }

    fn check_ttl(&self) -> Result<(), Ended> {
        if self.ip.ttl > 1 {
            Ok(())
        } else {
            Err(drop("ttl_exceeded"))
        }
    }
}

impl Tuple {
    /// Whether it is IPv6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.dst.is_ipv6()
    }
}
