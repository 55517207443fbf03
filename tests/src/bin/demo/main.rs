//! The demo: a load-balancer node in network namespaces, real servers on blue and green, real
//! load, and flips from one color to the other while it runs.

mod display;
mod judge;
mod load;
mod plan;
mod report;
mod show;
mod stage;
mod summary;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser as _;
use switcher_tests::lab::requirements;

use self::{plan::Plan, report::Report};

fn main() -> ExitCode {
    let plan = Plan::parse();
    let written = match requirements() {
        Err(skip) => fail(
            plan,
            &skip.reason,
            "run `cargo xtask demo`, which asks sudo for what it needs, or run this program as root",
        ),
        Ok(()) => match perform(plan) {
            Ok(report) => finish(plan, &report),
            Err(error) => fail(plan, &format!("{error:#}"), "mend that, and run it again"),
        },
    };
    written.unwrap_or_else(|error| {
        eprintln!("demo: cannot write to standard output: {error}");
        ExitCode::FAILURE
    })
}

fn perform(plan: Plan) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a tokio runtime")?;
    runtime.block_on(stage::run(plan))
}

fn finish(plan: Plan, report: &Report) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if plan.json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", summary::text(report))?;
    }
    out.flush()?;
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fail(plan: Plan, message: &str, next_step: &str) -> io::Result<ExitCode> {
    eprintln!("demo: {message}\nnext: {next_step}");
    if plan.json {
        let error = serde_json::json!({ "message": message, "next_step": next_step });
        let object = serde_json::json!({ "ok": false, "error": error });
        writeln!(io::stdout().lock(), "{object}")?;
    }
    Ok(ExitCode::FAILURE)
}
