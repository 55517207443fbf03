//! Counting and expiring a million flows, and what packets pay meanwhile.

mod packets;
mod walk;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use switcher_common::{reason::Reason, service::Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_userspace::config::Limits;

pub(crate) use self::packets::Packets;
use self::{packets::Timed, walk::Walk};
use crate::{
    packets::{
        Direction, Kind, Program, What,
        node::{self, Node},
        stay_on,
    },
    plan::Plan,
    spread::Spread,
    table::Table,
};

const FLOWS: u32 = 1_000_000;
const HALF: u32 = FLOWS / 2;
/// Both directions'.
const ENTRIES: u64 = 2 * FLOWS as u64;
/// Twice the idle timeout of established flows.
const LONG_SILENT_MS: u64 = 15_000_000;
/// Packets of a round that are timed while nothing is scanned.
const UNDISTURBED: usize = 100_000;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Collection {
    /// Counting 1 000 000 flows, which have 2 000 000 entries.
    pub(crate) count_1m: Cost,
    /// The kernel's walk over the same entries for a program that only looks at each.
    pub(crate) walk_1m: Cost,
    /// A count, and removing 500 000 flows which have been silent for too long.
    pub(crate) expire_500k: Cost,
    /// What a packet costs while nothing is scanned.
    pub(crate) undisturbed: Packets,
    /// While the kernel walks, on another CPU: what a scan's load does to any packet.
    pub(crate) while_walking: Packets,
    /// While flows are counted there.
    pub(crate) while_counting: Packets,
    /// While flows expire.
    pub(crate) while_expiring: Packets,
}

/// What a scan takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// From its beginning to its end, in milliseconds.
    pub(crate) wall_ms: Spread,
    /// Time on a CPU.
    pub(crate) cpu_ms: Spread,
}

/// Measures it.
pub(crate) fn measure(plan: &Plan) -> Result<Collection> {
    let lab = node::lab()?;
    lab.node().run(|| in_node(&lab, plan))
}

fn in_node(lab: &Lab, plan: &Plan) -> Result<Collection> {
    // On the CPU where the packets will be: the program's own sweep is per CPU.
    stay_on(0)?;
    let mut path = node::load(lab, Limits::default())?;
    let mut scanner = path.scanner()?;
    let mut bench = Bench::new(lab)?;
    let mut walk = Walk::over(bench.node.table("ESTABLISHED4")?)?;
    let mut undisturbed = Timed::default();
    let (mut counts, mut walks, mut expiries) = (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..if plan.quick { 3 } else { 30 } {
        let until = undisturbed.len() + UNDISTURBED;
        bench.time(&mut undisturbed, |packets| packets < until)?;
        let scan = bench.beside(&mut counts, || Ok(scanner.scan(1, false, |_| {})?))?;
        ensure!(
            scan.established_entries == ENTRIES && scan.expired_flows == 0,
            "a count found {scan:?}"
        );
        bench.beside(&mut walks, || walk.through(ENTRIES))?;
    }
    for _ in 0..if plan.quick { 1 } else { 10 } {
        bench.complete()?;
        bench.node.age_v4(HALF as usize, LONG_SILENT_MS)?;
        let scan = bench.beside(&mut expiries, || Ok(scanner.scan(1, true, |_| {})?))?;
        // A scan may leave a few to the next one.
        let rest = scanner.scan(1, true, |_| {})?;
        let expired = scan.expired_flows + rest.expired_flows;
        ensure!(
            expired == u64::from(HALF) && rest.expired_flows < expired / 100,
            "of {HALF} silent flows others expired: {scan:?}, then {rest:?}"
        );
        bench.node.forget(Family::V4, HALF as usize);
        bench.is_complete = false;
    }
    Ok(Collection {
        count_1m: counts.cost()?,
        expire_500k: expiries.cost()?,
        walk_1m: walks.cost()?,
        undisturbed: undisturbed.packets()?,
        while_walking: walks.packets.packets()?,
        while_counting: counts.packets.packets()?,
        while_expiring: expiries.packets.packets()?,
    })
}

/// What all scans of a kind took.
#[derive(Debug, Default)]
struct Runs {
    wall_ms: Vec<f64>,
    cpu_ms: Vec<f64>,
    packets: Timed,
}

impl Runs {
    fn cost(&self) -> Result<Cost> {
        Ok(Cost {
            wall_ms: Spread::of(&self.wall_ms).context("no scan")?,
            cpu_ms: Spread::of(&self.cpu_ms).context("no scan")?,
        })
    }
}

/// A million flows, and packets of the half of them that stays.
struct Bench<'lab> {
    node: Node<'lab>,
    kind: Kind,
    /// All flows are established.
    is_complete: bool,
}

impl<'lab> Bench<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let mut bench = Self {
            node: Node::over(lab, Protocol::Tcp)?,
            is_complete: false,
            kind: Kind {
                family: Family::V4,
                what: What::Established(Protocol::Tcp, Direction::Forward),
            },
        };
        bench.complete()?;
        Ok(bench)
    }

    /// Establishes the flows that are missing, and puts packets of the newest ones into the harness: the oldest
    /// half is what expires.
    fn complete(&mut self) -> Result<()> {
        if self.is_complete {
            return Ok(());
        }
        self.node.establish(Family::V4, FLOWS as usize)?;
        self.is_complete = true;
        let frames = self
            .node
            .frames_of_newest(Family::V4, Direction::Forward, HALF as usize)?;
        self.node.replay.set_frames(&frames, self.kind.frame_len())
    }

    /// Runs packets one by one as long as `goes_on` says.
    fn time(&mut self, timed: &mut Timed, goes_on: impl FnMut(usize) -> bool) -> Result<()> {
        let ingress = self.node.ingress(self.kind);
        let sent_on_before = self.node.count(Reason::Redirected)?;
        let timed_before = timed.len();
        timed.time(goes_on, || {
            let run = self.node.replay.run(Program::Switcher, ingress, 1)?;
            Ok(run.ns)
        })?;
        let sent_on = self.node.count(Reason::Redirected)? - sent_on_before;
        let packets = (timed.len() - timed_before) as u64;
        ensure!(
            sent_on == packets,
            "{sent_on} of {packets} packets were sent on"
        );
        Ok(())
    }

    /// Scans on another CPU, and runs packets meanwhile.
    fn beside<T: Send>(
        &mut self,
        runs: &mut Runs,
        scan: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let scanning = scope.spawn(|| {
                let result = stay_on(1).and_then(|()| {
                    let (began, began_at) = (cpu_time(), Instant::now());
                    let scanned = scan()?;
                    let wall = began_at.elapsed();
                    Ok((scanned, wall, cpu_time().saturating_sub(began)))
                });
                is_over.store(true, Ordering::Relaxed);
                result
            });
            let timed = self.time(&mut runs.packets, |_| !is_over.load(Ordering::Relaxed));
            let end = scanning.join();
            let (scanned, wall, cpu) = end.map_err(|_| anyhow::anyhow!("the scan panicked"))??;
            timed?;
            runs.wall_ms.push(ms(wall));
            runs.cpu_ms.push(ms(cpu));
            Ok(scanned)
        })
    }
}

/// Time that this thread has spent on a CPU.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Collection {
    /// For people.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let mut scans = Table::new(
            "Scans of 1 000 000 flows in ms: smallest/median/largest",
            ["", "from beginning to end", "on a CPU"],
        );
        let shown = |it: Spread| format!("{:.0}/{:.0}/{:.0}", it.min, it.median, it.max);
        for (what, cost) in [
            ("count", self.count_1m),
            ("the kernel's walk alone", self.walk_1m),
            ("expire 500 000", self.expire_500k),
        ] {
            scans.row([what.to_owned(), shown(cost.wall_ms), shown(cost.cpu_ms)]);
        }
        let packets = packets::table([
            ("undisturbed", self.undisturbed),
            ("while the kernel walks", self.while_walking),
            ("while counting", self.while_counting),
            ("while expiring", self.while_expiring),
        ]);
        vec![scans, packets]
    }
}
