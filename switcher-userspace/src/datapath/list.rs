//! Listing the flows of a service: the tables read piece by piece, so that a table of a million flows
//! takes little memory, and a long list holds up nobody.

use std::{net::SocketAddr, ops::ControlFlow, os::fd::AsFd as _};

use aya::maps::MapData;
use switcher_common::{
    address::{Address, Ipv4, Ipv6},
    clock::ticks_from_ns,
    flow::{FlowEntry, FlowKey, Side},
    scan::Table,
    service::{Color, Protocol},
};

use super::{
    bpf::Elements,
    clock,
    error::{Attempt as _, DataPathError},
    flow_tables::{FlowTables, FoundFlow, Orders, endpoint},
    pins::PinDir,
};

/// A flow of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedFlow {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client's endpoint.
    pub client: SocketAddr,
    /// The virtual endpoint that it talks to.
    pub vip: SocketAddr,
    /// The flow: by its client's direction, or by the backend's where the other one is missing.
    pub found: FoundFlow,
}

/// Lists flows, with handles of its own.
pub struct FlowLister {
    v4: Family<Ipv4>,
    v6: Family<Ipv6>,
    orders: Orders,
}

struct Family<A>
where
    FlowKey<A>: aya::Pod,
    FlowEntry<A>: aya::Pod,
{
    flows: FlowTables<A>,
    /// The same maps.
    established: MapData,
    unanswered: MapData,
}

/// Which flows are listed.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    service: u16,
    color: Option<Color>,
}

impl FlowLister {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        Ok(Self {
            v4: Family {
                flows: FlowTables::open4(pins)?,
                established: pins.open_data("ESTABLISHED4")?,
                unanswered: pins.open_data("UNANSWERED4")?,
            },
            v6: Family {
                flows: FlowTables::open6(pins)?,
                established: pins.open_data("ESTABLISHED6")?,
                unanswered: pins.open_data("UNANSWERED6")?,
            },
            orders: Orders::open(pins)?,
        })
    }

    /// Hands the flows of a service, or of a color of it, to `each` until that has enough: first the
    /// established ones.
    ///
    /// Not a picture of one moment: flows that begin, end or change tables meanwhile may be missing, or be
    /// there twice.
    pub fn list(
        &self,
        service: u16,
        color: Option<Color>,
        mut each: impl FnMut(ListedFlow) -> ControlFlow<()>,
    ) -> Result<(), DataPathError> {
        let wanted = Wanted { service, color };
        for table in [Table::Established, Table::Unanswered] {
            let v4 = self.v4.list(table, wanted, &self.orders, &mut each)?;
            if v4.is_break()
                || self
                    .v6
                    .list(table, wanted, &self.orders, &mut each)?
                    .is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

impl<A: Address> Family<A>
where
    FlowKey<A>: aya::Pod + bytemuck::Pod,
    FlowEntry<A>: aya::Pod + bytemuck::Pod,
{
    fn list(
        &self,
        table: Table,
        wanted: Wanted,
        orders: &Orders,
        each: &mut impl FnMut(ListedFlow) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, DataPathError> {
        let map = match table {
            Table::Established => &self.established,
            Table::Unanswered => &self.unanswered,
        };
        let mut elements = Elements::<FlowKey<A>, FlowEntry<A>>::new();
        loop {
            let batch = elements.next(map.fd().as_fd());
            let Some((keys, entries)) = batch.attempt("reading a flow table")? else {
                return Ok(ControlFlow::Continue(()));
            };
            let now = ticks_from_ns(clock::monotonic_ns());
            for (key, entry) in keys.iter().zip(entries) {
                if !wanted.covers(entry) {
                    continue;
                }
                let found = self.flows.describe(key, (table, entry), orders, now)?;
                let listed = listed(key, entry, found);
                if listed.is_some_and(|flow| each(flow).is_break()) {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
}

impl Wanted {
    fn covers<A: Address>(self, entry: &FlowEntry<A>) -> bool {
        let is_color = self.color.is_none_or(|color| entry.color() == color);
        entry.service == self.service && is_color
    }
}

/// The flow of an entry; a reply's entry is one only where the client's is missing, and none where the flow
/// goes on elsewhere.
fn listed<A: Address>(
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    found: FoundFlow,
) -> Option<ListedFlow> {
    let (client, vip) = match (entry.side(), found.other_table) {
        (Side::Forward, _) => (
            endpoint(&key.src, key.src_port_be),
            endpoint(&key.dst, key.dst_port_be),
        ),
        (Side::Reverse, None) if !entry.is_left() => (
            endpoint(&key.dst, key.dst_port_be),
            endpoint(&entry.rewrite_addr, entry.rewrite_port_be),
        ),
        (Side::Reverse, _) => return None,
    };
    Some(ListedFlow {
        // The program records no others.
        protocol: Protocol::from_number(key.protocol)?,
        client,
        vip,
        found,
    })
}
