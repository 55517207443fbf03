//! How a row comes to be.

use anyhow::{Context as _, Result, ensure};
use switcher_userspace::datapath::HopWatch;

use super::{
    Cost, Extent, LOOKED_AT, Row, expected,
    frames::{Frame, Kind, What},
    look_at,
    node::Node,
    programs,
    replay::Program,
    tally,
};
use crate::spread::Spread;

/// Rounds before each flow has had its packet once more.
const ROUNDS_A_PASS: usize = 6;

/// A row that is being measured.
pub(super) struct Unfinished {
    kind: Kind,
    flows: usize,
    frames: Vec<Frame>,
    frames_a_run: u32,
    /// Nanoseconds of each program's runs.
    runs: Vec<(Program, Vec<f64>)>,
}

impl Unfinished {
    /// Puts a row's frames into the harness, the last ones of which are looked at before.
    pub(super) fn prepare(
        node: &mut Node<'_>,
        extent: Extent,
        kind: Kind,
        flows: usize,
        random: &mut fastrand::Rng,
    ) -> Result<Self> {
        let flood = match kind.what {
            What::NewUdp | What::Syn => node.flood(kind.family),
            _ => 0,
        };
        let most = match kind.what {
            What::Established(..) | What::OneArm(..) | What::IcmpError => flows,
            _ => {
                let used = extent.timed() + u64::from(flood);
                extent.fresh.min(usize::try_from(used)? + LOOKED_AT)
            }
        };
        let frames = node.frames(kind, most, random)?;
        // The last ones: it is not their turn, or flows that they begin are forgotten until it is.
        look_at(
            node,
            kind,
            &frames[frames.len().saturating_sub(LOOKED_AT)..],
        )?;
        node.replay.set_frames(&frames, kind.frame_len())?;
        if flood > 0 {
            for program in [Program::TwoInserts, Program::Switcher] {
                node.replay.run(program, node.ingress(kind), flood)?;
            }
        }
        let runs = programs(kind).into_iter().map(|it| (it, Vec::new()));
        Ok(Self {
            kind,
            flows,
            frames,
            frames_a_run: extent.frames,
            runs: runs.collect(),
        })
    }

    /// Puts the frames into the harness once more.
    pub(super) fn come_in(&self, node: &mut Node<'_>) -> Result<()> {
        node.replay.set_frames(&self.frames, self.kind.frame_len())
    }

    /// Times so many rounds, in which the programs take turns, of frames that are in the harness.
    pub(super) fn sit(
        &mut self,
        node: &mut Node<'_>,
        rounds: usize,
        hops: &HopWatch,
    ) -> Result<()> {
        self.time(node, rounds, hops)
            .with_context(|| format!("{} with {} flows", self.kind.name(), self.flows))
    }

    fn time(&mut self, node: &mut Node<'_>, rounds: usize, hops: &HopWatch) -> Result<()> {
        let kind = self.kind;
        let before = tally(node, kind)?;
        let going_on = if kind.goes_on() {
            u32::try_from(self.frames.len())?
        } else {
            0
        };
        let mut all = 0;
        for round in 0..=rounds {
            if going_on > 0 && round % ROUNDS_A_PASS == 0 {
                // Each flow has had a packet a few seconds before.
                hops.renew()?;
                node.replay
                    .run(Program::Switcher, node.ingress(kind), going_on)?;
                all += u64::from(going_on);
            }
            hops.renew()?;
            for (program, runs) in &mut self.runs {
                let run = node
                    .replay
                    .run(*program, node.ingress(kind), self.frames_a_run)?;
                let expected = expected(*program, kind);
                ensure!(
                    run.action == expected,
                    "{program:?} ended with {:?}, not {expected:?}",
                    run.action
                );
                // The first round warms up.
                if round > 0 {
                    runs.push(run.ns);
                }
            }
            all += u64::from(self.frames_a_run);
        }
        let counted = tally(node, kind)?;
        for ((what, before), (_, after)) in before.into_iter().zip(counted) {
            ensure!(
                after - before == all,
                "{} of {all} frames were counted as {what}; since the start: {}",
                after - before,
                node.verdicts()
            );
        }
        Ok(())
    }

    pub(super) fn end(self) -> Result<Row> {
        let spreads = self.runs.iter().map(|(program, runs)| {
            let ns = Spread::of(runs).context("no runs")?;
            Ok((*program, ns))
        });
        let spreads: Vec<_> = spreads.collect::<Result<_>>()?;
        let harness = spreads[0].1.median;
        let costs = spreads.into_iter().map(|(program, ns)| Cost {
            program,
            ns,
            net_ns: ns.median - harness,
        });
        Ok(Row {
            packet: self.kind,
            flows: self.flows,
            costs: costs.collect(),
        })
    }
}
