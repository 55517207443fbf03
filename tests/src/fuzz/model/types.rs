//! The model's own words for packets, flows and verdicts.

use std::net::{IpAddr, SocketAddr};

/// IP protocol numbers (IANA).
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// See [`TCP`].
pub const ICMP: u8 = 1;
/// See [`TCP`].
pub const ICMPV6: u8 = 58;

/// A 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// With source and destination exchanged.
    #[must_use]
    pub const fn turned(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            protocol: self.protocol,
        }
    }

    /// Whether it is TCP.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// As it leaves the node by `entry`.
    #[must_use]
    pub const fn translated(&self, entry: &Entry) -> Self {
        let mut tuple = *self;
        match entry.side {
            Side::Client => tuple.dst = entry.to,
            Side::Backend => tuple.src = entry.to,
        }
        tuple
    }

    /// Where the other direction of the flow of `entry` is found.
    #[must_use]
    pub const fn other(&self, entry: &Entry) -> Self {
        self.translated(entry).turned()
    }
}

/// Who sends the packets of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client: the destination is translated.
    Client,
    /// The backend: the source is translated.
    Backend,
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No answer yet.
    Unanswered,
    /// SYN-ACK seen.
    Answered,
    /// Both sides have answered.
    Established,
    /// Seems over.
    Closing,
    /// RST before it was established.
    Refused,
    /// Over for good, by an order.
    Cut,
}

impl State {
    /// Whether the backend has said more than that it refuses.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        !matches!(self, Self::Unanswered | Self::Refused)
    }

    /// Whether the flow seems over.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closing | Self::Refused | Self::Cut)
    }
}

/// One direction of a flow, as a table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five flags that say nothing about each other"
)]
pub struct Entry {
    /// What the translated end becomes.
    pub to: SocketAddr,
    /// Whose packets these are.
    pub side: Side,
    /// State of the flow.
    pub state: State,
    /// Number of the client's newest SYN.
    pub syn: u32,
    /// Number of the backend's SYN-ACK.
    pub answer: u32,
    /// Number behind the last byte of this direction.
    pub end: u32,
    /// Newest acknowledgement number of this direction.
    pub acked: u32,
    /// Tick of this direction's newest packet.
    pub seen: u32,
    /// Tick at which the flow began.
    pub born: u32,
    /// Id of the backend.
    pub backend: u32,
    /// Id of the service.
    pub service: u16,
    /// 0 blue, 1 green.
    pub color: u8,
    /// Of a preview listener.
    pub preview: bool,
    /// Recorded in the middle of a stream.
    pub unpinned: bool,
    /// Number behind this direction's FIN; 0: none seen.
    pub fin: u32,
    /// Backends that were tried after the first one.
    pub chances: u8,
    /// Low bits of the id of the one before, where there was one.
    pub tried: u16,
    /// The flow goes on with another backend than the one whose replies these are.
    pub left: bool,
    /// The backend has refused, and the client was not told.
    pub refused: bool,
    /// It was recorded without the other one.
    pub alone: bool,
}

impl Entry {
    /// The entry of the other direction, when nothing is known of its numbers. `tuple` is where
    /// this one lies.
    #[must_use]
    pub const fn mirrored(&self, tuple: &Tuple) -> Self {
        let (to, side) = match self.side {
            Side::Client => (tuple.dst, Side::Backend),
            Side::Backend => (tuple.src, Side::Client),
        };
        Self {
            to,
            side,
            alone: false,
            end: 0,
            acked: 0,
            fin: 0,
            ..*self
        }
    }

    /// Whether there need be no other entry yet.
    #[must_use]
    pub fn may_be_alone(&self) -> bool {
        let is_answered = matches!(
            self.state,
            State::Answered | State::Established | State::Closing
        );
        self.alone && !is_answered
    }

    /// Whether `replies`, found where the other entry belongs, is an older flow's.
    #[must_use]
    pub fn succeeds(&self, replies: &Self) -> bool {
        self.may_be_alone() && (self.born, self.syn) != (replies.born, replies.syn)
    }

    /// Whether a drain waits for the flow. A packet in mid-stream that nobody has answered is no flow yet.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        let is_stray = self.unpinned && self.state == State::Unanswered;
        !self.state.is_over() && !is_stray
    }

    /// Whether `other` is the same flow's entry of the other direction.
    #[must_use]
    pub fn belongs_to(&self, tuple: &Tuple, other: &Self) -> bool {
        let mirror = self.mirrored(tuple);
        !other.left
            && (other.to, other.side, other.backend) == (mirror.to, mirror.side, mirror.backend)
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// To the stack.
    Pass,
    /// Nowhere.
    Drop,
    /// Back out of the interface it came in by.
    Tx,
    /// Out of another interface.
    Redirect,
}

/// What is counted for a color of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Rewritten packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Recorded flows.
    pub new_flows: u64,
    /// Of these, in the middle of a stream.
    pub unpinned: u64,
    /// Cut TCP flows whose packet was answered, that were in flight.
    pub resets: u64,
    /// Cut UDP flows that their client moved, that were in flight.
    pub moved: u64,
    /// Flows that were in flight and are over.
    pub ended: u64,
    /// Flows that seemed over and go on.
    pub restored: u64,
}

/// What the rules say of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happens to it.
    pub verdict: Verdict,
    /// Its counter.
    pub reason: &'static str,
    /// What is counted beside it.
    pub notes: Vec<&'static str>,
    /// The frame afterwards; `None`: as it came.
    pub frame: Option<Vec<u8>>,
    /// What is counted for colors of services.
    pub traffic: Vec<((u16, u8), Traffic)>,
}

/// The address and port in one.
#[must_use]
pub const fn endpoint(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
