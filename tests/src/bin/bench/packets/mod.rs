//! Packet cost: what a packet costs in the kernel, by `BPF_PROG_TEST_RUN`, beside floors in the same harness.
//!
//! The switcher's own program establishes some flows, packet by packet; all others are copies of them. Before a row is timed
//! some of its frames are checked, and afterwards that each of its frames was counted as what it is.

mod frames;
pub(crate) mod node;
mod replay;
mod row;
#[path = "../../../../ebpf/src/target.rs"]
mod target;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use switcher_common::{reason::Reason, service::Protocol};
use switcher_tests::lab::Family;
use switcher_userspace::{
    config::Limits,
    datapath::{Action, HopWatch},
};

pub(crate) use self::{
    frames::{Direction, Kind, What},
    replay::Program,
};
use self::{
    frames::{Frame, ends},
    node::Node,
    row::Unfinished,
};
use crate::{plan::Plan, spread::Spread, table::Table};

/// More CPUs are not looked at.
const CPUS: usize = 64;
/// Frames of a run: some milliseconds.
const FRAMES: u32 = 50_000;
/// With so few flows, rows of packets that go on take turns: a processor's pace changes within minutes, and what is
/// compared must have had as much of each.
const FEW: usize = 1_000;
/// How often each of them has its turn.
const SITTINGS: usize = 4;
/// Frames of a row whose outcome is looked at one by one.
const LOOKED_AT: usize = 64;

/// What packets cost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Packets {
    pub(crate) rows: Vec<Row>,
}

/// What packets of one kind cost, with so many flows in the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) packet: Kind,
    /// Established flows of its family in the table.
    pub(crate) flows: usize,
    /// The programs took turns.
    pub(crate) costs: Vec<Cost>,
}

/// What a packet costs in one program.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) program: Program,
    /// In nanoseconds, the harness included.
    pub(crate) ns: Spread,
    /// The median without the harness.
    pub(crate) net_ns: f64,
}

impl Packets {
    /// The row of a kind of packets, by its name.
    pub(crate) fn row(&self, packet: &str, flows: usize) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.flows == flows && row.packet.name() == packet)
    }
}

impl Row {
    /// What a packet costs in `program`, in nanoseconds without the harness.
    pub(crate) fn net(&self, program: Program) -> Option<f64> {
        self.cost(program).map(|it| it.net_ns)
    }

    /// The same with the spread.
    pub(crate) fn cost(&self, program: Program) -> Option<&Cost> {
        self.costs.iter().find(|it| it.program == program)
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Extent {
    sizes: &'static [usize],
    /// Whether all kinds are measured with each of these sizes.
    all_kinds: bool,
    rounds: usize,
    frames: u32,
    protocols: &'static [Protocol],
    /// Different packets of those that belong to no flow: more than the unanswered table holds.
    fresh: usize,
    limits: Limits,
}

/// Small tables, which the kernel makes quickly.
const SMALL: Limits = Limits {
    interfaces: 64,
    flows: 1_024,
    unanswered: 1_024,
    fragments: 1_024,
    services: 8,
    listeners: 64,
    backends: 128,
    maglev_slots: 16_384,
    inserts_per_second: 0,
};

impl Extent {
    fn of(plan: &Plan) -> Self {
        let fresh = replay::MOST_FRAMES as usize;
        if plan.smoke {
            Self {
                // More than are established packet by packet.
                sizes: &[1, 400],
                all_kinds: true,
                rounds: 2,
                frames: 500,
                protocols: &[Protocol::Tcp, Protocol::Udp],
                fresh: 10_000,
                limits: SMALL,
            }
        } else if plan.quick {
            Self {
                sizes: &[1, 1_000_000],
                all_kinds: false,
                rounds: 11,
                frames: FRAMES / 2,
                protocols: &[Protocol::Tcp],
                fresh,
                limits: Limits::default(),
            }
        } else {
            Self {
                sizes: &[1, 1_000, 100_000, 1_000_000],
                all_kinds: true,
                rounds: 41,
                frames: FRAMES,
                protocols: &[Protocol::Tcp, Protocol::Udp],
                fresh,
                limits: Limits::default(),
            }
        }
    }
}

/// Measures them.
pub(crate) fn measure(plan: &Plan) -> Result<Packets> {
    let extent = Extent::of(plan);
    let mut rows = Vec::new();
    for &protocol in extent.protocols {
        let lab = node::lab()?;
        let measured = lab.node().run(|| of_protocol(&lab, extent, protocol));
        rows.extend(measured.with_context(|| format!("packets of {}", protocol.name()))?);
    }
    Ok(Packets { rows })
}

fn of_protocol(
    lab: &switcher_tests::lab::Lab,
    extent: Extent,
    protocol: Protocol,
) -> Result<Vec<Row>> {
    stay_on(0)?;
    let mut random = fastrand::Rng::with_seed(6);
    // Its next hops are watched, as they are by an agent.
    let hops = node::load(lab, extent.limits)?.hop_watch();
    let mut node = Node::over(lab, protocol)?;
    let mut rows = Vec::new();
    for &flows in extent.sizes {
        let mut kinds = Vec::new();
        for family in Family::ALL {
            let of_family = extent.kinds(family, protocol, flows);
            if !of_family.is_empty() {
                node.establish(family, flows)?;
                node.tell_floors(family)?;
                kinds.extend(of_family);
            }
        }
        let (few, many): (Vec<_>, Vec<_>) =
            (kinds.into_iter()).partition(|kind| kind.goes_on() && flows <= FEW);
        let mut prepare = |node: &mut Node<'_>, kind: Kind| {
            let row = Unfinished::prepare(node, extent, kind, flows, &mut random);
            row.with_context(|| format!("{} with {flows} flows", kind.name()))
        };
        let few = few.into_iter().map(|kind| prepare(&mut node, kind));
        rows.extend(in_turns(
            few.collect::<Result<_>>()?,
            &mut node,
            extent,
            &hops,
        )?);
        for kind in many {
            let mut row = prepare(&mut node, kind)?;
            row.sit(&mut node, extent.rounds, &hops)?;
            rows.push(row.end()?);
        }
    }
    Ok(rows)
}

/// Measures rows side by side.
fn in_turns(
    mut rows: Vec<Unfinished>,
    node: &mut Node<'_>,
    extent: Extent,
    hops: &HopWatch,
) -> Result<Vec<Row>> {
    for _ in 0..SITTINGS {
        for row in &mut rows {
            row.come_in(node)?;
            row.sit(node, (extent.rounds / SITTINGS).max(1), hops)?;
        }
    }
    rows.into_iter().map(Unfinished::end).collect()
}

impl Extent {
    /// Frames of a row that each of its programs gets, the first round too.
    const fn timed(&self) -> u64 {
        (self.rounds as u64 + 1) * self.frames as u64
    }

    /// What is measured with so many flows of `protocol` in the family's table.
    fn kinds(&self, family: Family, protocol: Protocol, flows: usize) -> Vec<Kind> {
        let mut what = vec![
            What::Established(protocol, Direction::Forward),
            What::Established(protocol, Direction::Reverse),
        ];
        let is_first = self.sizes.first() == Some(&flows);
        let is_last = self.sizes.last() == Some(&flows);
        if protocol == Protocol::Tcp && (is_first || (is_last && self.all_kinds)) {
            what.extend([What::NewUdp, What::Syn, What::NotOurs, What::IcmpError]);
            what.extend(Direction::ALL.map(|direction| What::OneArm(protocol, direction)));
        } else if !is_first && !self.all_kinds {
            if family == Family::V6 {
                what.clear();
            } else {
                what.push(What::NotOurs);
            }
        }
        what.into_iter().map(|what| Kind { family, what }).collect()
    }
}

/// What is compared; the harness itself first.
fn programs(kind: Kind) -> Vec<Program> {
    let mut programs = vec![Program::Pass];
    match kind.what {
        What::Established(..) => programs.extend([
            Program::RouterFloor,
            Program::LookupFloorLru,
            Program::LookupFloorHash,
        ]),
        What::OneArm(..) => programs.extend([Program::LookupFloorLru, Program::LookupFloorHash]),
        What::NewUdp | What::Syn => programs.push(Program::TwoInserts),
        What::NotOurs | What::IcmpError => {}
    }
    programs.push(Program::Switcher);
    programs
}

/// Counters that each frame of the kind raises by one.
fn tally(node: &Node<'_>, kind: Kind) -> Result<Vec<(&'static str, u64)>> {
    let reason = |reason: Reason| -> Result<(&'static str, u64)> {
        Ok((reason.name(), node.count(reason)?))
    };
    match kind.what {
        What::Established(..) => Ok(vec![reason(Reason::Redirected)?]),
        What::OneArm(..) => Ok(vec![reason(Reason::Transmitted)?]),
        What::NewUdp | What::Syn => Ok(vec![
            reason(Reason::Redirected)?,
            ("new flows", node.new_flows()?),
        ]),
        What::NotOurs => Ok(vec![reason(Reason::NotOurs)?]),
        What::IcmpError => Ok(vec![
            reason(Reason::Redirected)?,
            reason(Reason::IcmpTranslated)?,
        ]),
    }
}

/// Runs frames one by one, an error unless each program does with each what it is there for.
fn look_at(node: &mut Node<'_>, kind: Kind, frames: &[Frame]) -> Result<()> {
    let ingress = node.ingress(kind);
    for program in programs(kind) {
        // As the program's predecessor left them, the frames begin anew.
        node.replay.set_frames(frames, kind.frame_len())?;
        for frame in frames {
            let run = node.replay.run(program, ingress, 1)?;
            let sent = &frame[..ingress.frame_len];
            check(node, kind, program, sent, &run)
                .with_context(|| format!("{program:?} did {:?} with {sent:02x?}", run.action))?;
        }
    }
    Ok(())
}

const fn expected(program: Program, kind: Kind) -> Action {
    match (program, kind.what) {
        (Program::Pass | Program::TwoInserts, _) | (Program::Switcher, What::NotOurs) => {
            Action::Pass
        }
        (Program::LookupFloorLru | Program::LookupFloorHash, _)
        | (Program::Switcher, What::OneArm(..)) => Action::Tx,
        (Program::RouterFloor | Program::Switcher, _) => Action::Redirect,
    }
}

fn check(
    node: &Node<'_>,
    kind: Kind,
    program: Program,
    sent: &[u8],
    run: &replay::Run,
) -> Result<()> {
    let expected = expected(program, kind);
    ensure!(run.action == expected, "the verdict is not {expected:?}");
    let is_touched = run.frame != sent;
    ensure!(
        is_touched == (expected != Action::Pass),
        "the frame is {}touched",
        if is_touched { "" } else { "un" }
    );
    // An error's quote is checked where its translation is tested.
    if kind.what == What::IcmpError || run.action == Action::Pass {
        return Ok(());
    }
    let became = ends(&run.frame)?;
    let sent = ends(sent)?;
    match program {
        Program::RouterFloor => ensure!(became == sent, "it became {became:?}"),
        Program::Switcher => {
            if let Some(expected) = node.becomes(kind, sent) {
                ensure!(became == expected, "it became {became:?}, not {expected:?}");
            } else {
                ensure!(
                    became.from == sent.from && became.to != sent.to,
                    "{became:?}"
                );
            }
        }
        _ => ensure!(became != sent, "it was not translated"),
    }
    Ok(())
}

/// Binds this thread to a CPU, the last one if there are fewer.
pub(crate) fn stay_on(cpu: usize) -> Result<()> {
    let all = rustix::thread::sched_getaffinity(Some(rustix::process::getpid()))
        .context("asking for the CPUs")?;
    let allowed = (0..CPUS).filter(|&cpu| all.is_set(cpu));
    let chosen = allowed.take(cpu + 1).last().unwrap_or(0);
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(chosen);
    rustix::thread::sched_setaffinity(None, &cpus).context("staying on one CPU")
}

impl Packets {
    /// For people.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let columns = [
            Program::Pass,
            Program::RouterFloor,
            Program::LookupFloorLru,
            Program::LookupFloorHash,
            Program::TwoInserts,
            Program::Switcher,
        ];
        let heads = ["packet", "flows"].into_iter();
        let heads = heads
            .chain(columns.iter().map(|it| it.name()))
            .chain(["net"]);
        let mut table = Table::new(
            "Packet cost in ns, harness included: smallest/median/p99 of all runs; net: switcher less pass",
            heads,
        );
        for row in &self.rows {
            let mut cells = vec![row.packet.name(), row.flows.to_string()];
            for program in columns {
                let ns = row.cost(program).map(|it| it.ns);
                cells.push(ns.map_or_else(
                    || "-".to_owned(),
                    |it| format!("{:.0}/{:.0}/{:.0}", it.min, it.median, it.p99),
                ));
            }
            let net = row.net(Program::Switcher);
            cells.push(net.map_or_else(|| "-".to_owned(), |it| format!("{it:.0}")));
            table.row(cells);
        }
        vec![table]
    }
}
