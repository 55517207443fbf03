//! Services, listeners, backends: what is switched, as the maps hold it.

use bytemuck::{Pod, Zeroable};

use crate::{address::WideAddress, clock::has_come, cut::Action, shared};

/// One of the two versions of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "user",
    derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)
)]
#[cfg_attr(feature = "user", serde(rename_all = "lowercase"))]
#[repr(u8)]
pub enum Color {
    /// Blue.
    Blue = 0,
    /// Green.
    Green = 1,
}

impl Color {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Blue, Self::Green];

    /// The color of a byte from a map; only the lowest bit counts, so every byte is a color.
    #[inline(always)]
    #[must_use]
    pub const fn from_bit(byte: u8) -> Self {
        if byte & 1 == 0 {
            Self::Blue
        } else {
            Self::Green
        }
    }

    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// `blue` or `green`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

/// A pair of values, one for each color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)
)]
pub struct PerColor<T> {
    /// Blue's.
    pub blue: T,
    /// Green's.
    pub green: T,
}

impl<T> PerColor<T> {
    /// The value of `color`.
    pub const fn get(&self, color: Color) -> &T {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// The value of `color`, to change.
    pub const fn get_mut(&mut self, color: Color) -> &mut T {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }

    /// Both values from one function.
    pub fn from_fn(mut value: impl FnMut(Color) -> T) -> Self {
        Self {
            blue: value(Color::Blue),
            green: value(Color::Green),
        }
    }
}

/// Transport protocols that a listener can have; the numbers are IANA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "user",
    derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)
)]
#[cfg_attr(feature = "user", serde(rename_all = "lowercase"))]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
}

impl Protocol {
    /// The protocol of an IP header's number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// `tcp` or `udp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What a packet to a VIP is looked up by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ListenerKey {
    /// The virtual address.
    pub vip: WideAddress,
    /// The virtual port in network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// `AF_INET` or `AF_INET6`: IPv6 packets to a mapped IPv4 address are not the listener's.
    pub af: u8,
}
shared!(ListenerKey, 20);

impl ListenerKey {
    /// The key of what listens at `vip` and `port`.
    #[must_use]
    pub const fn at(vip: WideAddress, port: u16, protocol: Protocol) -> Self {
        Self {
            vip,
            port_be: port.to_be(),
            protocol: protocol as u8,
            af: vip.af(),
        }
    }

    /// The key under which it is noted that `vip` is the address of some listener.
    #[inline(always)]
    #[must_use]
    pub const fn any_of(vip: WideAddress, af: u8) -> Self {
        Self {
            vip,
            port_be: 0,
            protocol: 0,
            af,
        }
    }
}

/// Id of no listener. Its record says which [`Edition`] of VIPs and endpoints counts.
pub const NO_LISTENER: u32 = 0;

/// What is looked up by an address of a VIP or a backend is there in two editions, of which the
/// record of [`NO_LISTENER`] names the one that counts. So a new one, which is written where nobody
/// looks, becomes visible in the same moment as the listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edition {
    /// The first of two values, or the lowest bit.
    #[default]
    First = 0,
    /// The second.
    Second = 1,
}

impl Edition {
    /// The one that does not count.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Under [`ListenerKey::any_of`]: the editions in which some listener has the address, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct VipMarks(pub u32);

impl VipMarks {
    /// Whether it is a VIP.
    #[inline(always)]
    #[must_use]
    pub const fn is_vip(self, edition: Edition) -> bool {
        self.0 & Self::bit(edition) != 0
    }

    /// Says whether it is one.
    #[must_use]
    pub const fn with(self, edition: Edition, is_vip: bool) -> Self {
        let others = self.0 & !Self::bit(edition);
        Self(if is_vip {
            others | Self::bit(edition)
        } else {
            others
        })
    }

    const fn bit(edition: Edition) -> u32 {
        1 << edition as u32
    }
}

/// A listener as the data path sees it; index is the listener's id, of which 0 is never given out.
/// All records are replaced by one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ListenerRecord {
    /// Maglev table of each color.
    pub tables: [TableRange; 2],
    /// Id of its service.
    pub service: u16,
    /// [`LISTENER_PRESENT`], [`LISTENER_PREVIEW`], [`LISTENER_RINGS`], [`EDITION_SECOND`],
    /// [`LISTENER_REMOVED`], [`LISTENER_CUTS`], [`LISTENER_SECOND_CHANCE`].
    pub flags: u16,
    /// Of a removed listener: the tick from which its place is nobody's.
    pub removed_until: u32,
}
shared!(ListenerRecord, 24);

/// What becomes of packets to a listener that belong to no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is configured: they begin flows.
    Configured,
    /// It is configured no more, and what is left of its flows goes on: they are dropped.
    Leaving,
    /// It is configured no more, and its time is over: they are not ours.
    Gone,
}

impl ListenerRecord {
    /// What is left of a listener that is configured no more: until `until`, when `action` cuts the flows
    /// that are left then.
    #[must_use]
    pub const fn removed(&self, until: u32, action: Option<Action>) -> Self {
        let cuts = match action {
            Some(Action::Reset | Action::ResetAnswered) => LISTENER_CUTS[0],
            Some(Action::Move) => LISTENER_CUTS[1],
            None => 0,
        };
        Self {
            tables: [TableRange { start: 0, len: 0 }; 2],
            service: self.service,
            flags: LISTENER_REMOVED | cuts | (self.flags & (LISTENER_PRESENT | LISTENER_PREVIEW)),
            removed_until: until,
        }
    }

    /// Whether it is what is left of a listener that is configured no more.
    #[must_use]
    pub const fn is_removed(&self) -> bool {
        self.flags & LISTENER_REMOVED != 0
    }

    /// What cuts the flows of a removed listener that are left at the end.
    #[must_use]
    pub const fn cut_at_end(&self) -> Option<Action> {
        if self.flags & LISTENER_CUTS[0] != 0 {
            Some(Action::Reset)
        } else if self.flags & LISTENER_CUTS[1] != 0 {
            Some(Action::Move)
        } else {
            None
        }
    }

    /// What becomes of packets without a flow at tick `now`. The program enforces the end by itself: without
    /// an agent too nothing is dropped for longer than was asked for.
    #[inline(always)]
    #[must_use]
    pub const fn standing(&self, now: u32) -> Standing {
        if self.flags & LISTENER_REMOVED == 0 {
            Standing::Configured
        } else if has_come(self.removed_until, now) || cfg!(mutant = "removed-passes") {
            Standing::Gone
        } else {
            Standing::Leaving
        }
    }

    /// Whether it belongs to a listener, configured or removed.
    #[inline(always)]
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.flags & LISTENER_PRESENT != 0
    }

    /// Whether it selects the standby.
    #[inline(always)]
    #[must_use]
    pub const fn is_preview(&self) -> bool {
        self.flags & LISTENER_PREVIEW != 0
    }

    /// Whether its half-open flows may go on to another backend.
    #[inline(always)]
    #[must_use]
    pub const fn gives_second_chance(&self) -> bool {
        self.flags & LISTENER_SECOND_CHANCE != 0
    }

    /// Which edition counts. Only in the record of [`NO_LISTENER`].
    #[inline(always)]
    #[must_use]
    pub const fn edition(&self) -> Edition {
        if self.flags & EDITION_SECOND == 0 {
            Edition::First
        } else {
            Edition::Second
        }
    }

    /// Which of [`BackendRecord::next`] is the ring of `color`.
    #[inline(always)]
    #[must_use]
    pub const fn ring(&self, color: Color) -> usize {
        (self.flags & LISTENER_RINGS[color as usize] != 0) as usize
    }
}

/// The record belongs to a listener.
pub const LISTENER_PRESENT: u16 = 1;
/// Selects the standby, whatever else is set.
pub const LISTENER_PREVIEW: u16 = 2;
/// By color: set, the second of the two rings counts, else the first. So a ring changes in the same
/// moment as its table, with the listener's record.
pub const LISTENER_RINGS: [u16; 2] = [4, 8];
/// In the record of [`NO_LISTENER`]: [`Edition::Second`] counts, else the first.
pub const EDITION_SECOND: u16 = 16;
/// The listener is configured no more: its flows go on, and nothing begins one.
pub const LISTENER_REMOVED: u16 = 32;
/// What cuts the flows of a removed listener that are left at the end: [`Action::Reset`], [`Action::Move`].
pub const LISTENER_CUTS: [u16; 2] = [64, 128];

/// A SYN that its backend has refused or left unanswered goes to another one when it is repeated.
pub const LISTENER_SECOND_CHANCE: u16 = 256;

/// Where the slots of a Maglev table are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct TableRange {
    /// Index of the first slot.
    pub start: u32,
    /// Number of slots; 0: the color has no backend.
    pub len: u32,
}

/// A backend; index is its id, of which 0 is never given out, and none while a flow refers to it (G2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct BackendRecord {
    /// Its address.
    pub address: WideAddress,
    /// Its port in network byte order.
    pub port_be: u16,
    /// Share of fresh flows; the program does not read it.
    pub weight: u16,
    /// Id of its listener.
    pub listener: u32,
    /// Id of the next backend that takes fresh flows, in the ring of its listener and color; its own
    /// when there is no other. Two rings: the one that [`ListenerRecord::ring`] names is read, the
    /// other one is free to be written.
    pub next: [u32; 2],
    /// Id of its service.
    pub service: u16,
    /// A [`Color`] as its number.
    pub color: u8,
    /// 1: configured. 0: free, or removed and kept for its flows.
    pub present: u8,
}
shared!(BackendRecord, 36);

/// The listener that uses a backend's endpoint: whose reply one without a flow is (G9). The key is
/// a [`ListenerKey`] with the endpoint's address and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct EndpointRecord {
    /// The listener's virtual address.
    pub vip: WideAddress,
    /// Id of the backend; [`SHARED_ENDPOINT`] when more than one listener uses it.
    pub backend: u32,
    /// The listener's port in network byte order.
    pub port_be: u16,
    /// [`ENDPOINT_PRESENT`], [`ENDPOINT_EXCLUSIVE`]; [`ENDPOINT_FORMER`].
    pub flags: u16,
}
shared!(EndpointRecord, 24);

/// Some listener uses the endpoint.
pub const ENDPOINT_PRESENT: u16 = 1;
/// No flow can have replies from there but those of the record's backend: no other one is at that endpoint, nor
/// was while its flows last.
pub const ENDPOINT_EXCLUSIVE: u16 = 2;
/// No listener uses the endpoint any more. The one that did may have flows whose replies are still to come.
pub const ENDPOINT_FORMER: u16 = 4;

impl EndpointRecord {
    /// Whether some listener uses the endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.flags & ENDPOINT_PRESENT != 0
    }

    /// Whether all replies from the endpoint are of flows of `backend`.
    #[inline(always)]
    #[must_use]
    pub const fn is_exclusive_to(&self, backend: u32) -> bool {
        self.flags & ENDPOINT_EXCLUSIVE != 0 && self.backend == backend
    }

    /// Whether its listener is the one at this address and port.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, vip: WideAddress, port_be: u16) -> bool {
        self.vip == vip && self.port_be == port_be
    }
}

/// The two editions of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct EndpointEditions(pub [EndpointRecord; 2]);
shared!(EndpointEditions, 48);

impl EndpointEditions {
    /// The endpoint, where some listener uses it.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, edition: Edition) -> Option<&EndpointRecord> {
        let record = match edition {
            Edition::First => &self.0[0],
            Edition::Second => &self.0[1],
        };
        record.is_present().then_some(record)
    }

    /// What is known of the endpoint, also where no listener uses it any more.
    #[must_use]
    pub fn any(&self, edition: Edition) -> Option<&EndpointRecord> {
        let record = &self.0[edition as usize];
        (record.flags != 0).then_some(record)
    }

    /// The listeners that alone use the endpoint, or did: a flow may have begun then. One at most, unless that
    /// has changed.
    #[inline(always)]
    #[must_use]
    pub fn owners(&self) -> [Option<&EndpointRecord>; 2] {
        let [first, second] = &self.0;
        let is_sole =
            |record: &EndpointRecord| record.flags != 0 && record.backend != SHARED_ENDPOINT;
        let is_same = is_sole(first) && first.is_of(second.vip, second.port_be);
        let first = is_sole(first).then_some(first);
        let second = (is_sole(second) && !is_same).then_some(second);
        [first, second]
    }

    /// With another record in `edition`; `None`: nothing is known of the endpoint.
    #[must_use]
    pub fn with(mut self, edition: Edition, record: Option<EndpointRecord>) -> Self {
        self.0[edition as usize] = record.unwrap_or_default();
        self
    }
}

/// Backend id of an endpoint that cannot be told to be one listener's.
pub const SHARED_ENDPOINT: u32 = 0;

/// The switch state of one service; index is the service's id, of which 0 is never given out.
///
/// The states of all services lie in one inner map and are replaced by one store (G1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceSwitch {
    /// Generation of the service's newest change. At index 0: the node's.
    pub generation: u64,
    /// Generation of the change that began its newest drain, and with it sent all fresh flows to the
    /// color beside the one that drains; 0: none did. Splits and pauses do not raise it.
    pub drain_generation: u64,
    /// The active [`Color`] as its number.
    pub active: u8,
    /// The base [`Color`] as its number (G9).
    pub base: u8,
    /// Share of the clients, in percent, whose fresh flows go to the standby.
    pub split_percent: u8,
    /// Zero.
    pub reserved: [u8; 5],
}
shared!(ServiceSwitch, 24);

/// A name in a map: UTF-8, filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Name(pub [u8; 64]);
shared!(Name, 64);

impl Name {
    /// `text` as a map value; `None` when it does not fit or contains a zero byte.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; 64];
        if text.len() >= bytes.len() || text.contains('\0') {
            return None;
        }
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// The text; `None` for a free slot or bytes that are no UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let len = self.0.iter().position(|&byte| byte == 0)?;
        let text = core::str::from_utf8(self.0.get(..len)?).ok()?;
        (!text.is_empty()).then_some(text)
    }
}
