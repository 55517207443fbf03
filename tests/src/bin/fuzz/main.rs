//! `cargo xtask fuzz`: sequences of frames through the loaded program and through a model of it.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use switcher_tests::fuzz::run::{Options, Report, run};
use switcher_tests::lab::requirements;

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
    /// Write one JSON object to standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        packets: arguments.packets,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    let result = requirements()
        .map_err(anyhow::Error::from)
        .and_then(|()| run(options));
    match result {
        Ok(report) => finish(&report, arguments.json).unwrap_or_else(|error| {
            eprintln!("fuzz: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }),
        Err(error) => {
            eprintln!("fuzz: error: {error:#}");
            if arguments.json {
                let object =
                    serde_json::json!({ "error": format!("{error:#}"), "seed": options.seed });
                println!("{object}");
            }
            ExitCode::FAILURE
        }
    }
}

fn finish(report: &Report, json: bool) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
