//! Where a packet would go now, and why: the program's steps, walked over the maps from userspace.

mod walk;

use std::net::SocketAddr;

use aya::maps::{Array, HashMap, MapData};
use switcher_common::{
    address::{Ipv4, Ipv6},
    reason::Reason,
    service::{
        BackendRecord, Color, EndpointEditions, ListenerKey, ListenerRecord, Protocol,
        ServiceSwitch,
    },
};

use self::walk::key;
use super::{
    double::Current,
    error::DataPathError,
    flow_tables::{FlowTables, FoundFlow, Orders},
    pins::PinDir,
};

/// Walks that are given up because the maps changed under them, before that is an error.
const MAX_WALKS: u32 = 16;

/// What is asked: a packet's 5-tuple. Both endpoints are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The packet's source.
    pub from: SocketAddr,
    /// The packet's destination.
    pub to: SocketAddr,
}

/// Where packets of a 5-tuple would go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The listener at the destination.
    pub listener: Option<FoundListener>,
    /// The destination is the address of a listener, whatever its port and protocol.
    pub to_vip: bool,
    /// The flow of the 5-tuple.
    pub flow: Option<FoundFlow>,
    /// A packet that begins: the SYN of a new connection, or a datagram.
    pub begins: Way,
    /// A packet in the middle of a TCP stream; UDP knows none.
    pub mid_stream: Option<Way>,
}

/// A listener, and how its service is switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundListener {
    /// Id of its service.
    pub service: u16,
    /// It selects the standby.
    pub preview: bool,
    /// The active color.
    pub active: Color,
    /// The base color (G9).
    pub base: Color,
    /// Generation of the service's newest change.
    pub generation: u64,
}

/// What would happen to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It would go on to the stack untouched.
    Pass(Reason),
    /// It would be answered, and not sent on.
    Answer {
        /// Why, and by what.
        reason: Reason,
        /// The color of its flow.
        color: Color,
    },
    /// It would be dropped.
    Drop {
        /// Why.
        reason: Reason,
        /// The color that was chosen; `None` when it did not come to that.
        color: Option<Color>,
        /// What was tried.
        selection: Option<Selection>,
    },
    /// It would be translated, and sent on as the routing tables say.
    Forward {
        /// What decided.
        why: Why,
        /// The color that it goes to, or comes from.
        color: Color,
        /// Its source after translation.
        from: SocketAddr,
        /// Its destination after translation.
        to: SocketAddr,
        /// How the backend was chosen; `None` for a pinned flow.
        selection: Option<Selection>,
    },
}

/// What decides on the backend of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its flow is pinned.
    Pinned,
    /// It begins: the active color.
    Active,
    /// It is in the middle of a stream without a pin: the base color.
    Base,
    /// A preview listener: the standby.
    Preview,
    /// A reply without a flow, of a backend of one listener only: pinned again (G9). Only where it
    /// comes in by the interface that leads to its source, and not where it is for this node.
    Repinned,
}

/// A backend chosen by hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Hash of the 5-tuple.
    pub hash: u64,
    /// The slot that it leads to, from 0.
    pub slot: u32,
    /// Slots of the color's table.
    pub slots: u32,
    /// The slot's backend and the next ones of its ring, as far as they were tried.
    pub tried: Vec<Tried>,
}

/// A backend that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Its endpoint.
    pub backend: SocketAddr,
    /// It is not the source itself, its replies can be told from those of other flows, and it is not ejected, or
    /// all others that were tried were out of the question too.
    pub free: bool,
    /// It is ejected.
    pub ejected: bool,
}

/// Handles on the maps that a packet is looked up in.
pub struct Explainer {
    listeners: HashMap<MapData, ListenerKey, u32>,
    node_addresses: HashMap<MapData, ListenerKey, u32>,
    endpoints: HashMap<MapData, ListenerKey, EndpointEditions>,
    config: Current<ListenerRecord>,
    switch: Current<ServiceSwitch>,
    maglev: Array<MapData, u32>,
    backends: Array<MapData, BackendRecord>,
    orders: Orders,
    v4: FlowTables<Ipv4>,
    v6: FlowTables<Ipv6>,
}

impl Explainer {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        Ok(Self {
            listeners: pins.open("LISTENERS")?,
            node_addresses: pins.open("NODE_ADDRESSES")?,
            endpoints: pins.open("ENDPOINTS")?,
            config: Current::config(pins)?,
            switch: Current::switch(pins)?,
            maglev: pins.open("MAGLEV")?,
            backends: pins.open("BACKENDS")?,
            orders: Orders::open(pins)?,
            v4: FlowTables::open4(pins)?,
            v6: FlowTables::open6(pins)?,
        })
    }

    /// Where packets of a 5-tuple would go now.
    ///
    /// The answer is of one switch state and one configuration: a flip or an apply in between makes
    /// it look again.
    pub fn explain(&self, question: &Question) -> Result<Explained, DataPathError> {
        for _ in 0..MAX_WALKS {
            let before = (self.config.id()?, self.switch.id()?);
            let explained = match question.to {
                SocketAddr::V4(_) => self.walk(&self.v4, &key(question)),
                SocketAddr::V6(_) => self.walk(&self.v6, &key(question)),
            };
            if before == (self.config.id()?, self.switch.id()?) {
                return explained;
            }
        }
        Err(DataPathError::Kernel {
            attempt: "looking a packet up in the maps".to_owned(),
            found: format!("they changed during each of {MAX_WALKS} looks"),
        })
    }
}
