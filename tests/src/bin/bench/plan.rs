//! What is asked for.

use clap::Parser;

use crate::measurement;

/// Measures the switcher, and what it is compared with, in one run on one machine.
///
/// Nothing else should run meanwhile. The exit code is 0 when all that was asked for was measured, whatever came of it.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Plan {
    /// Print exactly one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,

    /// Shorter runs, under two minutes together
    #[arg(long)]
    pub(crate) quick: bool,

    /// Only these measurements; ratios that need others are absent
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = measurement::name)]
    pub(crate) only: Vec<String>,
}

impl Plan {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}
