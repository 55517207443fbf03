//! The clock that the program goes by.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use switcher_common::clock::{Reading, ticks_from_ns};

/// What the program has read of the clock for its newest packet.
pub(super) struct Clock {
    readings: PerCpuArray<MapData, Reading>,
}

impl Clock {
    /// Opens it.
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        let map = MapData::from_pin(pin_dir.join("maps/COARSE_CLOCK"))?;
        Ok(Self {
            readings: Map::from_map_data(map)?.try_into()?,
        })
    }

    /// In ticks; by a thread that stays on the CPU where it runs the packets.
    pub(super) fn ticks(&self) -> Result<u32> {
        let readings = self.readings.get(&0, 0).context("reading the clock")?;
        let reading = readings
            .get(rustix::thread::sched_getcpu())
            .context("a CPU that is not there")?;
        Ok(ticks_from_ns(reading.ns))
    }
}

/// About what the next reading will be, in ticks.
pub(super) fn now_ticks() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let ns = now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
    ticks_from_ns(ns)
}
