//! Reading the configuration out of the maps, and making a new one visible by one store.

use std::{collections::BTreeMap, marker::PhantomData, os::fd::AsFd as _};

use aya::maps::{Array, HashMap, MapData};
use switcher_common::{
    address::{Address, Ipv4, Ipv6, WideAddress},
    clock::ticks_from_ms,
    filter::{FILTER_WORDS, position},
    scan::IdleTicks,
    service::{BackendRecord, ListenerKey, ListenerRecord, Name},
};

use super::{
    bpf,
    double::Doubled,
    error::{Attempt as _, DataPathError},
    image::{Evolved, Image},
    pins::PinDir,
};
use crate::config::ServiceConfig;

/// The maps that hold the configuration.
pub(super) struct Tables {
    config: Doubled<ListenerRecord>,
    listeners: HashMap<MapData, ListenerKey, u32>,
    backends: ArrayMap<BackendRecord>,
    maglev: ArrayMap<u32>,
    names: ArrayMap<Name>,
    filter: Array<MapData, u64>,
    idle: Array<MapData, IdleTicks>,
    image: Image,
}

impl Tables {
    /// Opens the maps and reads what they hold.
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let config = Doubled::config(pins)?;
        let listeners = pins.open("LISTENERS")?;
        let records = config.read()?;
        let backends = ArrayMap::open(pins, "BACKENDS")?;
        let maglev = ArrayMap::open(pins, "MAGLEV")?;
        let names = ArrayMap::open(pins, "SERVICE_NAMES")?;
        let image = Image {
            names: names.read(names.len)?,
            listeners: read_listeners(&listeners)?,
            backends: backends.read(backends.len)?,
            maglev: maglev.read(used_slots(&records))?,
            records,
        };
        Ok(Self {
            config,
            listeners,
            backends,
            maglev,
            names,
            filter: pins.open("FILTER")?,
            idle: pins.open("IDLE")?,
            image,
        })
    }

    /// What the maps hold.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Makes `evolved` visible: first everything that nobody looks at yet, then one store, then the
    /// removal of what nobody looks at any more.
    pub(super) fn install(&mut self, evolved: Evolved) -> Result<(), DataPathError> {
        let Evolved { image, slots } = evolved;
        self.names.write_changed(&self.image.names, &image.names)?;
        self.backends
            .write_changed(&self.image.backends, &image.backends)?;
        self.add_to_filter(&image)?;
        for table in &slots {
            let keys: Vec<u32> = (table.start..).take(table.ids.len()).collect();
            self.maglev.write(&keys, &table.ids)?;
        }
        for (key, id) in &image.listeners {
            if self.image.listeners.get(key) != Some(id) {
                self.listeners
                    .insert(key, id, 0)
                    .attempt("writing a listener's address")?;
            }
        }
        if self.image.records != image.records {
            self.config.replace(&image.records)?;
        }
        for key in self.image.listeners.keys() {
            if !image.listeners.contains_key(key) {
                self.listeners
                    .remove(key)
                    .attempt("removing a listener's address")?;
            }
        }
        self.image = image;
        Ok(())
    }

    /// Sets the bits of all addresses. Bits of addresses that are no longer ours stay: they cost a
    /// lookup, and flows of removed backends still need them.
    fn add_to_filter(&mut self, image: &Image) -> Result<(), DataPathError> {
        let vips = image.listeners.keys().map(|key| key.vip);
        let backends = image
            .backends
            .iter()
            .filter(|b| b.present != 0)
            .map(|b| b.address);
        let mut words: BTreeMap<u32, u64> = BTreeMap::new();
        for (word, mask) in vips.chain(backends).map(filter_position) {
            *words.entry(word % FILTER_WORDS).or_default() |= mask;
        }
        for (word, bits) in words {
            let old = self
                .filter
                .get(&word, 0)
                .attempt("reading the address filter")?;
            self.filter
                .set(word, old | bits, 0)
                .attempt("writing the address filter")?;
        }
        Ok(())
    }

    /// Sets the idle timeouts of a service.
    pub(super) fn set_idle(
        &mut self,
        id: u16,
        service: &ServiceConfig,
        udp_ms: [u64; 2],
    ) -> Result<(), DataPathError> {
        let idle = &service.idle;
        let ticks = IdleTicks {
            unanswered: ticks_from_ms(idle.unanswered.as_millis()),
            established: ticks_from_ms(idle.established.as_millis()),
            closing: ticks_from_ms(idle.closing.as_millis()),
            udp: udp_ms.map(ticks_from_ms),
            reserved: 0,
        };
        self.idle
            .set(u32::from(id), ticks, 0)
            .attempt(format!("writing the idle timeouts of {}", service.name))
    }
}

/// The program hashes addresses in their own family's form.
fn filter_position(address: WideAddress) -> (u32, u64) {
    if address.to_ip().is_ipv4() {
        position(&Ipv4::narrow(&address))
    } else {
        position(&Ipv6::narrow(&address))
    }
}

fn read_listeners(
    map: &HashMap<MapData, ListenerKey, u32>,
) -> Result<BTreeMap<ListenerKey, u32>, DataPathError> {
    map.iter()
        .collect::<Result<_, _>>()
        .attempt("reading the listeners' addresses")
}

/// Slots up to the last one that a record refers to.
fn used_slots(records: &[ListenerRecord]) -> u32 {
    let tables = records.iter().flat_map(|record| record.tables);
    tables
        .map(|range| range.start.saturating_add(range.len))
        .max()
        .unwrap_or(0)
}

/// An array that is read and written many elements at a time.
struct ArrayMap<V> {
    name: &'static str,
    map: MapData,
    len: u32,
    value: PhantomData<V>,
}

impl<V: bytemuck::Pod + PartialEq> ArrayMap<V> {
    fn open(pins: &PinDir, name: &'static str) -> Result<Self, DataPathError> {
        let map = pins.open_data(name)?;
        let info = map
            .info()
            .attempt(format!("asking for the size of {name}"))?;
        Ok(Self {
            name,
            map,
            len: info.max_entries(),
            value: PhantomData,
        })
    }

    fn read(&self, len: u32) -> Result<Vec<V>, DataPathError> {
        bpf::lookup_batch(self.map.fd().as_fd(), len.min(self.len))
            .attempt(format!("reading the map {}", self.name))
    }

    fn write(&self, ids: &[u32], values: &[V]) -> Result<(), DataPathError> {
        bpf::update_batch(self.map.fd().as_fd(), ids, values)
            .attempt(format!("writing the map {}", self.name))
    }

    /// Writes the elements in which `new` differs from `old`.
    fn write_changed(&self, old: &[V], new: &[V]) -> Result<(), DataPathError> {
        let changed = (0..)
            .zip(new)
            .filter(|(id, value)| old.get(*id as usize) != Some(value));
        let (ids, values): (Vec<u32>, Vec<V>) = changed.map(|(id, value)| (id, *value)).unzip();
        self.write(&ids, &values)
    }
}
