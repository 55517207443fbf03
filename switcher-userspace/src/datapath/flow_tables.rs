//! Flows as they lie in the tables, read from userspace.
//!
//! Only looks. A look-up by bpf(2) does not count as use of an LRU's entry (kernel:
//! `map_lookup_elem_sys_only`), so it does not keep a flow from being forgotten.

use std::net::SocketAddr;

use aya::maps::{Array, HashMap, MapData, MapError};
use switcher_common::{
    address::{Address, Ipv4, Ipv6},
    clock::{elapsed, ms_from_ticks},
    cut::CutOrder,
    flow::{FLAG_UNPINNED, FlowEntry, FlowKey, FlowState, Side},
    scan::Table,
    service::Color,
};

use super::{
    error::{Attempt as _, DataPathError},
    pins::PinDir,
};

/// A flow in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundFlow {
    /// Where the entry is.
    pub table: Table,
    /// Where the entry of the other direction is; `None`: it is missing.
    pub other_table: Option<Table>,
    /// Whether the 5-tuple is the client's or the backend's.
    pub side: Side,
    /// How far it is.
    pub state: FlowState,
    /// Id of its service.
    pub service: u16,
    /// The color that it is pinned to.
    pub color: Color,
    /// The backend that it is pinned to.
    pub backend: SocketAddr,
    /// Of a preview listener.
    pub preview: bool,
    /// It was recorded in the middle of a stream (G9).
    pub unpinned: bool,
    /// It is cut, by its state or by an order that has come due.
    pub cut: bool,
    /// Time since it began, in milliseconds.
    pub age_ms: u64,
    /// Time since the newest packet of either direction, in milliseconds.
    pub silent_ms: u64,
}

/// Orders to cut flows, by backend.
pub(super) struct Orders(Array<MapData, CutOrder>);

impl Orders {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        pins.open("CUTS").map(Self)
    }

    /// Whether no flow begins at `backend`.
    pub(super) fn ejects(&self, backend: u32) -> Result<bool, DataPathError> {
        let order = found_in(&self.0, backend)?;
        Ok(order.is_some_and(|order| order.ejects()))
    }

    /// Whether the flow of `entry` is cut at tick `now`.
    pub(super) fn cut<A: Address>(
        &self,
        key: &FlowKey<A>,
        entry: &FlowEntry<A>,
        now: u32,
    ) -> Result<bool, DataPathError> {
        let order = found_in(&self.0, entry.backend)?;
        let by_order = order.is_some_and(|order| order.cuts_flow(entry, key.is_tcp(), now));
        Ok(by_order || entry.state() == FlowState::Cut)
    }
}

/// Handles on a family's flow tables.
pub(super) struct FlowTables<A>
where
    FlowKey<A>: aya::Pod,
    FlowEntry<A>: aya::Pod,
{
    established: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    unanswered: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
}

impl FlowTables<Ipv4> {
    pub(super) fn open4(pins: &PinDir) -> Result<Self, DataPathError> {
        Self::open(pins, "ESTABLISHED4", "UNANSWERED4")
    }
}

impl FlowTables<Ipv6> {
    pub(super) fn open6(pins: &PinDir) -> Result<Self, DataPathError> {
        Self::open(pins, "ESTABLISHED6", "UNANSWERED6")
    }
}

impl<A: Address> FlowTables<A>
where
    FlowKey<A>: aya::Pod,
    FlowEntry<A>: aya::Pod,
{
    fn open(pins: &PinDir, established: &str, unanswered: &str) -> Result<Self, DataPathError> {
        Ok(Self {
            established: pins.open(established)?,
            unanswered: pins.open(unanswered)?,
        })
    }

    /// The entry of `key`, and its table.
    pub(super) fn find(
        &self,
        key: &FlowKey<A>,
    ) -> Result<Option<(Table, FlowEntry<A>)>, DataPathError> {
        let attempt = "looking a flow up";
        let established = || -> Result<_, DataPathError> {
            let entry = found(self.established.get(key, 0)).attempt(attempt)?;
            Ok(entry.map(|entry| (Table::Established, entry)))
        };
        if let Some(hit) = established()? {
            return Ok(Some(hit));
        }
        if let Some(entry) = found(self.unanswered.get(key, 0)).attempt(attempt)? {
            return Ok(Some((Table::Unanswered, entry)));
        }
        // Between the two look-ups the program may have moved the flow.
        established()
    }

    /// What there is to say of the flow whose `entry` was found in `table` under `key`, at tick `now`.
    pub(super) fn describe(
        &self,
        key: &FlowKey<A>,
        (table, entry): (Table, &FlowEntry<A>),
        orders: &Orders,
        now: u32,
    ) -> Result<FoundFlow, DataPathError> {
        let other = self.find(&key.peer(entry))?;
        let other = other.filter(|(_, other)| entry.is_peer_of(key, other));
        let silent = |entry: &FlowEntry<A>| elapsed(now, entry.last_seen);
        let own = silent(entry);
        let newest = other.map_or(own, |(_, other)| own.min(silent(&other)));
        let (address, port_be) = match entry.side() {
            Side::Forward => (entry.rewrite_addr, entry.rewrite_port_be),
            Side::Reverse => (key.src, key.src_port_be),
        };
        Ok(FoundFlow {
            table,
            other_table: other.map(|(table, _)| table),
            side: entry.side(),
            state: entry.state(),
            service: entry.service,
            color: entry.color(),
            backend: endpoint(&address, port_be),
            preview: entry.is_preview(),
            unpinned: entry.flags & FLAG_UNPINNED != 0,
            cut: orders.cut(key, entry, now)?,
            age_ms: ms_from_ticks(elapsed(now, entry.created)),
            silent_ms: ms_from_ticks(newest),
        })
    }
}

pub(super) fn endpoint<A: Address>(address: &A, port_be: u16) -> SocketAddr {
    SocketAddr::new(address.wide().to_ip(), u16::from_be(port_be))
}

/// A value that may be missing.
pub(super) fn found<V>(value: Result<V, MapError>) -> Result<Option<V>, MapError> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn found_in<V: aya::Pod>(
    array: &Array<MapData, V>,
    index: u32,
) -> Result<Option<V>, DataPathError> {
    if index >= array.len() {
        return Ok(None);
    }
    found(array.get(&index, 0)).attempt("looking a backend up")
}
