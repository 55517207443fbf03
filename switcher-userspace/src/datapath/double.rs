//! State that is replaced as a whole by one store: two pinned inner maps and an outer slot.
//!
//! The map that is not in the slot has no reader, because replacing the slot waits until every
//! running program has ended (kernel: `maybe_wait_bpf_programs`). It is filled at leisure; then one
//! store makes all of it visible, and its return is the barrier (G1, G3).

use std::{os::fd::AsFd as _, time::Instant};

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use bytemuck::Pod;
use switcher_common::service::{ListenerRecord, ServiceSwitch};

use super::{
    bpf,
    error::{Attempt as _, DataPathError},
    pins::PinDir,
};
use crate::config::Limits;

/// A doubled array.
pub(super) struct Doubled<V: Pod + aya::Pod> {
    name: &'static str,
    outer: ArrayOfMaps<MapData, Array<MapData, V>>,
    inner: [Inner<V>; 2],
    current: usize,
}

struct Inner<V: Pod + aya::Pod> {
    array: Array<MapData, V>,
    /// The same map, for the batch calls.
    raw: MapData,
}

/// When a replacement happened.
#[derive(Clone, Copy, Debug)]
pub struct Replaced {
    /// Just before the store.
    pub stored_at: Instant,
    /// When no running program could still see the old state.
    pub barrier_at: Instant,
}

const SWITCH_INNER: [&str; 2] = ["SWITCH_A", "SWITCH_B"];
const CONFIG_INNER: [&str; 2] = ["CONFIG_A", "CONFIG_B"];

/// Names and lengths of all inner maps. Ids begin at 1.
pub(super) fn inner_maps(limits: &Limits) -> [(&'static str, u32); 4] {
    [
        (SWITCH_INNER[0], limits.services + 1),
        (SWITCH_INNER[1], limits.services + 1),
        (CONFIG_INNER[0], limits.listeners + 1),
        (CONFIG_INNER[1], limits.listeners + 1),
    ]
}

/// Size in bytes of the values of an inner map.
pub(super) fn inner_value_size(name: &str) -> u32 {
    if SWITCH_INNER.contains(&name) {
        bpf::size_u32::<ServiceSwitch>()
    } else {
        bpf::size_u32::<ListenerRecord>()
    }
}

impl Doubled<ServiceSwitch> {
    /// The switch state.
    pub(super) fn switch(pins: &PinDir) -> Result<Self, DataPathError> {
        Self::open(pins, "SWITCH", SWITCH_INNER)
    }
}

impl Doubled<ListenerRecord> {
    /// The listeners.
    pub(super) fn config(pins: &PinDir) -> Result<Self, DataPathError> {
        Self::open(pins, "CONFIG", CONFIG_INNER)
    }
}

impl<V: Pod + aya::Pod> Doubled<V> {
    fn open(pins: &PinDir, name: &'static str, inner: [&str; 2]) -> Result<Self, DataPathError> {
        let [first, second] = inner;
        let inner = [Inner::open(pins, first)?, Inner::open(pins, second)?];
        let mut doubled = Self {
            name,
            outer: pins.open(name)?,
            inner,
            current: 0,
        };
        match current_id(pins, name)? {
            Some(id) if id == doubled.inner[1].id()? => doubled.current = 1,
            Some(id) if id == doubled.inner[0].id()? => doubled.current = 0,
            Some(id) => {
                return Err(DataPathError::Kernel {
                    attempt: format!("opening the map {name}"),
                    found: format!(
                        "its slot holds map {id}, which is neither {first} nor {second}"
                    ),
                });
            }
            // Nothing was ever stored: the empty first map becomes the current one.
            None => drop(doubled.store(0)?),
        }
        Ok(doubled)
    }

    /// Number of the inner map that is not in the slot, 0 or 1.
    pub(super) const fn spare(&self) -> usize {
        1 - self.current
    }

    /// Reads all of the current state.
    pub(super) fn read(&self) -> Result<Vec<V>, DataPathError> {
        let inner = &self.inner[self.current];
        bpf::lookup_batch::<u32, V>(inner.raw.fd().as_fd(), inner.array.len())
            .map(|(_, values)| values)
            .attempt(format!("reading the state of {}", self.name))
    }

    /// Replaces the whole state by `values`, which begin at index 0; the rest is zero.
    pub(super) fn replace(&mut self, values: &[V]) -> Result<Replaced, DataPathError> {
        self.prepare(values)?;
        self.commit()
    }

    /// Writes the state to be into the map without readers.
    pub(super) fn prepare(&mut self, values: &[V]) -> Result<(), DataPathError> {
        if cfg!(mutant = "three-stores") {
            self.write_in_place(values)?;
        }
        if cfg!(mutant = "no-barrier") && self.name == "SWITCH" {
            return self.fill(self.current, values);
        }
        self.fill(self.spare(), values)
    }

    /// Writes all of an inner map.
    fn fill(&self, which: usize, values: &[V]) -> Result<(), DataPathError> {
        let inner = &self.inner[which];
        let len = inner.array.len();
        let keys: Vec<u32> = (0..len).collect();
        let mut all = values.to_vec();
        all.resize(len as usize, bytemuck::Zeroable::zeroed());
        bpf::update_batch(inner.raw.fd().as_fd(), &keys, &all)
            .attempt(format!("filling a map of {}", self.name))
    }

    /// The mutant of G1: one store for each element, into the map that packets read.
    fn write_in_place(&mut self, values: &[V]) -> Result<(), DataPathError> {
        // All but the last, so that whoever looks now sees half of it.
        for (index, value) in (0..).zip(values).take(values.len().saturating_sub(1)) {
            self.inner[self.current]
                .array
                .set(index, value, 0)
                .attempt("writing in place")?;
        }
        Ok(())
    }

    /// Puts the prepared map into the slot.
    pub(super) fn commit(&mut self) -> Result<Replaced, DataPathError> {
        if cfg!(mutant = "no-barrier") && self.name == "SWITCH" {
            // The mutant of G3 has stored into the array that packets read, which waits for nobody.
            return Ok(Replaced {
                stored_at: Instant::now(),
                barrier_at: Instant::now(),
            });
        }
        self.store(1 - self.current)
    }

    fn store(&mut self, which: usize) -> Result<Replaced, DataPathError> {
        let stored_at = Instant::now();
        self.outer
            .set(0, &self.inner[which].array, 0)
            .attempt(format!("replacing the state of {}", self.name))?;
        self.current = which;
        Ok(Replaced {
            stored_at,
            barrier_at: Instant::now(),
        })
    }
}

impl<V: Pod + aya::Pod> Inner<V> {
    fn open(pins: &PinDir, name: &str) -> Result<Self, DataPathError> {
        Ok(Self {
            array: Map::from_map_data(pins.open_data(name)?)
                .and_then(TryInto::try_into)
                .attempt(format!("opening the pinned map {name}"))?,
            raw: pins.open_data(name)?,
        })
    }

    fn id(&self) -> Result<u32, DataPathError> {
        let info = self.raw.info().attempt("asking for a map's id")?;
        Ok(info.id())
    }
}

/// The current state for readers beside the owner, by handles of their own.
pub(super) struct Current<V: Pod + aya::Pod> {
    name: &'static str,
    /// The outer slot as a number.
    slot: Array<MapData, u32>,
    inner: [(u32, Array<MapData, V>); 2],
}

impl Current<ServiceSwitch> {
    /// The switch state.
    pub(super) fn switch(pins: &PinDir) -> Result<Self, DataPathError> {
        Self::open(pins, "SWITCH", SWITCH_INNER)
    }
}

impl Current<ListenerRecord> {
    /// The listeners.
    pub(super) fn config(pins: &PinDir) -> Result<Self, DataPathError> {
        Self::open(pins, "CONFIG", CONFIG_INNER)
    }
}

impl<V: Pod + aya::Pod> Current<V> {
    fn open(pins: &PinDir, name: &'static str, inner: [&str; 2]) -> Result<Self, DataPathError> {
        let open = |inner| -> Result<(u32, Array<MapData, V>), DataPathError> {
            let inner = Inner::open(pins, inner)?;
            Ok((inner.id()?, inner.array))
        };
        let [first, second] = inner;
        Ok(Self {
            name,
            slot: outer_slot(pins, name)?,
            inner: [open(first)?, open(second)?],
        })
    }

    /// Which map is in the slot: another number than before means another state.
    pub(super) fn id(&self) -> Result<u32, DataPathError> {
        self.slot
            .get(&0, 0)
            .attempt(format!("reading the outer slot of {}", self.name))
    }

    /// The value at `index`; `None` beyond the end, or when the slot holds neither map.
    pub(super) fn get(&self, index: u32) -> Result<Option<V>, DataPathError> {
        let id = self.id()?;
        let Some((_, array)) = self.inner.iter().find(|(inner, _)| *inner == id) else {
            return Ok(None);
        };
        if index >= array.len() {
            return Ok(None);
        }
        array
            .get(&index, 0)
            .map(Some)
            .attempt(format!("reading the state of {}", self.name))
    }
}

/// Id of the inner map in the outer slot. Read as a number: opening a map by its id would need more
/// rights than opening its pin.
fn current_id(pins: &PinDir, name: &str) -> Result<Option<u32>, DataPathError> {
    match outer_slot(pins, name)?.get(&0, 0) {
        Ok(id) => Ok(Some(id)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error).attempt(format!("reading the outer slot of {name}")),
    }
}

fn outer_slot(pins: &PinDir, name: &str) -> Result<Array<MapData, u32>, DataPathError> {
    Map::Array(pins.open_data(name)?)
        .try_into()
        .attempt(format!("opening the outer slot of {name}"))
}
