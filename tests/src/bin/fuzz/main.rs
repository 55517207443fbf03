//! `cargo xtask fuzz`: sequences of frames through the loaded program and through a model of it.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser;
use serde::Serialize;
use switcher_tests::fuzz::host;
use switcher_tests::fuzz::run::{Options, run};
use switcher_tests::lab::requirements;

/// After so many differences it is enough.
const MAX_FAILURES: usize = 5;

/// What to run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask fuzz", bin_name = "cargo xtask fuzz")]
struct Arguments {
    /// Packets to run at least
    #[arg(long, default_value_t = 1_000_000)]
    packets: u64,
    /// What all randomness comes from; a random one otherwise
    #[arg(long)]
    seed: Option<u64>,
    /// Only the packet logic that needs no kernel, over mutants of the seeds in tests/corpus
    #[arg(long)]
    host: bool,
    /// Write one JSON object to standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    match perform(&arguments, seed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: error: {error:#}");
            if arguments.json {
                let object = serde_json::json!({ "error": format!("{error:#}"), "seed": seed });
                println!("{object}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether all was well.
fn perform(arguments: &Arguments, seed: u64) -> Result<bool> {
    let packets = arguments.packets;
    if arguments.host {
        let report = host::run(packets, seed)?;
        show(arguments, &report, &format!("{report:#?}\n"))?;
        return Ok(report.judge().is_ok());
    }
    requirements()?;
    let report = run(Options {
        packets,
        seed,
        max_failures: MAX_FAILURES,
    })?;
    show(arguments, &report, &report.to_string())?;
    Ok(report.is_good())
}

fn show(arguments: &Arguments, report: &impl Serialize, text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)
    } else {
        out.write_all(text.as_bytes())
    }
}
