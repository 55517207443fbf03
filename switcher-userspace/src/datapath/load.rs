//! Loading the program: over new maps at the first start, over the pinned ones afterwards.

use aya::{
    Btf, Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, MapData},
    programs::{Iter, Xdp},
};
use aya_obj::generated::bpf_map_type;
use bytemuck::{Pod, Zeroable};
use switcher_common::{
    LAYOUT_VERSION, ProgramSlot, scan::SCAN_COUNTERS_PER_SERVICE, service::Name,
};

use super::{
    bpf, double,
    error::{Attempt as _, DataPathError},
    node_addresses,
    pins::PinDir,
    unsaved,
};
use crate::config::Limits;

/// The program as built by the build script.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/switcher-ebpf"));

/// `BPF_F_INNER_MAP`: lets inner maps of another size than the template's take its place.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Level of aya-log: warnings and errors.
const LOG_LEVEL_WARN: u8 = 2;

/// Maps of the program that are pinned; `.rodata` is not, it belongs to one load.
const PROGRAM_MAPS: [&str; 45] = [
    "PROGRAMS",
    "SWITCH",
    "CONFIG",
    "LISTENERS",
    "MAGLEV",
    "BACKENDS",
    "ENDPOINTS",
    "CUTS",
    "HEARD",
    "REPORTS",
    "REPORTED",
    "RESETS",
    "FILTER",
    "INTERFACES",
    "COARSE_CLOCK",
    "HOP_WATCH",
    "HOP_SOURCES",
    "NODE_ADDRESSES",
    "ESTABLISHED4",
    "ESTABLISHED6",
    "UNANSWERED4",
    "UNANSWERED6",
    "RING4",
    "RING6",
    "HANDS",
    "RATE_BUDGETS",
    "RATE_WINDOWS",
    "TABLE_STATS",
    "FRAGMENTS4",
    "FRAGMENTS6",
    "VERDICTS",
    "TRAFFIC",
    "LOGGED",
    "SEND_ERRORS",
    "SCAN_REQUEST",
    "SCAN_TOTALS",
    "SCAN_LIVE",
    "SCAN_ENDED",
    "SCAN_BACKENDS",
    "IDLE",
    "TRACE",
    "TRACE_EVENTS",
    "TRACE_LOST",
    "TRACE_NOTES",
    "AYA_LOGS",
];

/// What the pins were made with: one record in a map of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Meta {
    layout: u32,
    flows: u32,
    unanswered: u32,
    fragments: u32,
    services: u32,
    listeners: u32,
    backends: u32,
    maglev_slots: u32,
    interfaces: u32,
}

// SAFETY: `bytemuck::Pod`.
unsafe impl aya::Pod for Meta {}

impl Meta {
    fn new(limits: &Limits) -> Self {
        Self {
            layout: LAYOUT_VERSION,
            flows: limits.flows,
            unanswered: limits.unanswered,
            fragments: limits.fragments,
            services: limits.services,
            listeners: limits.listeners,
            backends: limits.backends,
            maglev_slots: limits.maglev_slots,
            interfaces: limits.interfaces,
        }
    }

    /// The limits that the pins were made with.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            flows: self.flows,
            unanswered: self.unanswered,
            fragments: self.fragments,
            services: self.services,
            listeners: self.listeners,
            backends: self.backends,
            maglev_slots: self.maglev_slots,
            // Not of the pins: set at each start.
            inserts_per_second: Limits::default().inserts_per_second,
            interfaces: self.interfaces,
        }
    }

    /// Reads what the pins were made with, and refuses another layout.
    pub(super) fn read(pins: &PinDir) -> Result<Self, DataPathError> {
        let map: Array<MapData, Self> = pins.open("META")?;
        let meta = map.get(&0, 0).attempt(format!(
            "reading the layout of the data path in {}",
            pins.root().display()
        ))?;
        if meta.layout != LAYOUT_VERSION {
            return Err(DataPathError::Layout {
                dir: pins.root().to_owned(),
                found: meta.layout,
                expected: LAYOUT_VERSION,
            });
        }
        Ok(meta)
    }

    fn check(&self, limits: &Limits, pins: &PinDir) -> Result<(), DataPathError> {
        let pinned = self.limits();
        let rows = [
            ("flows", pinned.flows, limits.flows),
            ("unanswered", pinned.unanswered, limits.unanswered),
            ("fragments", pinned.fragments, limits.fragments),
            ("services", pinned.services, limits.services),
            ("listeners", pinned.listeners, limits.listeners),
            ("backends", pinned.backends, limits.backends),
            ("maglev_slots", pinned.maglev_slots, limits.maglev_slots),
            ("interfaces", pinned.interfaces, limits.interfaces),
        ];
        match rows
            .into_iter()
            .find(|(_, found, expected)| found != expected)
        {
            None => Ok(()),
            Some((what, found, expected)) => Err(DataPathError::Limits {
                dir: pins.root().to_owned(),
                what,
                found,
                expected,
            }),
        }
    }
}

/// Loads the program over the pinned maps if there are any, else over new ones, which it pins.
pub(super) fn load(pins: &PinDir, limits: &Limits) -> Result<(Ebpf, bool), DataPathError> {
    if cfg!(mutant = "pins-forgotten") && pins.has_maps() {
        pins.remove_maps()?;
    }
    let adopt = pins.has_maps();
    if adopt {
        Meta::read(pins)?.check(limits, pins)?;
    }
    let mut ebpf = load_object(limits, adopt.then_some(pins))?;
    // First the verifier's word, then the pins: a refused program leaves nothing behind.
    load_programs(&mut ebpf)?;
    if !adopt {
        pin_new_maps(pins, &mut ebpf, limits)?;
    }
    Ok((ebpf, adopt))
}

fn load_object(limits: &Limits, adopt: Option<&PinDir>) -> Result<Ebpf, DataPathError> {
    // Ids begin at 1, and a flow has an entry for each direction.
    let services = limits.services + 1;
    let entries = |flows: u32| flows.saturating_mul(2);
    let ring = ring_slots(limits)?;
    let mut loader = EbpfLoader::new();
    loader
        .override_global("AYA_LOG_LEVEL", &LOG_LEVEL_WARN, true)
        // Each listener and its VIP, the old ones and the new ones of an apply.
        .map_max_entries("LISTENERS", limits.listeners.saturating_mul(4))
        .map_max_entries("MAGLEV", limits.maglev_slots)
        .map_max_entries("BACKENDS", limits.backends + 1)
        .map_max_entries("CUTS", limits.backends + 1)
        .map_max_entries("HEARD", limits.backends + 1)
        .map_max_entries("REPORTED", limits.backends + 1)
        .map_max_entries("RESETS", limits.backends + 1)
        .map_max_entries("ENDPOINTS", limits.backends)
        .map_max_entries("RING4", ring)
        .map_max_entries("RING6", ring)
        .map_max_entries("INTERFACES", limits.interfaces)
        .map_max_entries("HOP_SOURCES", limits.interfaces)
        .map_max_entries("NODE_ADDRESSES", node_addresses::MOST)
        .map_max_entries("SCAN_BACKENDS", limits.backends + 1)
        .map_max_entries("ESTABLISHED4", entries(limits.flows))
        .map_max_entries("ESTABLISHED6", entries(limits.flows))
        .map_max_entries("UNANSWERED4", entries(limits.unanswered))
        .map_max_entries("UNANSWERED6", entries(limits.unanswered))
        .map_max_entries("FRAGMENTS4", limits.fragments)
        .map_max_entries("FRAGMENTS6", limits.fragments)
        .map_max_entries("TRAFFIC", services * 2)
        .map_max_entries("SCAN_ENDED", services * 2)
        .map_max_entries("SCAN_LIVE", services * SCAN_COUNTERS_PER_SERVICE)
        .map_max_entries("IDLE", services);
    if let Some(pins) = adopt {
        for name in PROGRAM_MAPS {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader
        .load(OBJECT)
        .attempt("loading the XDP program's maps")
}

/// Smaller rings would fill by an uneven spread over the CPUs alone.
const RING_SLOTS_MIN: u32 = 1_024;

/// Slots of each CPU's ring, so that all rings together hold every established flow.
fn ring_slots(limits: &Limits) -> Result<u32, DataPathError> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(_, error)| error)
        .attempt("asking for the number of CPUs")?;
    let share = limits
        .flows
        .div_ceil(u32::try_from(cpus).unwrap_or(u32::MAX));
    Ok(share.max(RING_SLOTS_MIN))
}

fn pin_new_maps(pins: &PinDir, ebpf: &mut Ebpf, limits: &Limits) -> Result<(), DataPathError> {
    pins.begin()?;
    for name in PROGRAM_MAPS {
        let map = ebpf.map_mut(name).ok_or_else(|| DataPathError::Kernel {
            attempt: format!("finding the map {name}"),
            found: "the built program has none of that name".to_owned(),
        })?;
        map.pin(pins.staged_map(name))
            .attempt(format!("pinning the map {name}"))?;
    }
    for (name, len) in double::inner_maps(limits) {
        let size = double::inner_value_size(name);
        create_array(pins, name, size, len, BPF_F_INNER_MAP)?;
    }
    create_array(
        pins,
        "SERVICE_NAMES",
        bpf::size_u32::<Name>(),
        limits.services + 1,
        0,
    )?;
    let (pieces, size) = unsaved::shape(limits);
    create_array(pins, unsaved::NAME, size, pieces, 0)?;
    create_array(pins, "META", bpf::size_u32::<Meta>(), 1, 0)?;
    let mut meta: Array<MapData, Meta> = pins.open_staged("META")?;
    meta.set(0, Meta::new(limits), 0)
        .attempt("writing the layout record")?;
    pins.commit()
}

/// Creates and pins an array that the program's object does not declare.
fn create_array(
    pins: &PinDir,
    name: &str,
    value_size: u32,
    len: u32,
    flags: u32,
) -> Result<(), DataPathError> {
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        bpf::size_u32::<u32>(),
        value_size,
        len,
        flags,
    );
    MapData::create(definition, name, None)
        .attempt(format!("creating the map {name}"))?
        .pin(pins.staged_map(name))
        .attempt(format!("pinning the map {name}"))
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), DataPathError> {
    let behind = ProgramSlot::ALL.map(ProgramSlot::program);
    for name in ["dispatch"].into_iter().chain(behind) {
        xdp_mut(ebpf, name)?
            .load()
            .attempt(format!("loading the program {name} into the kernel"))?;
    }
    let btf = Btf::from_sys_fs().attempt("reading the kernel's BTF at /sys/kernel/btf/vmlinux")?;
    for name in ["collect4", "collect6"] {
        iter_mut(ebpf, name)?
            .load("bpf_map_elem", &btf)
            .attempt(format!("loading the iterator {name} into the kernel"))?;
    }
    Ok(())
}

pub(super) fn no_program(name: &str) -> DataPathError {
    DataPathError::Kernel {
        attempt: format!("finding the program {name}"),
        found: "the built object has none of that name and type".to_owned(),
    }
}

/// An XDP program of the object.
pub(super) fn xdp_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, DataPathError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| no_program(name))
}

/// An iterator program of the object.
pub(super) fn iter_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Iter, DataPathError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| no_program(name))
}
