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
    pub remove_expired: u8,
    /// The [`Table`] that is scanned, as its number.
    pub table: u8,
    /// After how many elements a read of the iterator ends, about.
    pub visits: u16,
    /// Tick at which flows are judged: one for the whole table, so that both entries of a flow agree.
    pub now: u32,
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
    pub expired_flows: u32,
    /// Elements that the read has visited which runs now.
    pub visited: u16,
    /// Elements that were visited since one was removed.
    pub kept: u16,
}
shared!(ScanTotals, 16);

impl ScanTotals {
    /// Elements of one bucket of a table at most, but for very few buckets.
    const BUCKET: u16 = 8;

    /// Notes a visit, and whether the element `is_removed`. Returns whether the read is to end, which should have
    /// `visits`: where an element was removed from a bucket that is not behind yet, the next read would begin
    /// too far. It ends late rather than never.
    #[inline(always)]
    #[must_use]
    pub const fn ends_read(&mut self, is_removed: bool, visits: u16) -> bool {
        self.visited = self.visited.saturating_add(1);
        self.kept = if is_removed {
            0
        } else {
            self.kept.saturating_add(1)
        };
        let is_behind = self.kept >= Self::BUCKET;
        let ends = self.visited >= visits
            && (is_behind || self.visited >= visits.saturating_mul(Self::BUCKET));
        if ends {
            self.visited = 0;
        }
        ends
    }
}

/// A cut flow that the iterator has found for the first time, as it writes it to its reader: also what
/// a RST to either side of a TCP flow must say. All zero: no flow; one that only ends a read.
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
    /// Entries that refer to it.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many visits a read ends when every `removed`th element is removed.
    fn visits(asked: u16, removed: u16) -> u16 {
        let mut totals = ScanTotals::default();
        let mut ends = |at: &u16| totals.ends_read(at.is_multiple_of(removed), asked);
        (1..=u16::MAX).find(&mut ends).expect("a read that ends")
    }

    #[test]
    fn a_read_ends_after_what_was_asked_for_and_not_beside_a_removal() {
        let never = u16::MAX;
        assert_eq!(visits(100, never), 100);
        assert_eq!(visits(100, 50), 108, "eight behind the removal");
        assert_eq!(visits(100, 5), 800, "late rather than never");
        assert_eq!(visits(1, never), 8, "the beginning may be within a bucket");
    }
}
