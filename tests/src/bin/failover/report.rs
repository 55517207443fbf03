//! The result: one object, or a table for people.

use std::fmt::Write as _;

use serde::Serialize;
use switcher_tests::machine::Machine;

use crate::{
    measure::Figures,
    plan::{Plan, RATE},
};

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether each scenario ended as it must.
    pub(crate) ok: bool,
    /// Whether it was a short run.
    pub(crate) quick: bool,
    /// New connections per second.
    pub(crate) connections_per_second: u32,
    pub(crate) scenarios: Vec<Figures>,
    pub(crate) peers: Vec<Figures>,
    /// Why there are no peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) no_peers: Option<String>,
    pub(crate) machine: Machine,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            ok: true,
            quick: plan.quick,
            connections_per_second: RATE,
            scenarios: Vec::new(),
            peers: Vec::new(),
            no_peers: None,
            machine: Machine::here(),
            seconds: 0.0,
        }
    }

    /// A table, with what is wrong below it.
    pub(crate) fn text(&self) -> String {
        let Machine {
            kernel,
            processor,
            processors,
            load_average,
        } = &self.machine;
        let mut text = format!(
            "{} new connections/s; Linux {kernel}, {processors} x {processor}, load {load_average}; times in ms\n\n",
            self.connections_per_second
        );
        let heads = [
            "",
            "detected",
            "refused",
            "recovered",
            "failed",
            "connects",
            "broken",
            "slowest",
            "chances",
            "flips",
        ];
        row(&mut text, &heads.map(ToOwned::to_owned));
        for figures in self.scenarios.iter().chain(&self.peers) {
            let ms =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |it| format!("{it:.0}"));
            row(
                &mut text,
                &[
                    figures.name.to_owned(),
                    ms(figures.detect_ms),
                    ms(figures.refused_to_ejected_ms),
                    ms(figures.recovered_ms),
                    figures.failed_requests.to_string(),
                    figures.failed_connects.to_string(),
                    figures.broken_connections.to_string(),
                    ms(Some(figures.slowest_connect_ms)),
                    figures
                        .second_chances
                        .map_or_else(|| "-".to_owned(), |it| it.to_string()),
                    figures.flips.to_string(),
                ],
            );
        }
        if let Some(why) = &self.no_peers {
            // Writing to a String does not fail.
            let _ = writeln!(text, "\nno HAProxy: {why}");
        }
        for figures in self.scenarios.iter().chain(&self.peers) {
            for problem in &figures.problems {
                let _ = writeln!(text, "\n{}: {problem}", figures.name);
            }
        }
        let verdict = if self.ok {
            "as it must be"
        } else {
            "NOT as it must be"
        };
        let _ = writeln!(text, "\n{verdict}; {:.0} s", self.seconds);
        text
    }
}

fn row(text: &mut String, cells: &[String; 10]) {
    let [name, others @ ..] = cells;
    let _ = write!(text, "{name:<17}");
    for cell in others {
        let _ = write!(text, "{cell:>11}");
    }
    text.push('\n');
}
