//! Reading the configuration out of the maps, and making a new one visible by one store.

use std::{collections::BTreeMap, marker::PhantomData, os::fd::AsFd as _};

use aya::maps::{Array, MapData};
use switcher_common::{
    address::{Address, Ipv4, Ipv6, WideAddress},
    clock::ticks_from_ms,
    cut::CutOrder,
    filter::{FILTER_WORDS, position},
    rate::{Capped, budget},
    report::REPORTS_PER_SECOND,
    scan::IdleTicks,
    service::{
        BackendRecord, EndpointEditions, EndpointRecord, ListenerKey, ListenerRecord, Name,
        VipMarks,
    },
};

use super::{
    bpf,
    double::{Doubled, Replaced},
    error::{Attempt as _, DataPathError},
    image::{Addresses, Evolved, Image, Slots},
    orders::{Orders, are_ordered_alike},
    pins::PinDir,
};
use crate::config::ServiceConfig;

/// ICMP errors of its own that the node sends per CPU and second at most, of each of the two kinds, as
/// many as Linux does by default (`icmp_msgs_per_sec`).
const ICMP_ERRORS_PER_SECOND: u32 = 1_000;

/// The maps that hold the configuration.
pub(super) struct Tables {
    config: Doubled<ListenerRecord>,
    listeners: Bulk<ListenerKey, u32>,
    /// The same map: its elements of [`ListenerKey::any_of`].
    vips: Bulk<ListenerKey, VipMarks>,
    endpoints: Bulk<ListenerKey, EndpointEditions>,
    budgets: Array<MapData, u32>,
    backends: Bulk<u32, BackendRecord>,
    maglev: Bulk<u32, u32>,
    names: Bulk<u32, Name>,
    filter: Bulk<u32, u64>,
    idle: Array<MapData, IdleTicks>,
    cuts: Bulk<u32, CutOrder>,
    /// The orders that the map holds, by backend id.
    ordered: Vec<CutOrder>,
    /// What they were made of.
    orders: Orders,
    /// Whether they are what `orders` and `image` come to.
    is_ordered: bool,
    /// Ids of backends, by service.
    backends_of: BTreeMap<u16, Vec<u32>>,
    image: Image,
}

impl Tables {
    /// Opens the maps and reads what they hold.
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let config = Doubled::config(pins)?;
        let listeners: Bulk<ListenerKey, u32> = Bulk::open(pins, "LISTENERS")?;
        let endpoints: Bulk<ListenerKey, EndpointEditions> = Bulk::open(pins, "ENDPOINTS")?;
        let cuts: Bulk<u32, CutOrder> = Bulk::open(pins, "CUTS")?;
        let ordered = cuts.values(cuts.len)?;
        let mut tables = Self {
            config,
            listeners,
            vips: Bulk::open(pins, "LISTENERS")?,
            endpoints,
            budgets: pins.open("RATE_BUDGETS")?,
            backends: Bulk::open(pins, "BACKENDS")?,
            maglev: Bulk::open(pins, "MAGLEV")?,
            names: Bulk::open(pins, "SERVICE_NAMES")?,
            filter: Bulk::open(pins, "FILTER")?,
            idle: pins.open("IDLE")?,
            cuts,
            ordered,
            orders: Orders::default(),
            is_ordered: false,
            backends_of: BTreeMap::new(),
            image: Image::default(),
        };
        tables.hold(tables.read()?);
        Ok(tables)
    }

    /// Notes what the maps hold from now on.
    fn hold(&mut self, image: Image) {
        if !are_ordered_alike(&self.image, &image) {
            self.is_ordered = false;
            self.backends_of.clear();
            // Ids begin at 1; elements that were never used are of service 0.
            for (id, backend) in (0..).zip(&image.backends).filter(|(_, it)| it.service != 0) {
                let backends = self.backends_of.entry(backend.service).or_default();
                backends.push(id);
            }
        }
        self.image = image;
    }

    /// Reads what the maps hold.
    fn read(&self) -> Result<Image, DataPathError> {
        let records = self.config.read()?;
        let (vips, listeners): (BTreeMap<_, _>, BTreeMap<_, _>) = (self.listeners.elements()?)
            .into_iter()
            .partition(|(key, _)| key.protocol == 0);
        Ok(Image {
            names: self.names.values(self.names.len)?,
            listeners,
            addresses: Addresses {
                vips: vips
                    .into_iter()
                    .map(|(key, marks)| (key, VipMarks(marks)))
                    .collect(),
                endpoints: self.endpoints.elements()?,
            },
            backends: self.backends.values(self.backends.len)?,
            maglev: self.maglev.values(used_slots(&records))?,
            records,
            filled: BTreeMap::new(),
        })
    }

    /// Reads what the maps hold after all, when writing them failed half-way.
    pub(super) fn read_again(&mut self) -> Result<(), DataPathError> {
        // First of all: if reading fails too, nothing is known of what orders there are.
        self.is_ordered = false;
        self.hold(self.read()?);
        self.ordered = self.cuts.values(self.cuts.len)?;
        Ok(())
    }

    /// What the maps hold.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Makes `evolved` visible: first everything that nobody looks at yet, then one store, then the
    /// removal of what nobody looks at any more. An error means that the store did not happen.
    pub(super) fn install(&mut self, evolved: Evolved) -> Result<Option<Replaced>, DataPathError> {
        let Evolved {
            image,
            slots,
            retiring,
        } = evolved;
        self.names.write_changed(&self.image.names, &image.names)?;
        self.order_added(&image)?;
        self.backends
            .write_changed(&self.image.backends, &image.backends)?;
        self.add_to_filter(&image)?;
        self.write_tables(&slots)?;
        self.listeners
            .write_new(&self.image.listeners, &image.listeners)?;
        self.vips
            .write_new(&self.image.addresses.vips, &image.addresses.vips)?;
        self.vips
            .write_new(&self.image.addresses.vips, &retiring.vips)?;
        // What no listener uses by either edition makes room for what is new: the map has none for both.
        let (retiring, unused): (BTreeMap<_, _>, BTreeMap<_, _>) = (retiring.endpoints.into_iter())
            .partition(|(_, editions)| editions.0.iter().any(EndpointRecord::is_present));
        let unused: Vec<ListenerKey> = unused.into_keys().collect();
        self.endpoints.remove(&unused)?;
        self.endpoints
            .write_new(&self.image.addresses.endpoints, &image.addresses.endpoints)?;
        self.endpoints
            .write_new(&self.image.addresses.endpoints, &retiring)?;
        let replaced = if self.image.records == image.records {
            None
        } else {
            Some(self.config.replace(&image.records)?)
        };
        if let Err(error) = self.remove_gone(&image, retiring) {
            tracing::error!(%error, "what is configured no more stays in the maps until the agent is started again; packets do not see it");
        }
        self.hold(image);
        Ok(replaced)
    }

    /// Removes what only the image before has.
    fn remove_gone(
        &self,
        image: &Image,
        retiring: BTreeMap<ListenerKey, EndpointEditions>,
    ) -> Result<(), DataPathError> {
        let old = &self.image;
        self.listeners
            .remove_gone(&old.listeners, &image.listeners)?;
        self.vips
            .remove_gone(&old.addresses.vips, &image.addresses.vips)?;
        let retiring: Vec<ListenerKey> = retiring.into_keys().collect();
        self.endpoints.remove(&retiring)
    }

    /// Writes tables that no listener leads to yet, many by one call.
    fn write_tables(&self, tables: &[Slots]) -> Result<(), DataPathError> {
        let slots = tables
            .iter()
            .flat_map(|table| (table.start..).zip(&table.ids));
        let (at, ids): (Vec<u32>, Vec<u32>) = slots.unzip();
        self.maglev.write(&at, &ids)
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
        let old = self.filter.values(FILTER_WORDS)?;
        let mut new = old.clone();
        for (word, mask) in vips.chain(backends).map(filter_position) {
            if let Some(word) = new.get_mut(word as usize) {
                *word |= mask;
            }
        }
        self.filter.write_changed(&old, &new)
    }

    /// Sets how many flows may be recorded per CPU and second, how many ICMP errors sent, and how much reported.
    pub(super) fn set_rates(&mut self, inserts_per_second: u32) -> Result<(), DataPathError> {
        for (what, per_second) in [
            (Capped::Insert, inserts_per_second),
            (Capped::TimeExceeded, ICMP_ERRORS_PER_SECOND),
            (Capped::TooBig, ICMP_ERRORS_PER_SECOND),
            (Capped::Report, REPORTS_PER_SECOND),
        ] {
            self.budgets
                .set(what as u32, budget(per_second), 0)
                .attempt("writing the caps per second")?;
        }
        Ok(())
    }

    /// Gives each backend its order, or none: also the removed ones, whose flows still run. A flip waits for
    /// this: where nothing but orders has changed, only backends are looked at whose services have other ones.
    pub(super) fn set_orders(&mut self, orders: Orders) -> Result<(), DataPathError> {
        let before = std::mem::replace(&mut self.orders, orders);
        let services = (self.is_ordered).then(|| self.orders.services_unlike(&before, &self.image));
        let wanted = match services {
            Some(services) => {
                let backends = services.iter().filter_map(|id| self.backends_of.get(id));
                self.orders.of(&self.image, backends.flatten().copied())
            }
            None => self.orders.of(&self.image, 0..self.cuts.len),
        };
        self.is_ordered = false;
        self.order(&wanted)?;
        self.is_ordered = true;
        Ok(())
    }

    /// Orders what is `wanted`, by backend id.
    fn order(&mut self, wanted: &[(u32, CutOrder)]) -> Result<(), DataPathError> {
        let is_new = |(id, order): &&(u32, CutOrder)| self.ordered.get(*id as usize) != Some(order);
        let (ids, orders): (Vec<u32>, Vec<CutOrder>) =
            wanted.iter().filter(is_new).copied().unzip();
        let written = self.cuts.write(&ids, &orders);
        if written.is_err() {
            // Some of it may be in the map.
            self.ordered = self.cuts.values(self.cuts.len)?;
            return written;
        }
        for (id, order) in ids.into_iter().zip(orders) {
            if let Some(ordered) = self.ordered.get_mut(id as usize) {
                *ordered = order;
            }
        }
        Ok(())
    }

    /// Gives the backends that only `image` has the orders of their services, such as a pause, and takes
    /// those back that the id's last owner had. No packet knows them yet. Orders of removed listeners that
    /// are configured again, or have ended, are taken back too.
    fn order_added(&mut self, image: &Image) -> Result<(), DataPathError> {
        let is_concerned = |(id, backend): &(u32, &BackendRecord)| {
            let old = self.image.backends.get(*id as usize);
            let is_added = backend.present != 0 && old.is_none_or(|old| old.present == 0);
            let was_removed = is_removed(&self.image, backend) && !is_removed(image, backend);
            is_added || was_removed
        };
        let concerned = (0..).zip(&image.backends).filter(is_concerned);
        let wanted = self.orders.of(image, concerned.map(|(id, _)| id));
        self.order(&wanted)
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
            udp_preview: ticks_from_ms(idle.udp.as_millis()),
        };
        self.idle
            .set(u32::from(id), ticks, 0)
            .attempt(format!("writing the idle timeouts of {}", service.name))
    }
}

/// Whether the listener of `backend` is a removed one in `image`.
fn is_removed(image: &Image, backend: &BackendRecord) -> bool {
    let record = image.records.get(backend.listener as usize);
    record.is_some_and(ListenerRecord::is_removed)
}

/// The program hashes addresses in their own family's form.
fn filter_position(address: WideAddress) -> (u32, u64) {
    if address.to_ip().is_ipv4() {
        position(&Ipv4::narrow(&address))
    } else {
        position(&Ipv6::narrow(&address))
    }
}

/// Slots up to the last one that a record refers to.
fn used_slots(records: &[ListenerRecord]) -> u32 {
    let tables = records.iter().flat_map(|record| record.tables);
    tables
        .map(|range| range.start.saturating_add(range.len))
        .max()
        .unwrap_or(0)
}

/// A map that is read and written many elements at a time.
struct Bulk<K, V> {
    name: &'static str,
    map: MapData,
    /// Most elements that it holds.
    len: u32,
    types: PhantomData<(K, V)>,
}

impl<K: bytemuck::Pod, V: bytemuck::Pod> Bulk<K, V> {
    fn open(pins: &PinDir, name: &'static str) -> Result<Self, DataPathError> {
        let map = pins.open_data(name)?;
        let info = map
            .info()
            .attempt(format!("asking for the size of {name}"))?;
        Ok(Self {
            name,
            map,
            len: info.max_entries(),
            types: PhantomData,
        })
    }

    fn read(&self, most: u32) -> Result<(Vec<K>, Vec<V>), DataPathError> {
        bpf::lookup_batch(self.map.fd().as_fd(), most.min(self.len))
            .attempt(format!("reading the map {}", self.name))
    }

    fn write(&self, keys: &[K], values: &[V]) -> Result<(), DataPathError> {
        bpf::update_batch(self.map.fd().as_fd(), keys, values)
            .attempt(format!("writing the map {}", self.name))
    }

    fn remove(&self, keys: &[K]) -> Result<(), DataPathError> {
        bpf::delete_batch(self.map.fd().as_fd(), keys)
            .attempt(format!("removing elements of the map {}", self.name))
    }
}

impl<K: bytemuck::Pod + Ord, V: bytemuck::Pod + PartialEq> Bulk<K, V> {
    /// All elements of a hash map.
    fn elements(&self) -> Result<BTreeMap<K, V>, DataPathError> {
        let (keys, values) = self.read(self.len)?;
        Ok(keys.into_iter().zip(values).collect())
    }

    /// Writes the elements of a hash map that `old` has not, or has with another value.
    fn write_new(&self, old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Result<(), DataPathError> {
        let changed = new
            .iter()
            .filter(|(key, value)| old.get(key) != Some(value));
        let (keys, values): (Vec<K>, Vec<V>) = changed.unzip();
        self.write(&keys, &values)
    }

    /// Removes the elements of a hash map that `new` has not.
    fn remove_gone(&self, old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Result<(), DataPathError> {
        let gone = old.keys().copied().filter(|key| !new.contains_key(key));
        self.remove(&gone.collect::<Vec<K>>())
    }
}

impl<V: bytemuck::Pod + PartialEq> Bulk<u32, V> {
    /// The first `len` elements of an array.
    fn values(&self, len: u32) -> Result<Vec<V>, DataPathError> {
        self.read(len).map(|(_, values)| values)
    }

    /// Writes the elements of an array in which `new` differs from `old`.
    fn write_changed(&self, old: &[V], new: &[V]) -> Result<(), DataPathError> {
        let changed = (0..)
            .zip(new)
            .filter(|(id, value)| old.get(*id as usize) != Some(value));
        let (ids, values): (Vec<u32>, Vec<V>) = changed.map(|(id, value)| (id, *value)).unzip();
        self.write(&ids, &values)
    }
}
