//! Reading the configuration out of the maps, and making a new one visible by one store.

use std::{collections::BTreeMap, os::fd::AsFd as _};

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
    backends: MapData,
    maglev: MapData,
    names: MapData,
    filter: Array<MapData, u64>,
    idle: Array<MapData, IdleTicks>,
    image: Image,
}

impl Tables {
    /// Opens the maps and reads what they hold.
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let config = Doubled::config(pins)?;
        let listeners = pins.open("LISTENERS")?;
        let image = Image {
            names: read_all(&pins.open::<Array<MapData, Name>>("SERVICE_NAMES")?)?,
            listeners: read_listeners(&listeners)?,
            records: config.read()?,
            backends: read_all(&pins.open::<Array<MapData, BackendRecord>>("BACKENDS")?)?,
        };
        Ok(Self {
            config,
            listeners,
            backends: pins.open_data("BACKENDS")?,
            maglev: pins.open_data("MAGLEV")?,
            names: pins.open_data("SERVICE_NAMES")?,
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
        write_changed(
            &self.names,
            &self.image.names,
            &image.names,
            "the service names",
        )?;
        write_changed(
            &self.backends,
            &self.image.backends,
            &image.backends,
            "the backends",
        )?;
        self.add_to_filter(&image)?;
        for table in &slots {
            let keys: Vec<u32> = (table.start..).take(table.ids.len()).collect();
            bpf::update_batch(self.maglev.fd().as_fd(), &keys, &table.ids)
                .attempt("writing a Maglev table")?;
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

fn read_all<V: aya::Pod>(map: &Array<MapData, V>) -> Result<Vec<V>, DataPathError> {
    map.iter()
        .collect::<Result<_, _>>()
        .attempt("reading the configuration's maps")
}

/// Writes the elements in which `new` differs from `old`.
fn write_changed<V: bytemuck::Pod + PartialEq>(
    map: &MapData,
    old: &[V],
    new: &[V],
    what: &str,
) -> Result<(), DataPathError> {
    let changed = (0..)
        .zip(new)
        .filter(|(id, value)| old.get(*id as usize) != Some(value));
    let (ids, values): (Vec<u32>, Vec<V>) = changed.map(|(id, value)| (id, *value)).unzip();
    bpf::update_batch(map.fd().as_fd(), &ids, &values).attempt(format!("writing {what}"))
}
