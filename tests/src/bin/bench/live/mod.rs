//! Live throughput: frames that the kernel sends through a node, all on one processor, which makes the frames, runs the
//! node, and counts what arrives.

mod frame;
#[path = "../../../../ebpf/src/job.rs"]
mod job;
mod road;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use switcher_tests::lab::Lab;

use self::{
    frame::Says,
    road::{Load, Road, Way},
};
use crate::{
    bed::{self, Offloads},
    plan::Plan,
    programs::Programs,
    spread::Spread,
    table::Table,
};

pub(crate) use self::road::Node;

/// So many flows are established, and gone round.
const FLOWS: [u32; 3] = [1, 1_000, 65_536];
const MOST_FLOWS: u32 = 65_536;
/// Flows that a run begins. Those of all rounds fit the tables of connection tracking as they come.
const NEW_FLOWS: u32 = 16_384;
/// Frames of a run, quick or not.
const FRAMES: [u32; 2] = [32_768, 131_072];

/// All nodes.
#[derive(Debug, Serialize)]
pub(crate) struct Live {
    nodes: Vec<OfNode>,
}

/// Millions of packets per second that arrive.
#[derive(Debug, Serialize)]
struct OfNode {
    node: Node,
    established: Vec<Established>,
    /// Each packet begins a flow.
    new_flows: Rate,
}

#[derive(Debug, Serialize)]
struct Established {
    flows: u32,
    forward: Rate,
    reverse: Rate,
}

#[derive(Debug, Serialize)]
struct Rate {
    mpps: Spread,
    /// Share of the frames that did not arrive.
    lost: f64,
}

impl Live {
    fn of(&self, node: Node) -> Option<&OfNode> {
        self.nodes.iter().find(|it| it.node == node)
    }

    /// Ours by that of `reference` with the most flows: the worse of both ways.
    pub(crate) fn ratio(&self, reference: Node) -> Option<f64> {
        let ways = |node| {
            let most = self.of(node)?.established.last()?;
            Some([&most.forward, &most.reverse].map(|it| it.mpps.median))
        };
        let (ours, theirs) = (ways(Node::Switcher)?, ways(reference)?);
        let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
        ratios.min_by(f64::total_cmp)
    }

    /// The same with new flows.
    pub(crate) fn new_flows_ratio(&self, reference: Node) -> Option<f64> {
        let median = |node| Some(self.of(node)?.new_flows.mpps.median);
        Some(median(Node::Switcher)? / median(reference)?)
    }

    /// For people.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let title = "Live throughput on one processor, which makes, forwards and counts the packets, in Mpps; median [min, max]";
        let mut heads = vec![String::new()];
        for flows in FLOWS {
            heads.push(format!("{flows} TCP, forward"));
            heads.push("reverse".to_owned());
        }
        heads.push("new UDP flows".to_owned());
        heads.push("lost".to_owned());
        let mut table = Table::new(title, heads);
        for it in &self.nodes {
            let mut rates: Vec<&Rate> = it
                .established
                .iter()
                .flat_map(|it| [&it.forward, &it.reverse])
                .collect();
            rates.push(&it.new_flows);
            let mut cells = vec![it.node.name().to_owned()];
            cells.extend(rates.iter().map(|rate| {
                let Spread {
                    median, min, max, ..
                } = rate.mpps;
                format!("{median:.2} [{min:.2}, {max:.2}]")
            }));
            let lost = rates.iter().map(|rate| rate.lost).fold(0.0, f64::max);
            cells.push(format!("{:.2} %", lost * 100.0));
            table.row(cells);
        }
        vec![table]
    }
}

/// What is measured of a node in each round.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Established(u32, Way),
    New,
}

impl What {
    fn all() -> Vec<Self> {
        let established = FLOWS.into_iter().flat_map(|flows| {
            [Way::Forward, Way::Reverse].map(|way| Self::Established(flows, way))
        });
        established.chain([Self::New]).collect()
    }
}

/// Runs of one thing.
#[derive(Clone, Debug, Default)]
struct Runs {
    mpps: Vec<f64>,
    /// Sent.
    frames: u32,
    arrived: u64,
}

impl Runs {
    fn rate(&self) -> Result<Rate> {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let share = self.arrived as f64 / f64::from(self.frames);
        Ok(Rate {
            mpps: Spread::of(&self.mpps).context("no run")?,
            lost: 1.0 - share,
        })
    }
}

/// A road, and what was measured on it so far.
struct Measuring<'lab> {
    road: Road<'lab>,
    runs: Vec<Runs>,
    /// Flows that were begun.
    used: u32,
}

impl<'lab> Measuring<'lab> {
    fn start(lab: &'lab Lab, node: Node, programs: &Programs) -> Result<Self> {
        let mut road = Road::open(lab, node, programs)?;
        establish(&mut road)
            .with_context(|| format!("establishing flows through {}", node.name()))?;
        Ok(Self {
            road,
            runs: vec![Runs::default(); What::all().len()],
            used: MOST_FLOWS,
        })
    }

    /// Makes one run of what is number `at`.
    fn run(&mut self, at: usize, what: What, frames: u32) -> Result<()> {
        let load = match what {
            What::Established(flows, way) => Load {
                way,
                says: Says::Segment,
                first: 0,
                flows,
                // Goes on where the run before has ended.
                next: self.runs[at].frames % flows,
                frames,
            },
            What::New => {
                let first = self.used;
                self.used += NEW_FLOWS;
                Load {
                    way: Way::Forward,
                    says: Says::Datagram,
                    first,
                    flows: NEW_FLOWS,
                    next: 0,
                    frames: NEW_FLOWS,
                }
            }
        };
        if let What::Established(flows @ 2.., _) = what {
            // Flows that go on: each has had a packet a moment ago, though other nodes had their turns. Of one flow all but
            // the first have.
            self.road.send(&Load {
                frames: flows,
                ..load
            })?;
        }
        let passed = self.road.send(&load)?;
        let runs = &mut self.runs[at];
        runs.mpps.push(passed.per_second() / 1e6);
        runs.frames += load.frames;
        runs.arrived += passed.frames;
        Ok(())
    }

    fn figures(&self) -> Result<OfNode> {
        let all = What::all();
        let rate = |what: What| {
            let found = all.iter().zip(&self.runs).find(|(it, _)| **it == what);
            found.context("it was not measured")?.1.rate()
        };
        let established = FLOWS.into_iter().map(|flows| {
            Ok(Established {
                flows,
                forward: rate(What::Established(flows, Way::Forward))?,
                reverse: rate(What::Established(flows, Way::Reverse))?,
            })
        });
        Ok(OfNode {
            node: self.road.node,
            established: established.collect::<Result<_>>()?,
            new_flows: rate(What::New)?,
        })
    }
}

/// Measures all nodes, one after the other in each round.
pub(crate) fn measure(plan: &Plan) -> Result<Live> {
    let (rounds, frames) = if plan.quick {
        (3, FRAMES[0])
    } else {
        (9, FRAMES[1])
    };
    let programs = Programs::find(plan, &["nft"])?;
    let labs: Vec<Lab> = Node::ALL
        .iter()
        .map(|_| bed::lab(Offloads::Native))
        .collect::<Result<_>>()?;
    let mut all: Vec<Measuring<'_>> = Node::ALL
        .into_iter()
        .zip(&labs)
        .map(|(node, lab)| Measuring::start(lab, node, &programs))
        .collect::<Result<_>>()?;
    for _ in 0..rounds {
        for (at, what) in What::all().into_iter().enumerate() {
            for it in &mut all {
                it.run(at, what, frames)?;
            }
        }
    }
    let nodes = all.iter().map(Measuring::figures);
    Ok(Live {
        nodes: nodes.collect::<Result<_>>()?,
    })
}

/// Makes the handshake of each flow, and an error unless each segment arrives.
fn establish(road: &mut Road<'_>) -> Result<()> {
    if road.node == Node::Lookup {
        road.know(MOST_FLOWS)?;
    }
    let handshake = [
        (Way::Forward, Says::Syn),
        (Way::Reverse, Says::SynAck),
        (Way::Forward, Says::Ack),
    ];
    for (way, says) in handshake {
        let passed = road.send(&Load {
            way,
            says,
            first: 0,
            flows: MOST_FLOWS,
            next: 0,
            frames: MOST_FLOWS,
        })?;
        ensure!(
            passed.frames == u64::from(MOST_FLOWS),
            "{} of {MOST_FLOWS} frames arrived that say {says:?}",
            passed.frames
        );
    }
    let of_known = 3 * u64::from(MOST_FLOWS);
    ensure!(
        road.node != Node::Lookup || road.found()? == of_known,
        "{} of {of_known} frames were of known flows",
        road.found()?
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(mpps: f64) -> Rate {
        let runs = Runs {
            mpps: vec![mpps],
            frames: 1_000,
            arrived: 990,
        };
        runs.rate().expect("a run")
    }

    fn node(node: Node, forward: f64, reverse: f64, new: f64) -> OfNode {
        let established = FLOWS.into_iter().map(|flows| {
            let is_most = flows == MOST_FLOWS;
            Established {
                flows,
                forward: rate(if is_most { forward } else { 9.0 }),
                reverse: rate(if is_most { reverse } else { 9.0 }),
            }
        });
        OfNode {
            node,
            established: established.collect(),
            new_flows: rate(new),
        }
    }

    #[test]
    fn the_ratio_is_the_worse_of_both_ways_with_the_most_flows() {
        let live = Live {
            nodes: vec![
                node(Node::Switcher, 2.0, 1.5, 1.0),
                node(Node::Nftables, 0.5, 0.5, 0.25),
            ],
        };
        assert_eq!(live.ratio(Node::Nftables), Some(3.0));
        assert_eq!(live.new_flows_ratio(Node::Nftables), Some(4.0));
        assert_eq!(live.ratio(Node::Router), None);
        let text = live.tables()[0].to_string();
        assert!(text.contains("1.00 %"), "what was lost is told: {text}");
    }
}
