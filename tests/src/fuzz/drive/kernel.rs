//! The maps of the loaded program, read and written in the model's words.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytemuck::Zeroable as _;
use switcher_common::address::{Address, Ipv4, Ipv6, WideAddress};
use switcher_common::cut::{self, CutOrder};
use switcher_common::filter::FILTER_WORDS;
use switcher_common::flow::{FlowEntry, FlowKey};
use switcher_common::heard::Heard;
use switcher_common::hop::HopWatch;
use switcher_common::interface::{InterfaceRecord, flags};
use switcher_common::packet::{FragmentKey, FragmentPorts};
use switcher_common::rate::{Capped, Window};
use switcher_common::reason::REASON_SLOTS;
use switcher_common::scan::{self, IdleTicks};
use switcher_common::service::{
    BackendRecord, EndpointEditions, LISTENER_PRESENT, LISTENER_PREVIEW, LISTENER_REMOVED,
    LISTENER_RINGS, LISTENER_SECOND_CHANCE, ListenerKey, ListenerRecord, SHARED_ENDPOINT,
    ServiceSwitch, VipMarks,
};
use switcher_common::stats::{ColorStats, TableStats, Writer};

use super::bpf::RawMap;
use super::edge::{self, Keyed};
use crate::fuzz::model::chance;
use crate::fuzz::model::cut::{Action, Hold, Order};
use crate::fuzz::model::fragment::{self, Fragments};
use crate::fuzz::model::route::Interface;
use crate::fuzz::model::sweep::Idle;
use crate::fuzz::model::tables::{Moves, Table};
use crate::fuzz::model::types::{Entry, Traffic, Tuple};
use crate::fuzz::model::{Backend, Colors, Config, Listener};

/// Counters: by reason, then by service and color.
pub(super) type Counts = (Vec<u64>, Vec<Traffic>);

/// Opened maps.
pub(super) struct Kernel {
    flows: [FamilyMaps; 2],
    verdicts: RawMap,
    traffic: RawMap,
    switch: [RawMap; 2],
    config: [RawMap; 2],
    config_slot: RawMap,
    endpoints: RawMap,
    rings: [RawMap; 2],
    hands: RawMap,
    cuts: RawMap,
    heard: RawMap,
    resets: RawMap,
    interfaces: RawMap,
    hop_watch: RawMap,
    budgets: RawMap,
    windows: RawMap,
    table_stats: RawMap,
    idle: RawMap,
    listeners: RawMap,
    backends: RawMap,
    maglev: RawMap,
    filter: RawMap,
    sizes: Sizes,
    cpus: usize,
}

struct FamilyMaps {
    fragments: RawMap,
    lru: RawMap,
    established: RawMap,
}

/// Lengths of the arrays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) services: u32,
    pub(super) listeners: u32,
    pub(super) backends: u32,
    pub(super) slots: u32,
}

const fn sizes_of<K, V>() -> (usize, usize) {
    (size_of::<K>(), size_of::<V>())
}

impl Kernel {
    /// Opens the maps that are pinned below `pin_dir`.
    pub(super) fn open(pin_dir: &Path, sizes: Sizes) -> Result<Self> {
        let dir = pin_dir.join("maps");
        let open = |name, sizes| RawMap::open(&dir, name, sizes);
        let v4 = sizes_of::<FlowKey<Ipv4>, FlowEntry<Ipv4>>();
        let v6 = sizes_of::<FlowKey<Ipv6>, FlowEntry<Ipv6>>();
        let switch = sizes_of::<u32, ServiceSwitch>();
        let config = sizes_of::<u32, ListenerRecord>();
        Ok(Self {
            flows: [
                FamilyMaps {
                    fragments: open("FRAGMENTS4", sizes_of::<FragmentKey<Ipv4>, FragmentPorts>())?,
                    lru: open("UNANSWERED4", v4)?,
                    established: open("ESTABLISHED4", v4)?,
                },
                FamilyMaps {
                    fragments: open("FRAGMENTS6", sizes_of::<FragmentKey<Ipv6>, FragmentPorts>())?,
                    lru: open("UNANSWERED6", v6)?,
                    established: open("ESTABLISHED6", v6)?,
                },
            ],
            verdicts: open("VERDICTS", sizes_of::<u32, u64>())?,
            traffic: open("TRAFFIC", sizes_of::<u32, ColorStats>())?,
            switch: [open("SWITCH_A", switch)?, open("SWITCH_B", switch)?],
            config: [open("CONFIG_A", config)?, open("CONFIG_B", config)?],
            config_slot: open("CONFIG", sizes_of::<u32, u32>())?,
            endpoints: open("ENDPOINTS", sizes_of::<ListenerKey, EndpointEditions>())?,
            rings: [
                open("RING4", sizes_of::<u32, FlowKey<Ipv4>>())?,
                open("RING6", sizes_of::<u32, FlowKey<Ipv6>>())?,
            ],
            hands: open("HANDS", sizes_of::<u32, u32>())?,
            interfaces: open("INTERFACES", sizes_of::<u32, InterfaceRecord>())?,
            hop_watch: open("HOP_WATCH", sizes_of::<u32, HopWatch>())?,
            cuts: open("CUTS", sizes_of::<u32, CutOrder>())?,
            heard: open("HEARD", sizes_of::<u32, Heard>())?,
            resets: open("RESETS", sizes_of::<u32, Window>())?,
            budgets: open("RATE_BUDGETS", sizes_of::<u32, u32>())?,
            windows: open("RATE_WINDOWS", sizes_of::<u32, Window>())?,
            table_stats: open("TABLE_STATS", sizes_of::<u32, TableStats>())?,
            idle: open("IDLE", sizes_of::<u32, IdleTicks>())?,
            listeners: open("LISTENERS", sizes_of::<ListenerKey, u32>())?,
            backends: open("BACKENDS", sizes_of::<u32, BackendRecord>())?,
            maglev: open("MAGLEV", sizes_of::<u32, u32>())?,
            filter: open("FILTER", sizes_of::<u32, u64>())?,
            sizes,
            cpus: aya::util::nr_cpus().map_err(|(_, error)| error)?,
        })
    }

    fn map(&self, table: Table, is_v6: bool) -> &RawMap {
        let family = &self.flows[usize::from(is_v6)];
        match table {
            Table::Lru => &family.lru,
            Table::Established => &family.established,
        }
    }

    /// The entry of a key.
    pub(super) fn entry(&self, table: Table, tuple: &Tuple) -> Result<Option<Entry>> {
        let map = self.map(table, tuple.is_v6());
        match Keyed::of(tuple) {
            Keyed::V4(key) => decoded::<Ipv4>(map.get(&key)?),
            Keyed::V6(key) => decoded::<Ipv6>(map.get(&key)?),
        }
        .with_context(|| format!("{tuple:?} in {table:?}"))
    }

    /// Writes an entry.
    pub(super) fn put(&self, table: Table, tuple: &Tuple, entry: &Entry) -> Result<()> {
        let map = self.map(table, tuple.is_v6());
        match Keyed::of(tuple) {
            Keyed::V4(key) => map.set(&key, &edge::record::<Ipv4>(entry)),
            Keyed::V6(key) => map.set(&key, &edge::record::<Ipv6>(entry)),
        }
    }

    /// Removes an entry.
    pub(super) fn remove(&self, table: Table, tuple: &Tuple) -> Result<()> {
        let map = self.map(table, tuple.is_v6());
        match Keyed::of(tuple) {
            Keyed::V4(key) => map.remove(&key),
            Keyed::V6(key) => map.remove(&key),
        }
    }

    /// All entries of a table, in both families.
    pub(super) fn all(&self, table: Table) -> Result<HashMap<Tuple, Entry>> {
        let v4 = decode_all::<Ipv4>(self.map(table, false).read()?);
        let v6 = decode_all::<Ipv6>(self.map(table, true).read()?);
        v4.into_iter().chain(v6).collect()
    }

    /// Empties the flow tables.
    pub(super) fn clear(&self) -> Result<()> {
        for table in [Table::Lru, Table::Established] {
            self.map(table, false)
                .drain::<FlowKey<Ipv4>, FlowEntry<Ipv4>>()?;
            self.map(table, true)
                .drain::<FlowKey<Ipv6>, FlowEntry<Ipv6>>()?;
        }
        let [v4, v6] = &self.flows;
        v4.fragments.drain::<FragmentKey<Ipv4>, FragmentPorts>()?;
        v6.fragments.drain::<FragmentKey<Ipv6>, FragmentPorts>()?;
        let len = self.ring_len()?;
        let numbers: Vec<u32> = (0..len).collect();
        let slots = len as usize * self.cpus;
        self.rings[0].write_array(&numbers, &vec![FlowKey::<Ipv4>::zeroed(); slots])?;
        self.rings[1].write_array(&numbers, &vec![FlowKey::<Ipv6>::zeroed(); slots])?;
        // The kernel pads each CPU's value to 8 bytes.
        self.hands
            .write_array(&[0, 1], &vec![0_u64; 2 * self.cpus])?;
        let backends: Vec<u32> = (0..=self.sizes.backends).collect();
        self.heard
            .write_array(&backends, &vec![Heard::zeroed(); backends.len()])?;
        let none = vec![Window::zeroed(); backends.len() * self.cpus];
        self.resets.write_array(&backends, &none)?;
        let windows = vec![Window::zeroed(); Capped::LEN as usize * self.cpus];
        let all: Vec<u32> = (0..Capped::LEN).collect();
        self.windows.write_array(&all, &windows)
    }

    /// What was heard of backends, by id.
    pub(super) fn heard(&self) -> Result<HashMap<u32, chance::Heard>> {
        let len = self.sizes.backends + 1;
        let mut all = vec![Heard::zeroed(); len as usize];
        self.heard.read_array(len, &mut all)?;
        let heard = (0..len).zip(all).map(|(id, it)| {
            let Heard { answered, refused } = it;
            (id, chance::Heard { answered, refused })
        });
        Ok(heard
            .filter(|(_, it)| *it != chance::Heard::default())
            .collect())
    }

    /// First fragments that are remembered.
    pub(super) fn fragments(&self) -> Result<Fragments> {
        let [v4, v6] = &self.flows;
        let v4 = v4.fragments.read::<FragmentKey<Ipv4>, FragmentPorts>()?;
        let v6 = v6.fragments.read::<FragmentKey<Ipv6>, FragmentPorts>()?;
        let v4 = v4.iter().map(|(key, ports)| edge::fragment(key, ports));
        let v6 = v6.iter().map(|(key, ports)| edge::fragment(key, ports));
        Ok(v4.chain(v6).collect())
    }

    /// Remembers a first fragment.
    pub(super) fn set_fragment(&self, key: &fragment::Key, kept: &(Tuple, u32)) -> Result<()> {
        let [v4, v6] = &self.flows;
        if key.dst.is_ipv4() {
            let (key, ports) = edge::fragment_record::<Ipv4>(key, kept);
            v4.fragments.set(&key, &ports)
        } else {
            let (key, ports) = edge::fragment_record::<Ipv6>(key, kept);
            v6.fragments.set(&key, &ports)
        }
    }

    /// Slots of a ring.
    pub(super) fn ring_len(&self) -> Result<u32> {
        self.rings[0].len()
    }

    /// Puts a flow into slots of its family's ring.
    pub(super) fn crowd(&self, tuple: &Tuple, slots: &[usize]) -> Result<()> {
        let numbers: Vec<u32> = slots
            .iter()
            .map(|it| u32::try_from(*it))
            .collect::<Result<_, _>>()?;
        let values = slots.len() * self.cpus;
        match Keyed::of(tuple) {
            Keyed::V4(key) => self.rings[0].write_array(&numbers, &vec![key; values]),
            Keyed::V6(key) => self.rings[1].write_array(&numbers, &vec![key; values]),
        }
    }

    /// Tells the program of an interface.
    pub(super) fn tell(&self, interface: &Interface, parent: u32, master: u32) -> Result<()> {
        let told = interface.told;
        let flag = |set, flag| if set { flag } else { 0 };
        let record = InterfaceRecord {
            parent,
            master,
            vlan_id: told.vlan.map_or(0, |(_, id)| id),
            flags: flag(told.no_redirect, flags::NO_REDIRECT)
                | flag(told.no_transmit, flags::NO_TRANSMIT)
                | flag(told.generic, flags::GENERIC),
        };
        self.interfaces.set(&interface.index, &record)?;
        // As the agent does: flows keep ways that the records say.
        let watch: HopWatch = self.hop_watch.get(&0_u32)?.unwrap_or_default();
        self.hop_watch.set(&0_u32, &watch.raised())
    }

    /// Writes the order about a backend.
    pub(super) fn cut(&self, backend: u32, order: Order) -> Result<()> {
        let cut = match order.action {
            Action::None => CutOrder::zeroed(),
            Action::Reset => CutOrder::new(cut::Action::Reset, order.deadline),
            Action::Move => CutOrder::new(cut::Action::Move, order.deadline),
            Action::ResetAnswered => CutOrder::new(cut::Action::ResetAnswered, order.deadline),
        };
        let both = match order.hold {
            Hold::None => cut,
            Hold::Fresh => cut.with_hold(cut::Hold::Fresh, order.hold_until),
            Hold::All => cut.with_hold(cut::Hold::All, order.hold_until),
        };
        let all = if order.ejected { both.ejecting() } else { both };
        self.cuts.set(&backend, &all)
    }

    /// Sets how often something may happen in a window.
    pub(super) fn cap(&self, what: Capped, budget: u32) -> Result<()> {
        self.budgets.set(&(what as u32), &budget)
    }

    /// Idle timeouts by service id.
    pub(super) fn idle(&self) -> Result<Vec<Idle>> {
        let len = self.sizes.services + 1;
        let mut ticks = vec![IdleTicks::zeroed(); len as usize];
        self.idle.read_array(len, &mut ticks)?;
        let idle = ticks.into_iter().map(|it| Idle {
            unanswered: it.unanswered,
            established: it.established,
            closing: it.closing,
            udp: it.udp,
            udp_preview: it.udp_preview,
        });
        Ok(idle.collect())
    }

    /// Entries that came and went since the data path was loaded, by table and family.
    pub(super) fn moves(&self) -> Result<[[Moves; 2]; 2]> {
        let mut stats = vec![TableStats::zeroed(); TableStats::LEN as usize * self.cpus];
        self.table_stats.read_array(TableStats::LEN, &mut stats)?;
        let of = |table, af| {
            let index = TableStats::index(af, table, Writer::Program) as usize;
            let cpus = &stats[index * self.cpus..][..self.cpus];
            cpus.iter().fold(Moves::default(), |sum, cpu| Moves {
                inserted: sum.inserted + cpu.inserted,
                removed: sum.removed + cpu.removed,
            })
        };
        let families = |table| [of(table, Ipv4::AF), of(table, Ipv6::AF)];
        Ok([
            families(scan::Table::Unanswered),
            families(scan::Table::Established),
        ])
    }

    /// The program's counters, summed over the CPUs.
    pub(super) fn counts(&self) -> Result<Counts> {
        let mut reasons = vec![0_u64; REASON_SLOTS as usize * self.cpus];
        self.verdicts.read_array(REASON_SLOTS, &mut reasons)?;
        let colors = (self.sizes.services + 1) * 2;
        let mut traffic = vec![ColorStats::zeroed(); colors as usize * self.cpus];
        self.traffic.read_array(colors, &mut traffic)?;
        let traffic = traffic.chunks(self.cpus).map(|cpus| {
            cpus.iter().fold(Traffic::default(), |sum, cpu| Traffic {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
                new_flows: sum.new_flows + cpu.new_flows,
                unpinned: sum.unpinned + cpu.unpinned_packets,
                resets: sum.resets + cpu.reset_flows,
                moved: sum.moved + cpu.moved_flows,
                ended: sum.ended + cpu.ended_flows,
                restored: sum.restored + cpu.restored_flows,
            })
        });
        let reasons = reasons.chunks(self.cpus).map(|cpus| cpus.iter().sum());
        Ok((reasons.collect(), traffic.collect()))
    }

    /// Sets the colors of services 1, 2 and so on, where packets read them: that flips are atomic is
    /// others' to show.
    pub(super) fn set_colors(&self, colors: &[Colors]) -> Result<()> {
        for (id, colors) in (1_u32..).zip(colors) {
            let state = ServiceSwitch {
                active: colors.active,
                base: colors.base,
                split_percent: colors.split,
                ..ServiceSwitch::zeroed()
            };
            self.switch
                .iter()
                .try_for_each(|map| map.set(&id, &state))?;
        }
        Ok(())
    }

    /// What the agent has written.
    pub(super) fn config(&self) -> Result<Config> {
        let records = self.listener_records()?;
        let edition = records.first().context("no record of editions")?.edition();
        let mut config = Config::default();
        let keys: Vec<(ListenerKey, u32)> = self.listeners.read()?;
        for (key, id) in keys {
            let vip = of_family(key.vip, key.port_be, key.af);
            if key.protocol == 0 {
                if VipMarks(id).is_vip(edition) {
                    config.vips.insert(vip.ip());
                }
                continue;
            }
            let record = records.get(id as usize);
            let record = record.context("no such listener record")?;
            if record.flags & LISTENER_PRESENT != 0 {
                config
                    .listeners
                    .insert((vip, key.protocol), listener(record));
            }
        }
        let mut backends = vec![BackendRecord::zeroed(); self.sizes.backends as usize + 1];
        self.backends
            .read_array(self.sizes.backends + 1, &mut backends)?;
        for (id, backend) in (0..).zip(backends) {
            let af = backend.address.af();
            let endpoint = of_family(backend.address, backend.port_be, af);
            let known = Backend {
                endpoint,
                next: backend.next,
                service: backend.service,
                color: backend.color,
            };
            config.backends.insert(id, known);
        }
        let endpoints: Vec<(ListenerKey, EndpointEditions)> = self.endpoints.read()?;
        for (key, editions) in endpoints {
            let endpoint = of_family(key.vip, key.port_be, key.af);
            let owners = editions.0.iter();
            let owners = owners.filter(|it| it.flags != 0 && it.backend != SHARED_ENDPOINT);
            let owners = owners.map(|it| of_family(it.vip, it.port_be, key.af));
            config
                .owners
                .insert((endpoint, key.protocol), owners.collect());
            let Some(record) = editions.get(edition) else {
                continue;
            };
            let vip = of_family(record.vip, record.port_be, key.af);
            if record.is_exclusive_to(record.backend) {
                config.exclusive.insert(record.backend);
            }
            let owner = (record.backend != SHARED_ENDPOINT).then_some((vip, record.backend));
            config.endpoints.insert((endpoint, key.protocol), owner);
        }
        config.slots = vec![0; self.sizes.slots as usize];
        self.maglev
            .read_array(self.sizes.slots, &mut config.slots)?;
        config.filter = vec![0; FILTER_WORDS as usize];
        self.filter.read_array(FILTER_WORDS, &mut config.filter)?;
        ensure!(!config.listeners.is_empty(), "the maps hold no listener");
        Ok(config)
    }

    /// The records that packets read now.
    fn listener_records(&self) -> Result<Vec<ListenerRecord>> {
        let current: Option<u32> = self.config_slot.get(&0_u32)?;
        let current = current.context("the configuration's slot is empty")?;
        for map in &self.config {
            if map.id()? == current {
                let len = self.sizes.listeners + 1;
                let mut records = vec![ListenerRecord::zeroed(); len as usize];
                map.read_array(len, &mut records)?;
                return Ok(records);
            }
        }
        anyhow::bail!("the configuration's slot holds neither map")
    }
}

fn listener(record: &ListenerRecord) -> Listener {
    Listener {
        tables: record.tables.map(|it| (it.start, it.len)),
        rings: LISTENER_RINGS.map(|ring| usize::from(record.flags & ring != 0)),
        service: record.service,
        preview: record.flags & LISTENER_PREVIEW != 0,
        second_chance: record.flags & LISTENER_SECOND_CHANCE != 0,
        removed_until: (record.flags & LISTENER_REMOVED != 0).then_some(record.removed_until),
    }
}

fn of_family(address: WideAddress, port_be: u16, af: u8) -> std::net::SocketAddr {
    if af == Ipv4::AF {
        edge::endpoint(&Ipv4::narrow(&address), port_be)
    } else {
        edge::endpoint(&Ipv6::narrow(&address), port_be)
    }
}

fn decoded<A: Address>(record: Option<FlowEntry<A>>) -> Result<Option<Entry>>
where
    FlowEntry<A>: std::fmt::Debug + PartialEq + bytemuck::Zeroable,
{
    record.map(|it| edge::entry::<A>(&it)).transpose()
}

fn decode_all<A: Address>(all: Vec<(FlowKey<A>, FlowEntry<A>)>) -> Vec<Result<(Tuple, Entry)>>
where
    FlowEntry<A>: std::fmt::Debug + PartialEq + bytemuck::Zeroable,
{
    let decode = |(key, record): (FlowKey<A>, FlowEntry<A>)| {
        Ok((edge::tuple(&key), edge::entry::<A>(&record)?))
    };
    all.into_iter().map(decode).collect()
}
