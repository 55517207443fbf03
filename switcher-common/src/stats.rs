//! Counters that the program keeps per CPU.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address as _, Ipv4},
    scan::Table,
    service::Color,
    shared,
};

/// Traffic of one color of a service, both directions; one value per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ColorStats {
    /// Packets that were rewritten.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
    /// When the newest of them came that is not of a preview's flow, in nanoseconds of
    /// `CLOCK_MONOTONIC` as its coarse clock shows them: up to one step of the kernel's timer (1 to
    /// 10 ms) too early. 0: none came.
    pub newest_packet_ns: u64,
    /// Flows that were recorded.
    pub new_flows: u64,
    /// Packets in the middle of a stream without a pin.
    pub unpinned_packets: u64,
    /// TCP flows in flight that were cut, of which a packet came and was answered with a RST.
    pub reset_flows: u64,
    /// Flows in flight that went elsewhere: cut UDP flows that their client's datagram moved, and half-open ones
    /// that a second chance took to the other color.
    pub moved_flows: u64,
    /// Flows, previews' left out, that were in flight and are not any more by what their packets said,
    /// or because the program found them silent for too long.
    pub ended_flows: u64,
    /// Of these, the ones that went on all the same.
    pub restored_flows: u64,
    /// The newest [`ServiceSwitch::drain_generation`](crate::service::ServiceSwitch) under which a
    /// fresh flow was recorded on this color as the active one; 0: none was.
    pub first_flow_generation: u64,
    /// When the first such flow was recorded on this CPU, in nanoseconds of `CLOCK_MONOTONIC`.
    pub first_flow_ns: u64,
}
shared!(ColorStats, 88);

impl ColorStats {
    /// Index of the counters of `color` of a service.
    #[inline(always)]
    #[must_use]
    pub const fn index(service: u16, color: Color) -> u32 {
        service as u32 * 2 + color as u32
    }
}

/// Entries that came into a flow table and went out of it; one value per CPU. What is neither there
/// nor removed was evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TableStats {
    /// Entries that were inserted.
    pub inserted: u64,
    /// Entries that were removed.
    pub removed: u64,
}
shared!(TableStats, 16);

/// Who changes a flow table. Each has counters of its own: packets interrupt the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Writer {
    /// The XDP program.
    Program = 0,
    /// The collecting iterator.
    Collector = 1,
}

impl TableStats {
    /// Number of counters.
    pub const LEN: u32 = 8;

    /// Index of the counters of a table of the address family `af`.
    #[inline(always)]
    #[must_use]
    pub const fn index(af: u8, table: Table, writer: Writer) -> u32 {
        let family = (af != Ipv4::AF) as u32;
        family * 4 + table as u32 * 2 + writer as u32
    }
}
