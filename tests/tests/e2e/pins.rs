//! The pinned flow tables, read (and robbed) beside the program.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use switcher_common::address::{Address, Ipv4, Ipv6, WideAddress};
use switcher_common::flow::{FlowEntry, FlowKey, FlowState, Side};
use switcher_common::scan::Table;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;

/// The 5-tuple of a packet as it arrives at the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) protocol: u8,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

impl Tuple {
    pub(crate) fn tcp(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            protocol: Protocol::Tcp as u8,
            from,
            to,
        }
    }

    pub(crate) fn udp(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            protocol: Protocol::Udp as u8,
            from,
            to,
        }
    }
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) table: Table,
    pub(crate) side: Side,
    pub(crate) state: FlowState,
    pub(crate) color: Color,
    /// What the destination (forward) or the source (reverse) becomes.
    pub(crate) rewritten: SocketAddr,
    /// Behind the last byte that this direction sent.
    pub(crate) next_seq: u32,
    /// The newest acknowledgement that this direction sent.
    pub(crate) acked: u32,
}

/// What no flood and no forged packet may change of a [`Pin`].
pub(crate) type Held = (Table, FlowState, Color, SocketAddr);

impl Pin {
    /// What must stay.
    pub(crate) const fn held(&self) -> Held {
        (self.table, self.state, self.color, self.rewritten)
    }
}

/// The tables of both families.
pub(crate) struct Pins {
    v4: Tables<Ipv4>,
    v6: Tables<Ipv6>,
}

type Entries<A> = HashMap<MapData, FlowKey<A>, FlowEntry<A>>;

struct Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    established: Entries<A>,
    unanswered: Entries<A>,
}

impl Pins {
    /// Opens the tables of the agent that [`switcher_tests::node::Node`] has started.
    pub(crate) fn open(lab: &Lab) -> Result<Self> {
        lab.node().run(|| {
            Ok(Self {
                v4: Tables {
                    established: open(lab, "ESTABLISHED4")?,
                    unanswered: open(lab, "UNANSWERED4")?,
                },
                v6: Tables {
                    established: open(lab, "ESTABLISHED6")?,
                    unanswered: open(lab, "UNANSWERED6")?,
                },
            })
        })
    }

    /// Everything in one kind of table. Exact only while nobody adds or removes entries.
    pub(crate) fn all(&self, table: Table) -> Result<BTreeMap<Tuple, Pin>> {
        let mut all = BTreeMap::new();
        self.v4.collect(table, &mut all)?;
        self.v6.collect(table, &mut all)?;
        Ok(all)
    }

    /// What must stay of each established flow.
    pub(crate) fn held(&self) -> Result<BTreeMap<Tuple, Held>> {
        let all = self.all(Table::Established)?;
        Ok(all.into_iter().map(|(at, pin)| (at, pin.held())).collect())
    }

    /// An error unless all established flows of `before` are as they were.
    pub(crate) fn still_hold(&self, before: &BTreeMap<Tuple, Held>) -> Result<()> {
        let now = self.held()?;
        let changed: Vec<_> = before
            .iter()
            .filter(|(at, was)| now.get(at) != Some(was))
            .map(|(at, was)| format!("{at:?} was {was:?}, is {:?}", now.get(at)))
            .collect();
        ensure!(
            changed.is_empty(),
            "established flows changed: {changed:#?}"
        );
        Ok(())
    }

    /// The entry for packets of `tuple`.
    pub(crate) fn of(&self, tuple: Tuple) -> Result<Option<Pin>> {
        match tuple.to {
            SocketAddr::V4(_) => self.v4.pin(tuple),
            SocketAddr::V6(_) => self.v6.pin(tuple),
        }
    }

    /// Takes both entries of the flow of `tuple` away, as if its table were lost.
    pub(crate) fn lose(&mut self, tuple: Tuple) -> Result<()> {
        match tuple.to {
            SocketAddr::V4(_) => self.v4.lose(tuple),
            SocketAddr::V6(_) => self.v6.lose(tuple),
        }
        .with_context(|| format!("taking the flow of {tuple:?} away"))
    }
}

fn open<A>(lab: &Lab, name: &str) -> Result<Entries<A>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let path = lab.bpffs().join("switcher/maps").join(name);
    MapData::from_pin(path)
        .and_then(Map::from_map_data)
        .and_then(Entries::try_from)
        .with_context(|| format!("opening the pinned map {name}"))
}

impl<A: Address> Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    const fn map(&self, table: Table) -> &Entries<A> {
        match table {
            Table::Established => &self.established,
            Table::Unanswered => &self.unanswered,
        }
    }

    fn collect(&self, table: Table, all: &mut BTreeMap<Tuple, Pin>) -> Result<()> {
        for found in self.map(table) {
            match found {
                Ok((key, entry)) => {
                    all.insert(tuple_of(&key), pin_of(table, &entry));
                }
                // It went between the look at its key and the one at its value.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("reading a flow table"),
            }
        }
        Ok(())
    }

    fn find(&self, key: &FlowKey<A>) -> Result<Option<(Table, FlowEntry<A>)>> {
        for table in [Table::Established, Table::Unanswered] {
            match self.map(table).get(key, 0) {
                Ok(entry) => return Ok(Some((table, entry))),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("reading a flow table"),
            }
        }
        Ok(None)
    }

    fn pin(&self, tuple: Tuple) -> Result<Option<Pin>> {
        let found = self.find(&key_of(tuple))?;
        Ok(found.map(|(table, entry)| pin_of(table, &entry)))
    }

    fn lose(&mut self, tuple: Tuple) -> Result<()> {
        let key = key_of(tuple);
        let (table, entry) = self.find(&key)?.context("there is no such flow")?;
        let map = match table {
            Table::Established => &mut self.established,
            Table::Unanswered => &mut self.unanswered,
        };
        map.remove(&key.peer(&entry))?;
        map.remove(&key)?;
        Ok(())
    }
}

fn endpoint<A: Address>(address: A, port_be: u16) -> SocketAddr {
    SocketAddr::new(address.wide().to_ip(), u16::from_be(port_be))
}

fn tuple_of<A: Address>(key: &FlowKey<A>) -> Tuple {
    Tuple {
        protocol: key.protocol,
        from: endpoint(key.src, key.src_port_be),
        to: endpoint(key.dst, key.dst_port_be),
    }
}

fn key_of<A: Address>(tuple: Tuple) -> FlowKey<A> {
    FlowKey {
        src: A::narrow(&WideAddress::from_ip(tuple.from.ip())),
        dst: A::narrow(&WideAddress::from_ip(tuple.to.ip())),
        src_port_be: tuple.from.port().to_be(),
        dst_port_be: tuple.to.port().to_be(),
        protocol: tuple.protocol,
        reserved: [0; 3],
    }
}

fn pin_of<A: Address>(table: Table, entry: &FlowEntry<A>) -> Pin {
    Pin {
        table,
        side: entry.side(),
        state: entry.state(),
        color: entry.color(),
        rewritten: endpoint(entry.rewrite_addr, entry.rewrite_port_be),
        next_seq: entry.next_seq,
        acked: entry.acked,
    }
}
