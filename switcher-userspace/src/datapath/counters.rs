//! Reading the program's per-CPU counters.

use aya::maps::{MapData, PerCpuArray};
use switcher_common::{
    address::{Address as _, Ipv4, Ipv6},
    reason::Reason,
    scan::Table,
    send_error::SendError,
    service::Color,
    stats::{ColorStats, TableStats, Writer},
};

use super::{
    error::{Attempt as _, DataPathError},
    pins::PinDir,
    send_errors::SendErrorCounters,
};

/// The counters of the program.
pub struct Counters {
    verdicts: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, ColorStats>,
    send_errors: Option<SendErrorCounters>,
}

impl Counters {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        Ok(Self {
            verdicts: pins.open("VERDICTS")?,
            traffic: pins.open("TRAFFIC")?,
            send_errors: SendErrorCounters::open(pins)?,
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

    /// Frames of any XDP program of this kernel that were lost after its verdict; `None`: the kernel
    /// does not let them be counted.
    pub fn send_errors(&self, error: SendError) -> Result<Option<u64>, DataPathError> {
        let counters = self.send_errors.as_ref();
        counters.map(|counters| counters.read(error)).transpose()
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
                reset_flows: sum.reset_flows + cpu.reset_flows,
                moved_flows: sum.moved_flows + cpu.moved_flows,
            }))
    }
}

/// Entries that came into the flow tables and went out of them otherwise than by eviction.
pub(super) struct TableCounters(PerCpuArray<MapData, TableStats>);

impl TableCounters {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        Ok(Self(pins.open("TABLE_STATS")?))
    }

    /// Entries that would be in a kind of table, both families together, if none had been evicted.
    pub(super) fn expected_entries(&self, table: Table) -> Result<u64, DataPathError> {
        let (mut inserted, mut removed) = (0_u64, 0_u64);
        for af in [Ipv4::AF, Ipv6::AF] {
            for writer in [Writer::Program, Writer::Collector] {
                let per_cpu = self
                    .0
                    .get(&TableStats::index(af, table, writer), 0)
                    .attempt("reading the flow tables' counters")?;
                for cpu in per_cpu.iter() {
                    inserted += cpu.inserted;
                    removed += cpu.removed;
                }
            }
        }
        Ok(inserted.saturating_sub(removed))
    }
}
