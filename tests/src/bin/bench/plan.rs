//! What is asked for.

use std::{ffi::OsString, path::PathBuf};

use clap::Parser;

use crate::{measurement, programs};

/// Measures the switcher, and what it is compared with, in one run on one machine.
///
/// Nothing else should run meanwhile. The exit code is 0 when all that was asked for was measured, whatever came of it.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Plan {
    /// Print exactly one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,

    /// Shorter runs, less than two minutes together
    #[arg(long)]
    pub(crate) quick: bool,

    /// Packet cost over small tables in a moment: checks what is measured, and no figure of it means anything
    #[arg(long, hide = true, conflicts_with = "quick")]
    pub(crate) smoke: bool,

    /// Only these measurements; ratios that need others are absent
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = measurement::name)]
    pub(crate) only: Vec<String>,

    /// A program of the distribution that is used or compared with; else it is looked for on the PATH
    #[arg(long, value_name = "NAME=FILE", value_parser = programs::named_file, conflicts_with = "no_programs")]
    pub(crate) program: Vec<(String, PathBuf)>,

    /// Folders with the libraries that those need, as `LD_LIBRARY_PATH` takes them
    #[arg(long, value_name = "FOLDERS", requires = "program")]
    pub(crate) program_libraries: Option<OsString>,

    /// Why there are none of them
    #[arg(long, value_name = "TEXT")]
    pub(crate) no_programs: Option<String>,
}

impl Plan {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}
