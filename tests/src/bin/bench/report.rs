//! The result: one object, or tables for people.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use switcher_tests::machine::Machine;

use crate::{measurement::Measured, ratios::Headline};

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether all that was asked for was measured.
    pub(crate) ok: bool,
    /// Whether it was a short run.
    pub(crate) quick: bool,
    #[serde(flatten)]
    pub(crate) headline: Headline,
    /// The figures behind it.
    pub(crate) measured: Measured,
    /// What could not be measured, and why.
    pub(crate) problems: Vec<String>,
    pub(crate) machine: Machine,
    /// By measurement: what part of the time that the processors had to do something others on the machine's host had
    /// instead. Where it is more than a few percent, a figure says little.
    pub(crate) stolen: BTreeMap<&'static str, f64>,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
}

impl Report {
    /// Tables, with what is wrong below them.
    pub(crate) fn text(&self) -> String {
        let Machine {
            kernel,
            processor,
            processors,
            load_average,
        } = &self.machine;
        let mut text = format!(
            "Linux {kernel}, {processors} x {processor}, load {load_average}{}\n",
            if self.quick { ", a quick run" } else { "" }
        );
        for table in self
            .measured
            .tables()
            .iter()
            .chain([&self.headline.table()])
        {
            // Writing to a String does not fail.
            let _ = write!(text, "\n{table}");
        }
        for problem in &self.problems {
            let _ = writeln!(text, "\nnot measured: {problem}");
        }
        for (name, share) in &self.stolen {
            let _ = writeln!(
                text,
                "{name}: {:.1} % of the time was stolen",
                share * 100.0
            );
        }
        let _ = writeln!(text, "\n{:.0} s", self.seconds);
        text
    }
}
