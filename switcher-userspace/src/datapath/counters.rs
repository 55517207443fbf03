//! Reading the program's per-CPU counters.

use aya::maps::{MapData, PerCpuArray};
use switcher_common::{reason::Reason, service::Color, stats::ColorStats};

use super::{
    error::{Attempt as _, DataPathError},
    pins::PinDir,
};

/// The counters of the program.
pub struct Counters {
    verdicts: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, ColorStats>,
}

impl Counters {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        Ok(Self {
            verdicts: pins.open("VERDICTS")?,
            traffic: pins.open("TRAFFIC")?,
        })
    }

    /// Packets by reason, those that occurred.
    pub fn verdicts(&self) -> Result<Vec<(Reason, u64)>, DataPathError> {
        let mut counts = Vec::new();
        for reason in Reason::ALL {
            let packets: u64 = self
                .verdicts
                .get(&(*reason as u32), 0)
                .attempt("reading the verdict counters")?
                .iter()
                .sum();
            if packets > 0 {
                counts.push((*reason, packets));
            }
        }
        Ok(counts)
    }

    /// Traffic of a color of a service.
    pub fn traffic(&self, service: u16, color: Color) -> Result<ColorStats, DataPathError> {
        let per_cpu = self
            .traffic
            .get(&ColorStats::index(service, color), 0)
            .attempt("reading the traffic counters")?;
        Ok(per_cpu
            .iter()
            .fold(ColorStats::default(), |sum, cpu| ColorStats {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
                new_flows: sum.new_flows + cpu.new_flows,
                unpinned_packets: sum.unpinned_packets + cpu.unpinned_packets,
            }))
    }
}
