//! What the agent and the collecting iterator program exchange.
//!
//! The iterator visits every flow of a table in preemptible context, counts the live ones per
//! service and color, and removes the expired ones, both directions together.
//!
//! It does so in short reads. Each begins with the element that the one before has ended at, which the kernel finds
//! by counting the elements of its bucket: if one of those was removed meanwhile, it begins too far, and what it
//! skips is not in the scan. So a read ends only where the newest removal was in a bucket that is behind
//! ([`ScanTotals::ends_read`]). Where so much is removed that no such place comes, some of it is left to the next
//! scan, as if it had not expired yet ([`ScanTotals::may_remove`]).

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
    /// After how many visits a read of the iterator ends, about.
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
    /// Visits of the read that runs now.
    pub visited: u16,
    /// Elements that were visited since one was removed.
    pub kept: u16,
}
shared!(ScanTotals, 16);

impl ScanTotals {
    /// Elements that a bucket has beside one that was removed; but for one of a hundred thousand in a full table.
    const BUCKET: u16 = 6;
    /// Visits beyond those that were asked for, within which a place to end a read is waited for.
    const LATE: u16 = 512;
    /// Visits that a record counts as: it costs about as much, and a read must not fill the kernel's buffer.
    const RECORD: u16 = 16;

    /// Before the first element of a table.
    #[must_use]
    pub const fn beginning() -> Self {
        Self {
            entries: 0,
            expired_flows: 0,
            visited: 0,
            kept: Self::BUCKET,
        }
    }

    /// Whether the read, which should have `visits`, ends before the element that comes now. The next one begins
    /// with that element, whatever `visits` says then.
    #[inline(always)]
    #[must_use]
    pub const fn ends_read(&mut self, visits: u16) -> bool {
        let is_behind = self.kept >= Self::BUCKET || cfg!(mutant = "read-ends-beside-removal");
        let is_used_up = self.visited >= visits && self.visited > 0;
        let ends = is_used_up && is_behind && !cfg!(mutant = "endless-read");
        if ends {
            self.visited = 0;
        }
        ends
    }

    /// Whether an element may be removed in the read, which should have `visits`.
    #[inline(always)]
    #[must_use]
    pub const fn may_remove(&self, visits: u16) -> bool {
        self.visited < visits.saturating_add(Self::LATE)
    }

    /// Notes a visit, and whether the element `is_removed`.
    #[inline(always)]
    pub const fn visit(&mut self, is_removed: bool) {
        self.visited = self.visited.saturating_add(1);
        self.kept = if is_removed {
            0
        } else {
            self.kept.saturating_add(1)
        };
    }

    /// Notes a record.
    #[inline(always)]
    pub const fn record(&mut self) {
        self.visited = self.visited.saturating_add(Self::RECORD);
    }

    /// Records of a read that should have `visits`, at most.
    #[must_use]
    pub const fn most_records(visits: u16) -> usize {
        let until_late = visits.saturating_add(Self::LATE).div_ceil(Self::RECORD);
        (until_late + Self::BUCKET) as usize
    }
}

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

    /// What a read comes to that should have `asked` visits, where every `removed`th element could be removed and
    /// every `told`th gives a record: its visits, its removals, and its records.
    fn read(asked: u16, removed: u16, told: u16) -> [usize; 3] {
        let (mut totals, mut counts) = (ScanTotals::beginning(), [0; 3]);
        let mut kept = ScanTotals::BUCKET;
        for at in 1..=u16::MAX {
            if totals.ends_read(asked) {
                assert!(kept >= ScanTotals::BUCKET, "a removal is {kept} visits ago");
                return counts;
            }
            let is_removed = at.is_multiple_of(removed) && totals.may_remove(asked);
            let is_told = at.is_multiple_of(told) && !is_removed;
            if is_told {
                totals.record();
            }
            totals.visit(is_removed);
            kept = if is_removed { 0 } else { kept + 1 };
            counts[0] += 1;
            counts[1] += usize::from(is_removed);
            counts[2] += usize::from(is_told);
        }
        panic!("a read without an end: {asked} visits were asked for");
    }

    #[test]
    fn a_read_ends_after_what_was_asked_for_and_not_beside_a_removal() {
        const NEVER: u16 = u16::MAX;
        assert_eq!(read(100, NEVER, NEVER), [100, 0, 0]);
        assert_eq!(read(1, NEVER, NEVER), [1, 0, 0]);
        assert_eq!(read(0, NEVER, NEVER), [1, 0, 0], "it gets on in any case");
        assert_eq!(read(100, 50, NEVER), [106, 2, 0], "six behind the removal");
        assert_eq!(read(100, 1, NEVER), [618, 612, 0], "the last ones are left");
        assert_eq!(read(1, 1, NEVER), [519, 513, 0]);
    }

    #[test]
    fn a_reads_records_fit_into_the_kernels_buffer_however_many_flows_are_cut_and_removed() {
        for asked in [1, 16, 100, 4_096] {
            for removed in 1..=20 {
                for told in 1..=20 {
                    let [.., records] = read(asked, removed, told);
                    let most = ScanTotals::most_records(asked);
                    assert!(records <= most, "{asked} {removed} {told}: {records}");
                }
            }
        }
        assert_eq!(read(4_096, u16::MAX, 1), [241, 0, 241]);
    }
}
