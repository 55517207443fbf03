//! `cargo xtask`: every command of the project. This file only dispatches.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod build;
mod lab_program;
mod lint;
mod mutants;
mod process;
mod setup;
mod test;
mod test_report;
mod toolchain;
mod workspace;

/// Set-up, build, test and demo of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the eBPF program needs to build; quick if all is there
    Setup,
    /// Build everything in release mode
    Build,
    /// Check the formatting and run clippy, warnings being errors
    Lint,
    /// Run lint and all tests
    Test(test::Options),
    /// Take out one promise after the other, and see a test fail for each (needs root)
    Mutants(mutants::Options),
    /// Build and run the demo (needs root)
    Demo(lab_program::Options),
    /// Run random packets through the program and through a model of it (needs root)
    Fuzz(lab_program::Options),
    /// Make servers fail under load, and print what clients notice (needs root)
    Failover(lab_program::Options),
    /// Measure the switcher beside what it is compared with (needs root, and nothing else running)
    Bench(lab_program::Options),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    let root = workspace::root()?;
    match command {
        Command::Setup => setup::run(&root),
        Command::Build => build::run(&root),
        Command::Lint => lint::run(&root),
        Command::Test(options) => test::run(&root, &options),
        Command::Mutants(options) => mutants::run(&root, &options),
        Command::Demo(options) => lab_program::run(&root, &lab_program::DEMO, &options),
        Command::Fuzz(options) => lab_program::run(&root, &lab_program::FUZZ, &options),
        Command::Failover(options) => lab_program::run_failover(&root, &options),
        Command::Bench(options) => lab_program::run_bench(&root, &options),
    }
}
