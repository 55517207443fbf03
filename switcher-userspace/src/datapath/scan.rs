//! Scanning the flow tables by the in-kernel iterator: counts what is live, removes what expired.

use std::{
    collections::HashMap,
    io,
    num::NonZero,
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use switcher_common::{
    address::{Address as _, Ipv4, Ipv6},
    clock::ticks_from_ns,
    scan::{
        BackendFlows, CutFlow, SCAN_COUNTERS_PER_SERVICE, ScanRequest, ScanTotals, Table,
        live_index,
    },
    service::{Color, PerColor, Protocol},
};

use super::{
    bpf, clock,
    counters::TableCounters,
    error::{Attempt as _, DataPathError},
    image::Busy,
    load::iter_mut,
    pins::PinDir,
};

/// What a scan of all tables saw.
#[derive(Clone, Debug)]
pub struct Scan {
    /// When it began.
    pub began_at: Instant,
    /// When it ended.
    pub ended_at: Instant,
    /// Live flows by service id and color, preview flows left out.
    live: Vec<u64>,
    /// Entries of the established tables.
    pub established_entries: u64,
    /// Entries of the unanswered tables.
    pub unanswered_entries: u64,
    /// Entries that the unanswered tables have evicted since the data path was loaded: inserted −
    /// removed − present. Flows that begin or end while a scan runs are not taken for evicted.
    pub evicted_entries: u64,
    /// Flows that were removed because they were silent for too long.
    pub expired_flows: u64,
    /// Reads of the tables' iterators, between which other tasks may run.
    pub reads: u64,
    /// Flows that were cut, by service id and color.
    cut: HashMap<(u16, Color), CutCount>,
}

/// Flows in flight of a color that one scan has cut because an order had come due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutCount {
    /// TCP flows.
    pub tcp: u64,
    /// UDP flows.
    pub udp: u64,
}

impl Scan {
    /// Live flows of a service.
    #[must_use]
    pub fn in_flight(&self, service: u16) -> PerColor<u64> {
        PerColor::from_fn(|color| self.counter(service, color, false))
    }

    /// Live flows of a service's preview listeners.
    #[must_use]
    pub fn preview_flows(&self, service: u16) -> u64 {
        Color::ALL
            .into_iter()
            .map(|color| self.counter(service, color, true))
            .sum()
    }

    /// Flows of a service that this scan has cut.
    #[must_use]
    pub fn cut(&self, service: u16) -> PerColor<CutCount> {
        PerColor::from_fn(|color| self.cut.get(&(service, color)).copied().unwrap_or_default())
    }

    fn counter(&self, service: u16, color: Color, preview: bool) -> u64 {
        let index = live_index(service, color, preview) as usize;
        self.live.get(index).copied().unwrap_or(0)
    }
}

/// Runs scans. One at a time: the maps of the request and the result are shared.
pub struct Scanner {
    request: Array<MapData, ScanRequest>,
    totals: Array<MapData, ScanTotals>,
    live: Array<MapData, u64>,
    live_raw: MapData,
    backends_raw: MapData,
    backends_len: u32,
    tables: TableCounters,
    evicted_entries: u64,
    /// Of the next scan.
    number: NonZero<u8>,
    /// Unanswered first: a flow that is promoted meanwhile is then seen twice, never missed; it is
    /// marked, and so counted once.
    passes: [Pass; 4],
}

struct Pass {
    table: Table,
    /// Its address family.
    af: u8,
    program: OwnedFd,
    map: MapData,
    /// [`ScanRequest::visits`] that have proved right.
    visits: u16,
    /// How many entries had come into the table in all before the newest walk through it, if that found none: as
    /// long as it is so many, there are none.
    empty_at: Option<u64>,
}

/// How long a read of the iterator may take. The kernel does nothing else meanwhile on that CPU, if it is not
/// preemptible: what waits for the CPU waits for so long.
const READ: Duration = Duration::from_micros(500);
/// Time after which a grace period may need the CPU to change to another task; of the kernel's timer.
const TURN: Duration = Duration::from_millis(4);
/// Visits of a read.
const FEWEST_VISITS: u16 = 1;
const MOST_VISITS: u16 = 4_096;
/// Bytes of the kernel's buffer for what an iterator writes, with its smallest pages.
const ITERATOR_BUFFER: usize = 8 * 4_096;
const _: () = {
    let most = ScanTotals::most_records(MOST_VISITS);
    assert!(most <= bpf::RECORDS_AT_ONCE && most * size_of::<CutFlow>() <= ITERATOR_BUFFER);
};

impl Pass {
    /// Whether the table is empty, into which `inserted` entries have come in all. Empty ones are not walked
    /// through: a read goes on to the next entry, past two million buckets if there is none.
    fn is_still_empty(&self, inserted: u64) -> bool {
        match self.empty_at {
            Some(before) => inserted == before || cfg!(mutant = "once-empty-always-empty"),
            None => false,
        }
    }

    fn run(
        &mut self,
        request: ScanRequest,
        requests: &mut Array<MapData, ScanRequest>,
        totals: &mut Array<MapData, ScanTotals>,
        on_cut: &mut impl FnMut(&CutFlow),
    ) -> Result<(ScanTotals, u64), DataPathError> {
        let mut request = ScanRequest {
            visits: self.visits,
            ..request
        };
        requests
            .set(0, request, 0)
            .and_then(|()| totals.set(0, ScanTotals::beginning(), 0))
            .attempt("preparing a scan of the flow tables")?;
        let (mut read_at, mut turned_at) = (Instant::now(), Instant::now());
        let mut reads = 0;
        let on_read = |flows: &[CutFlow]| {
            reads += 1;
            let visits = next_visits(request.visits, read_at.elapsed());
            flows.iter().for_each(&mut *on_cut);
            if visits != request.visits {
                request.visits = visits;
                requests.set(0, request, 0).map_err(io::Error::other)?;
            }
            if turned_at.elapsed() >= TURN {
                thread::yield_now();
                turned_at = Instant::now();
            }
            read_at = Instant::now();
            Ok(())
        };
        let scanned = bpf::iterate(self.program.as_fd(), self.map.fd().as_fd(), on_read);
        scanned.attempt("scanning a flow table")?;
        self.visits = request.visits;
        let totals = totals.get(&0, 0).attempt("reading the scan's totals")?;
        Ok((totals, reads))
    }
}

/// How many visits the next read should have, when one of `visits` has `taken` so long. Where elements are few, the
/// kernel is busy with the empty places between them.
fn next_visits(visits: u16, taken: Duration) -> u16 {
    let next = if taken > READ {
        visits / 2
    } else if taken < READ / 4 {
        visits * 2
    } else {
        visits
    };
    next.clamp(FEWEST_VISITS, MOST_VISITS)
}

impl Scanner {
    pub(super) fn open(ebpf: &mut Ebpf, pins: &PinDir) -> Result<Self, DataPathError> {
        let mut pass = |table, af, program, map| -> Result<Pass, DataPathError> {
            let program = iter_mut(ebpf, program)?;
            Ok(Pass {
                table,
                af,
                program: program
                    .fd()
                    .and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?))
                    .attempt("opening the iterator program")?,
                map: pins.open_data(map)?,
                visits: FEWEST_VISITS,
                empty_at: None,
            })
        };
        let request: Array<MapData, ScanRequest> = pins.open("SCAN_REQUEST")?;
        // An earlier agent's newest scan may have left marks of its number.
        let last = request
            .get(&0, 0)
            .attempt("reading the newest scan's number")?
            .number;
        let last = u8::try_from(last).unwrap_or_default();
        Ok(Self {
            number: NonZero::new(last.wrapping_add(1)).unwrap_or(NonZero::<u8>::MIN),
            passes: [
                pass(Table::Unanswered, Ipv4::AF, "collect4", "UNANSWERED4")?,
                pass(Table::Unanswered, Ipv6::AF, "collect6", "UNANSWERED6")?,
                pass(Table::Established, Ipv4::AF, "collect4", "ESTABLISHED4")?,
                pass(Table::Established, Ipv6::AF, "collect6", "ESTABLISHED6")?,
            ],
            request,
            tables: TableCounters::open(pins)?,
            evicted_entries: 0,
            totals: pins.open("SCAN_TOTALS")?,
            live: pins.open("SCAN_LIVE")?,
            live_raw: pins.open_data("SCAN_LIVE")?,
            backends_raw: pins.open_data("SCAN_BACKENDS")?,
            backends_len: pins
                .open::<Array<MapData, BackendFlows>>("SCAN_BACKENDS")?
                .len(),
        })
    }

    /// Scans all tables; removes expired flows if asked to. `services` is the highest service id.
    /// Flows for which an order to cut them has come due are cut. They, and those that packets have cut
    /// since the scan before, are handed to `on_cut`.
    pub fn scan(
        &mut self,
        services: u16,
        remove_expired: bool,
        mut on_cut: impl FnMut(&CutFlow),
    ) -> Result<Scan, DataPathError> {
        let began_at = Instant::now();
        clear::<u64>(&self.live_raw, self.live.len())?;
        let number = self.number.get();
        self.number = self.number.checked_add(1).unwrap_or(NonZero::<u8>::MIN);
        // Read first: an entry that comes meanwhile is then present without being expected.
        let expected = self.tables.expected_entries(Table::Unanswered)?;
        let mut entries = [0; 2];
        let (mut expired_flows, mut reads) = (0, 0);
        let mut cut: HashMap<(u16, Color), CutCount> = HashMap::new();
        let mut on_cut = |flow: &CutFlow| {
            let key = (flow.service, Color::from_bit(flow.color));
            let count = cut.entry(key).or_default();
            match Protocol::from_number(flow.protocol) {
                // Packets' cuts are in the program's counters, and what has ended is no more to cut.
                _ if flow.by_packet != 0 || flow.in_flight == 0 => {}
                Some(Protocol::Tcp) => count.tcp += 1,
                _ => count.udp += 1,
            }
            on_cut(flow);
        };
        for pass in &mut self.passes {
            // Of this moment: what is established meanwhile comes here before it leaves a table that was walked
            // through.
            let inserted = self.tables.of_table(pass.af, pass.table)?.inserted;
            if pass.is_still_empty(inserted) {
                continue;
            }
            let request = ScanRequest {
                remove_expired: u8::from(remove_expired),
                table: pass.table as u8,
                now: ticks_from_ns(clock::monotonic_ns()),
                number: u32::from(number),
                ..ScanRequest::default()
            };
            let (totals, of_pass) =
                pass.run(request, &mut self.request, &mut self.totals, &mut on_cut)?;
            reads += of_pass;
            pass.empty_at = (totals.entries == 0).then_some(inserted);
            entries[pass.table as usize] += totals.entries;
            expired_flows += u64::from(totals.expired_flows);
        }
        let unanswered_entries = entries[Table::Unanswered as usize];
        let evicted = expected.saturating_sub(unanswered_entries);
        self.evicted_entries = self.evicted_entries.max(evicted);
        let counters = (u32::from(services) + 1) * SCAN_COUNTERS_PER_SERVICE;
        let live = read(&self.live_raw, counters.min(self.live.len()))?;
        Ok(Scan {
            began_at,
            ended_at: Instant::now(),
            live,
            established_entries: entries[Table::Established as usize],
            unanswered_entries,
            evicted_entries: self.evicted_entries,
            expired_flows,
            reads,
            cut,
        })
    }

    /// Scans for what flows refer to; removes nothing.
    pub fn busy(&mut self, highest_service: u16) -> Result<Busy, DataPathError> {
        self.scan_busy(highest_service, false, |_| {})
            .map(|(_, busy)| busy)
    }

    /// As [`Self::scan`], and what the flows that are left refer to. `highest_service` is the highest id that
    /// a service may have.
    pub fn scan_busy(
        &mut self,
        highest_service: u16,
        remove_expired: bool,
        on_cut: impl FnMut(&CutFlow),
    ) -> Result<(Scan, Busy), DataPathError> {
        clear::<BackendFlows>(&self.backends_raw, self.backends_len)?;
        let scan = self.scan(highest_service, remove_expired, on_cut)?;
        let flows: Vec<BackendFlows> = read(&self.backends_raw, self.backends_len)?;
        let is_busy = |service: &u16| {
            let live = scan.in_flight(*service);
            live.blue + live.green + scan.preview_flows(*service) > 0
        };
        let by_backend = || (0..).zip(&flows).filter(|(_, flows)| flows.all > 0);
        let live = by_backend().filter(|(_, flows)| flows.live > 0);
        let busy = Busy {
            backends: by_backend().map(|(id, _)| id).collect(),
            services: (0..=highest_service).filter(is_busy).collect(),
            live: live.map(|(id, flows)| (id, flows.live)).collect(),
        };
        Ok((scan, busy))
    }
}

fn read<V: bytemuck::Pod>(map: &MapData, len: u32) -> Result<Vec<V>, DataPathError> {
    bpf::lookup_batch::<u32, V>(map.fd().as_fd(), len)
        .map(|(_, counters)| counters)
        .attempt("reading the scan's counters")
}

fn clear<V: bytemuck::Pod>(map: &MapData, len: u32) -> Result<(), DataPathError> {
    let keys: Vec<u32> = (0..len).collect();
    bpf::update_batch(map.fd().as_fd(), &keys, &vec![V::zeroed(); keys.len()])
        .attempt("clearing the scan's counters")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reads come to that take `ns` for each element.
    fn settled(mut visits: u16, ns: u64) -> u16 {
        for _ in 0..32 {
            let taken = Duration::from_nanos(ns * u64::from(visits));
            visits = next_visits(visits, taken);
        }
        visits
    }

    #[test]
    fn a_read_takes_half_a_millisecond_at_most_however_slow_an_element_is() {
        for ns in [100, 300, 5_000, 100_000] {
            for first in [FEWEST_VISITS, 64, MOST_VISITS] {
                let visits = settled(first, ns);
                let taken = Duration::from_nanos(ns * u64::from(visits));
                assert!(taken <= READ, "{ns} ns, {first} at first: {taken:?}");
                let is_short = taken < READ / 4 && visits < MOST_VISITS;
                assert!(!is_short, "{ns} ns, {first} at first: {taken:?}");
            }
        }
        assert_eq!(settled(64, 10_000_000), FEWEST_VISITS);
    }
}
