//! What the program is told of the node's interfaces.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::maps::{Array, MapData};
use switcher_common::interface::{InterfaceRecord, flags};

use super::{
    bpf,
    error::{Attempt as _, DataPathError},
    hop_watch::HopWatch,
    pins::PinDir,
};

const NAME: &str = "INTERFACES";

/// The map of interfaces, and what it holds.
pub(super) struct InterfaceTable {
    map: Array<MapData, InterfaceRecord>,
    /// Those that are not plain, by index.
    written: BTreeMap<u32, InterfaceRecord>,
    /// Flows keep ways that these records say.
    watch: HopWatch,
    /// Whether they keep those of records before the newest.
    is_behind: bool,
}

impl InterfaceTable {
    pub(super) fn open(pins: &PinDir, watch: HopWatch) -> Result<Self, DataPathError> {
        let map: Array<MapData, InterfaceRecord> = pins.open(NAME)?;
        let raw = pins.open_data(NAME)?;
        let (indexes, records) =
            bpf::lookup_batch::<u32, InterfaceRecord>(raw.fd().as_fd(), map.len())
                .attempt(format!("reading the map {NAME}"))?;
        let all = indexes.into_iter().zip(records);
        let written = all.filter(|(_, it)| !is_plain(*it)).collect();
        Ok(Self {
            map,
            written,
            watch,
            is_behind: false,
        })
    }

    /// Makes the map say what `records` say, and nothing of other interfaces. Returns those that are
    /// beyond its size and not plain: the program takes them for plain ones.
    pub(super) fn set(
        &mut self,
        records: impl Iterator<Item = (u32, InterfaceRecord)>,
    ) -> Result<Vec<u32>, DataPathError> {
        let (held, beyond): (BTreeMap<_, _>, BTreeMap<_, _>) = records
            .filter(|(_, record)| !is_plain(*record))
            .partition(|(index, _)| *index < self.map.len());
        let gone: Vec<u32> = self
            .written
            .keys()
            .filter(|index| !held.contains_key(index))
            .copied()
            .collect();
        let plain = gone.into_iter().map(|it| (it, InterfaceRecord::default()));
        let written = plain
            .chain(held)
            .try_for_each(|(index, record)| self.write(index, record));
        // Whatever was written, flows follow it.
        let followed = self.follow();
        written.and(followed)?;
        Ok(beyond.into_keys().collect())
    }

    /// The program has just been attached to an interface in generic mode.
    pub(super) fn set_generic(&mut self, index: u32) -> Result<(), DataPathError> {
        if index >= self.map.len() {
            return Ok(());
        }
        let mut record = self.written.get(&index).copied().unwrap_or_default();
        record.flags |= flags::GENERIC;
        self.write(index, record)?;
        self.follow()
    }

    /// Has flows ask anew for ways that they keep of records before. If it fails, the next call makes up for it.
    fn follow(&mut self) -> Result<(), DataPathError> {
        if self.is_behind {
            self.watch.raise()?;
            self.is_behind = false;
        }
        Ok(())
    }

    fn write(&mut self, index: u32, record: InterfaceRecord) -> Result<(), DataPathError> {
        if self.written.get(&index).copied().unwrap_or_default() == record {
            return Ok(());
        }
        self.map
            .set(index, record, 0)
            .attempt(format!("writing interface {index} into the map {NAME}"))?;
        self.is_behind = true;
        if is_plain(record) {
            self.written.remove(&index);
        } else {
            self.written.insert(index, record);
        }
        Ok(())
    }
}

fn is_plain(record: InterfaceRecord) -> bool {
    record == InterfaceRecord::default()
}
