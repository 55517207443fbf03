//! A run: worlds, episodes in them, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;
use switcher_common::reason::Reason;

use super::drive::{Difference, Rig, stay_on_one_cpu};
use super::generate::Generator;
use super::judge;
use super::lab;
use super::model::types::{Outcome, Verdict};
use super::shrink::shrink;
use super::step::Step;
use super::world::World;

/// Packets between two empty tables. With both directions of each, and those of the packets before,
/// far below what the LRU holds: it must not evict.
const EPISODE: u64 = 4_000;
/// One packet in this many goes to the cramped world.
const CRAMPED: u64 = 5;
/// Packets between two looks at all counters; a replay looks after each.
const READ_COUNTERS_AFTER: u32 = 32;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Packets, at least.
    pub packets: u64,
    /// What all randomness comes from.
    pub seed: u64,
    /// After so many differences it is enough.
    pub max_failures: usize,
}

/// A difference, as small as it could be made.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// World that it was found in.
    pub world: &'static str,
    /// Seed of the episode.
    pub episode: u64,
    /// Packets of the run until it was seen.
    pub packets: u64,
    /// How the two differ.
    pub difference: String,
    /// The steps that lead there; to be pasted as a regression.
    pub steps: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Packets that both sides were given.
    pub packets: u64,
    /// Episodes that ended in a difference.
    pub differences: u64,
    /// As in [`Options`].
    pub seed: u64,
    /// Packets that were rewritten.
    pub rewritten: u64,
    /// Packets by verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Packets by reason; notes too.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Packets in a second.
    pub packets_per_second: u64,
    /// The first few differences.
    pub failures: Vec<Failure>,
    /// What happened too seldom for the run to show anything.
    pub shortfalls: Vec<String>,
}

/// Runs `options`. Needs root.
pub fn run(options: Options) -> Result<Report> {
    let mut report = Report {
        seed: options.seed,
        ..Report::default()
    };
    let start = Instant::now();
    let cramped = options.packets / CRAMPED;
    for (world, packets) in [
        (World::Roomy, options.packets - cramped),
        (World::Cramped, cramped),
    ] {
        let lab = lab::build()?;
        let upto = report.packets + packets;
        lab.node().run(|| -> Result<()> {
            stay_on_one_cpu()?;
            let mut rig = Rig::open(&lab, world)?;
            while report.packets < upto && report.failures.len() < options.max_failures {
                let seed = episode_seed(options.seed, report.packets);
                episode(
                    &mut rig,
                    seed,
                    (upto - report.packets).min(EPISODE),
                    &mut report,
                )
                .with_context(|| format!("episode {seed:#x} in the {} world", world.name()))?;
            }
            rig.close()
        })?;
    }
    let seconds = start.elapsed().as_secs().max(1);
    report.packets_per_second = report.packets / seconds;
    let names = Reason::ALL.iter().map(|reason| reason.name());
    report.shortfalls = judge::shortfalls(&report, names);
    Ok(report)
}

/// The finalizer of `SplitMix64`, so that seeds next to each other have nothing in common.
const fn episode_seed(seed: u64, number: u64) -> u64 {
    let word = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn episode(rig: &mut Rig, seed: u64, packets: u64, report: &mut Report) -> Result<()> {
    rig.reset()?;
    rig.read_counters_after = READ_COUNTERS_AFTER;
    let mut generator = Generator::new(seed);
    let mut steps = Vec::new();
    let mut sent = 0;
    while sent < packets {
        let step = generator.next(&rig.model);
        let result = rig.step(&step)?;
        let is_packet = matches!(step, Step::Packet { .. });
        steps.push(step);
        sent += u64::from(is_packet);
        match result {
            Ok(None) => {}
            Ok(Some(outcome)) => report.count(&outcome),
            Err(difference) => return report.fail(rig, seed, steps, &difference),
        }
    }
    match rig.compare_tables()? {
        Ok(()) => Ok(()),
        Err(difference) => report.fail(rig, seed, steps, &difference),
    }
}

impl Report {
    /// Whether the run shows that program and model agree.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.differences == 0 && self.shortfalls.is_empty()
    }

    fn count(&mut self, outcome: &Outcome) {
        self.packets += 1;
        self.rewritten += u64::from(outcome.frame.is_some());
        let verdict = match outcome.verdict {
            Verdict::Pass => "pass",
            Verdict::Drop => "drop",
            Verdict::Tx => "tx",
            Verdict::Redirect => "redirect",
        };
        *self.verdicts.entry(verdict).or_default() += 1;
        for reason in outcome.notes.iter().chain([&outcome.reason]) {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    fn fail(
        &mut self,
        rig: &mut Rig,
        seed: u64,
        steps: Vec<Step>,
        found: &Difference,
    ) -> Result<()> {
        self.packets += 1;
        self.differences += 1;
        let (steps, difference) = shrink(rig, steps, found)?;
        self.failures.push(Failure {
            world: rig.world().name(),
            episode: seed,
            packets: self.packets,
            difference: difference.what,
            steps: steps.iter().map(ToString::to_string).collect(),
        });
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(
                f,
                "difference in the {} world, after {} packets:",
                failure.world, failure.packets
            )?;
            writeln!(f, "{}", failure.difference)?;
            for step in &failure.steps {
                writeln!(f, "    {step}")?;
            }
        }
        for (name, count) in self.verdicts.iter().chain(&self.reasons) {
            writeln!(f, "{count:>10} {name}")?;
        }
        for shortfall in &self.shortfalls {
            writeln!(f, "too seldom: {shortfall}")?;
        }
        writeln!(
            f,
            "{} packets, {} rewritten, {} in a second, {} differences, seed {}",
            self.packets, self.rewritten, self.packets_per_second, self.differences, self.seed
        )
    }
}
