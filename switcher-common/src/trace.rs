//! Tracing: what the program tells of single packets, and which packets it tells of.
//!
//! Each reader has a filter. While there is none, a packet costs one look at [`TraceControl`].

use bytemuck::{Pod, Zeroable};

use crate::{
    address::WideAddress,
    reason::{Reason, Verdict},
    service::Color,
    shared,
};

/// Readers at once, each with a filter of its own.
pub const TRACE_READERS: usize = 8;

/// What is traced. The only value of its map; written by the agent, and by the program when
/// nobody has renewed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceControl {
    /// End of tracing in nanoseconds of `CLOCK_MONOTONIC`, unless it is renewed; 0: off.
    pub until_ns: u64,
    /// What the readers want to see.
    pub filters: [TraceFilter; TRACE_READERS],
}
shared!(TraceControl, 264);

/// What one reader wants to see; all zero: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceFilter {
    client: WideAddress,
    /// All ones if `client` and `client_af` count, else zero.
    client_mask: u64,
    service: u16,
    /// All ones if `service` counts, else zero.
    service_mask: u16,
    client_af: u8,
    is_set: u8,
    reserved: [u8; 2],
}
shared!(TraceFilter, 32);

impl TraceFilter {
    /// Packets from or to `client`, of service `service`; `None`: of all.
    #[must_use]
    pub const fn new(client: Option<WideAddress>, service: Option<u16>) -> Self {
        let (client, client_af, client_mask) = match client {
            Some(client) => (client, client.af(), u64::MAX),
            None => (WideAddress([0; 4]), 0, 0),
        };
        let (service, service_mask) = match service {
            Some(service) => (service, u16::MAX),
            None => (0, 0),
        };
        Self {
            client,
            client_mask,
            service,
            service_mask,
            client_af,
            is_set: 1,
            reserved: [0; 2],
        }
    }

    /// Whether the reader wants to see `event`. Packets that are not ours are for those who ask for
    /// their client.
    ///
    /// Computed without a branch: each one would double what the verifier must follow.
    #[inline(always)]
    #[must_use]
    pub const fn matches(&self, event: &TraceEvent) -> bool {
        // Zero if one of the two is.
        let ends = difference(&self.client, &event.src) * difference(&self.client, &event.dst);
        let client = (ends | (self.client_af ^ event.af) as u64) & self.client_mask;
        let service = ((self.service ^ event.service) & self.service_mask) as u64;
        let foreign = event.is_foreign as u64 & !self.client_mask;
        client | service | foreign | (self.is_set ^ 1) as u64 == 0
    }
}

/// Zero for equal addresses; below 2^32.
#[inline(always)]
const fn difference(one: &WideAddress, other: &WideAddress) -> u64 {
    let (one, other) = (&one.0, &other.0);
    let first = (one[0] ^ other[0]) | (one[1] ^ other[1]);
    let second = (one[2] ^ other[2]) | (one[3] ^ other[3]);
    (first | second) as u64
}

/// What the program decided about a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceEvent {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// What was counted beside the verdict, by [`note_bit`].
    pub notes: u64,
    /// Source address as it came in.
    pub src: WideAddress,
    /// Destination address as it came in.
    pub dst: WideAddress,
    /// What the destination (forward) or source (reverse) became. [`Known::Flow`] and
    /// [`Known::Fresh`] only.
    pub rewrite_addr: WideAddress,
    /// Index of the interface that it came in by.
    pub ifindex: u32,
    /// A [`Reason`] as its number.
    pub reason: u32,
    /// Id of the flow's backend. As `rewrite_addr`.
    pub backend: u32,
    /// Bytes of the IP packet as it came in.
    pub ip_len: u16,
    /// Id of the service of its flow or listener; 0: it has none.
    pub service: u16,
    /// Source port in network byte order; 0 where it has none.
    pub src_port_be: u16,
    /// Destination port in network byte order; 0 where it has none.
    pub dst_port_be: u16,
    /// What the port became, in network byte order. As `rewrite_addr`.
    pub rewrite_port_be: u16,
    /// `AF_INET` or `AF_INET6`.
    pub af: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
    /// A [`Known`] as its number.
    pub known: u8,
    /// The flow's [`Side`](crate::flow::Side) as its number. [`Known::Flow`] and [`Known::Fresh`] only.
    pub side: u8,
    /// The flow's [`FlowState`](crate::flow::FlowState) after the packet, as its number. As `side`.
    pub state: u8,
    /// The flow's [`Color`] as its number. From [`Known::Color`] on.
    pub color: u8,
    /// The flow's flags. As `side`.
    pub flags: u8,
    /// 1: it is not ours.
    pub is_foreign: u8,
    /// Zero.
    pub reserved: u8,
}
shared!(TraceEvent, 96);

/// How much the program knew of the packet when it decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Known {
    /// Not even its 5-tuple: it is not ours, or broken. Its bytes are as they came.
    Packet = 0,
    /// That it is an ICMP message.
    Message = 1,
    /// Its 5-tuple; it has no flow.
    Tuple = 2,
    /// The color that was chosen for it, without success.
    Color = 3,
    /// The flow that it belongs to, or is about.
    Flow = 4,
    /// The flow that it begins.
    Fresh = 5,
}

impl Known {
    /// The one with this number; numbers of none count as the least.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Message,
            2 => Self::Tuple,
            3 => Self::Color,
            4 => Self::Flow,
            5 => Self::Fresh,
            _ => Self::Packet,
        }
    }
}

/// The bit of [`TraceEvent::notes`] for what is counted beside a verdict.
#[inline(always)]
#[must_use]
pub const fn note_bit(note: Reason) -> u64 {
    1 << (note as u32 % u64::BITS)
}

/// Where on its way through the program a packet was decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading its headers.
    Parse,
    /// Asking whether it is ours.
    Ours,
    /// Finding its flow, and moving it on.
    Flow,
    /// Selecting a backend, and recording the flow.
    Select,
    /// Answering it, or finding what an ICMP message is about.
    Answer,
    /// Rewriting it, finding its route, sending it on.
    Forward,
}

impl Stage {
    /// As the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Ours => "ours",
            Self::Flow => "flow",
            Self::Select => "select",
            Self::Answer => "answer",
            Self::Forward => "forward",
        }
    }
}

impl TraceEvent {
    /// The verdict's reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::from_code(self.reason)
    }

    /// How much was known of the packet.
    #[must_use]
    pub const fn known(&self) -> Known {
        Known::from_number(self.known as u32)
    }

    /// The color that was chosen or is pinned.
    #[must_use]
    pub fn color(&self) -> Option<Color> {
        (self.known() >= Known::Color).then(|| Color::from_bit(self.color))
    }

    /// What was counted beside the verdict.
    pub fn notes(&self) -> impl Iterator<Item = Reason> + use<> {
        let notes = self.notes;
        let all = Reason::ALL.iter().copied();
        all.filter(move |it| it.verdict() == Verdict::Note && notes & note_bit(*it) != 0)
    }

    /// Where it was decided about.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match (self.reason().verdict(), self.known()) {
            (Verdict::Tx, _) if self.reason() != Reason::Transmitted => Stage::Answer,
            _ if self.reason() == Reason::NotOurs => Stage::Ours,
            (_, Known::Packet) => Stage::Parse,
            (_, Known::Message) => Stage::Answer,
            (_, Known::Tuple | Known::Color) => Stage::Select,
            (Verdict::Drop, Known::Flow) if is_of_flow(self.reason()) => Stage::Flow,
            (_, Known::Flow | Known::Fresh) => Stage::Forward,
        }
    }
}

/// Whether a packet with a flow is dropped for that flow's sake.
const fn is_of_flow(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TtlExceeded | Reason::ReopenedOnOldColor | Reason::FlowCut
    )
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use crate::address::{Address as _, Ipv4, Ipv6};

    fn wide(text: &str) -> WideAddress {
        let ip: IpAddr = text.parse().expect("a literal address");
        WideAddress::from_ip(ip)
    }

    #[test]
    fn a_filter_matches_either_end_its_service_and_strangers_only_by_name() {
        let [one, other, vip] = ["192.0.2.1", "192.0.2.2", "198.51.100.1"].map(wide);
        let event = |src, dst, service, reason| TraceEvent {
            src,
            dst,
            service,
            reason: reason as u32,
            is_foreign: u8::from(reason == Reason::NotOurs),
            af: Ipv4::AF,
            ..TraceEvent::default()
        };
        let sent = event(one, vip, 7, Reason::Redirected);
        let returned = event(vip, one, 7, Reason::Redirected);
        let stranger = event(one, vip, 0, Reason::NotOurs);
        for (filter, expected) in [
            (TraceFilter::new(None, None), [true, true, false]),
            (TraceFilter::new(Some(one), None), [true, true, true]),
            (TraceFilter::new(Some(other), None), [false; 3]),
            (TraceFilter::new(None, Some(7)), [true, true, false]),
            (TraceFilter::new(None, Some(8)), [false; 3]),
            (TraceFilter::new(Some(one), Some(7)), [true, true, false]),
            (TraceFilter::new(Some(other), Some(7)), [false; 3]),
            (TraceFilter::default(), [false; 3]),
        ] {
            let found = [sent, returned, stranger].map(|event| filter.matches(&event));
            assert_eq!(found, expected, "{filter:?}");
        }
        let mapped = TraceEvent {
            af: Ipv6::AF,
            ..sent
        };
        let filter = TraceFilter::new(Some(one), None);
        assert!(!filter.matches(&mapped), "IPv6 with the same bytes");
    }

    #[test]
    fn notes_come_back_as_they_went_in() {
        let notes = [Reason::Promoted, Reason::Unpinned];
        let event = TraceEvent {
            notes: notes.iter().fold(0, |bits, note| bits | note_bit(*note)),
            ..TraceEvent::default()
        };
        assert!(event.notes().eq([Reason::Unpinned, Reason::Promoted]));
        let all = Reason::ALL
            .iter()
            .filter(|it| it.verdict() == Verdict::Note);
        let bits = all.clone().fold(0, |bits, note| bits | note_bit(*note));
        assert_eq!(bits.count_ones() as usize, all.count(), "a bit for each");
    }
}
