//! What the agent and the collecting iterator program exchange.
//!
//! The iterator visits every flow of a table in preemptible context, counts the live ones per
//! service and color, and removes the expired ones, both directions together.

use bytemuck::{Pod, Zeroable};

use crate::{address::WideAddress, service::Color, shared};

/// Which table is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Table {
    /// Flows whose backend has answered.
    Established = 0,
    /// Flows whose backend has not answered yet.
    Unanswered = 1,
}

impl Table {
    /// As the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Unanswered => "unanswered",
        }
    }
}

/// What the agent asks for before it runs the iterator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ScanRequest {
    /// Flows whose silence began before now minus their idle timeout are removed, those that an order
    /// wants are cut. 0 counts only.
    pub remove_expired: u32,
    /// The [`Table`] that is scanned, as its number.
    pub table: u32,
    /// Number of the scan, 1 to 255; all its tables have the same, the next scan has another.
    pub number: u32,
}
shared!(ScanRequest, 12);

/// What a scan saw in a whole table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ScanTotals {
    /// Entries; a flow has two.
    pub entries: u64,
    /// Flows that were removed because they were silent for too long.
    pub expired_flows: u64,
}
shared!(ScanTotals, 16);

/// A cut flow that the iterator has found for the first time, as it writes it to its reader: also what
/// a RST to either side of a TCP flow must say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CutFlow {
    /// The client's address.
    pub client: WideAddress,
    /// The virtual address that it talks to.
    pub vip: WideAddress,
    /// The backend's address.
    pub backend: WideAddress,
    /// Number behind the last byte that the client sent.
    pub client_next_seq: u32,
    /// Newest number that the client acknowledged.
    pub client_acked: u32,
    /// Number behind the last byte that the backend sent.
    pub backend_next_seq: u32,
    /// Newest number that the backend acknowledged.
    pub backend_acked: u32,
    /// Port of the client in network byte order.
    pub client_port_be: u16,
    /// Port of the listener in network byte order.
    pub vip_port_be: u16,
    /// Port of the backend in network byte order.
    pub backend_port_be: u16,
    /// Id of the service.
    pub service: u16,
    /// A [`Color`] as its number.
    pub color: u8,
    /// `AF_INET` or `AF_INET6`.
    pub af: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// 1: a packet had cut it, and its sender was answered; 0: it was silent, the iterator has cut it.
    pub by_packet: u8,
    /// 1: it was in flight until now.
    pub in_flight: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
shared!(CutFlow, 80);

/// Flows of a backend that a scan has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackendFlows {
    /// All that refer to it.
    pub all: u32,
    /// Those in flight, previews' too.
    pub live: u32,
}
shared!(BackendFlows, 8);

/// Age that flows are kept at when they get older, in ticks: 13 days, a quarter of the ticks' range.
pub const OLDEST_TICKS: u32 = 1 << 30;

/// Counters of a service in a scan: one for each color's live flows, then one for each color's preview flows.
pub const SCAN_COUNTERS_PER_SERVICE: u32 = 4;

/// Index of the live flows of `color` of a service; preview flows are counted apart.
#[inline(always)]
#[must_use]
pub const fn live_index(service: u16, color: Color, preview: bool) -> u32 {
    service as u32 * SCAN_COUNTERS_PER_SERVICE + preview as u32 * 2 + color as u32
}

/// Idle timeouts of a service, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IdleTicks {
    /// A flow whose backend has not answered yet.
    pub unanswered: u32,
    /// An established TCP flow.
    pub established: u32,
    /// A TCP flow after FIN in both directions or RST.
    pub closing: u32,
    /// UDP flows, by color: a draining color's is shorter.
    pub udp: [u32; 2],
    /// UDP flows of preview listeners, which no drain concerns.
    pub udp_preview: u32,
}
shared!(IdleTicks, 24);
