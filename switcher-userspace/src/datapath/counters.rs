//! Reading the program's per-CPU counters.

use aya::maps::{Array, MapData, PerCpuArray};
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
    scan_ended: Array<MapData, u64>,
    send_errors: Option<SendErrorCounters>,
}

impl Counters {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        Ok(Self {
            verdicts: pins.open("VERDICTS")?,
            traffic: pins.open("TRAFFIC")?,
            scan_ended: pins.open("SCAN_ENDED")?,
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

    /// Traffic of a color of a service, since the data path was loaded.
    pub fn traffic(&self, service: u16, color: Color) -> Result<ColorTraffic, DataPathError> {
        let index = ColorStats::index(service, color);
        let per_cpu = self.traffic.get(&index, 0);
        let per_cpu = per_cpu.attempt("reading the traffic counters")?;
        let ended_by_scans = self.scan_ended.get(&index, 0);
        let ended_by_scans = ended_by_scans.attempt("reading the scans' counters")?;
        let sum = |counter: fn(&ColorStats) -> u64| per_cpu.iter().map(counter).sum::<u64>();
        let ended_flows = sum(|cpu| cpu.ended_flows) + ended_by_scans;
        let newest = per_cpu.iter().map(|cpu| cpu.newest_packet_ns).max();
        let first_flow = |cpu: &ColorStats| (cpu.first_flow_generation, cpu.first_flow_ns);
        Ok(ColorTraffic {
            packets: sum(|cpu| cpu.packets),
            bytes: sum(|cpu| cpu.bytes),
            new_flows: sum(|cpu| cpu.new_flows),
            unpinned_packets: sum(|cpu| cpu.unpinned_packets),
            reset_flows: sum(|cpu| cpu.reset_flows),
            moved_flows: sum(|cpu| cpu.moved_flows),
            finished_flows: ended_flows.saturating_sub(sum(|cpu| cpu.restored_flows)),
            newest_packet_ns: newest.filter(|ns| *ns != 0),
            first_flows: per_cpu.iter().map(first_flow).collect(),
        })
    }
}

/// Traffic of one color of a service, both directions, since the data path was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColorTraffic {
    /// Packets that were rewritten.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
    /// Flows that were recorded.
    pub new_flows: u64,
    /// Packets in the middle of a stream without a pin (G9).
    pub unpinned_packets: u64,
    /// TCP flows in flight that were cut, of which a packet came and was answered with a RST.
    pub reset_flows: u64,
    /// Flows in flight that went elsewhere: cut UDP flows that their client's datagram moved, and half-open ones
    /// that a second chance took to the other color.
    pub moved_flows: u64,
    /// Flows, previews' left out, that were in flight and have ended by themselves: by what their packets
    /// said, or because they were silent for too long.
    pub finished_flows: u64,
    /// When the newest packet came that is not of a preview's flow, in nanoseconds of
    /// `CLOCK_MONOTONIC`, up to 10 ms too early.
    pub newest_packet_ns: Option<u64>,
    /// Of each CPU, [`ColorStats::first_flow_generation`] and [`ColorStats::first_flow_ns`].
    first_flows: Vec<(u64, u64)>,
}

impl ColorTraffic {
    /// When the first fresh flow was recorded on the color, being active, since the drain of
    /// `drain_generation` began, in nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn first_flow_ns(&self, drain_generation: u64) -> Option<u64> {
        let of_drain = |(generation, _): &&(u64, u64)| *generation == drain_generation;
        let first_flows = self.first_flows.iter().filter(of_drain);
        first_flows.map(|(_, ns)| *ns).min()
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
        let (v4, v6) = (
            self.of_table(Ipv4::AF, table)?,
            self.of_table(Ipv6::AF, table)?,
        );
        Ok((v4.inserted + v6.inserted).saturating_sub(v4.removed + v6.removed))
    }

    /// What came into the table of a kind and address family, and went out of it.
    pub(super) fn of_table(&self, af: u8, table: Table) -> Result<TableStats, DataPathError> {
        let mut sum = TableStats::default();
        for writer in [Writer::Program, Writer::Collector] {
            let per_cpu = self
                .0
                .get(&TableStats::index(af, table, writer), 0)
                .attempt("reading the flow tables' counters")?;
            for cpu in per_cpu.iter() {
                sum.inserted += cpu.inserted;
                sum.removed += cpu.removed;
            }
        }
        Ok(sum)
    }
}
