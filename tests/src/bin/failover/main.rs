//! Servers that fail in a lab under load, what clients notice of it, and HAProxy beside it.

mod load;
mod measure;
mod peer;
mod plan;
mod report;
mod scenarios;
mod scene;
mod servers;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use switcher_tests::{lab::requirements, machine::Machine};

use self::{measure::Figures, plan::Plan, report::Report};

fn main() -> ExitCode {
    let plan = Plan::parse();
    let written = match requirements() {
        Err(skip) => fail(
            &plan,
            &skip.reason,
            "run `cargo xtask failover`, which asks sudo for what it needs, or run this program as root",
        ),
        Ok(()) => match perform(&plan) {
            Ok(report) => finish(&plan, &report),
            Err(error) => fail(&plan, &format!("{error:#}"), "mend that, and run it again"),
        },
    };
    written.unwrap_or_else(|error| {
        eprintln!("failover: cannot write to standard output: {error}");
        ExitCode::FAILURE
    })
}

fn perform(plan: &Plan) -> Result<Report> {
    let began = Instant::now();
    let mut report = Report::new(plan);
    let known = || {
        let scenarios = scenarios::ALL.iter().map(|it| it.name);
        scenarios.chain(peer::ALL.iter().map(|it| it.name))
    };
    if let Some(unknown) = plan.only.iter().find(|only| known().all(|it| it != *only)) {
        let known: Vec<_> = known().collect();
        bail!(
            "no scenario {unknown}; expected one of {}",
            known.join(", ")
        );
    }
    let wanted = scenarios::ALL.iter().filter(|it| plan.wants(it.name));
    for scenario in wanted.filter(|it| it.is_quick || !plan.quick) {
        eprintln!("failover: {}: {}", scenario.name, scenario.what);
        let figures = scene::run(plan, scenario);
        let figures = figures.with_context(|| format!("scenario {}", scenario.name))?;
        report.ok &= told(&figures);
        report.scenarios.push(figures);
    }
    if let Some(program) = &plan.haproxy {
        for peer in peer::ALL.iter().filter(|it| plan.wants(it.name)) {
            eprintln!("failover: {}: crash, with HAProxy", peer.name);
            let figures = peer::run(plan, peer, program).with_context(|| peer.name.to_owned())?;
            report.ok &= told(&figures);
            report.peers.push(figures);
        }
    } else {
        let why = plan.no_haproxy.as_deref();
        report.no_peers = Some(why.unwrap_or("none was named (--haproxy)").to_owned());
    }
    report.seconds = began.elapsed().as_secs_f64();
    report.machine = Machine::here();
    Ok(report)
}

/// Tells what is wrong as soon as it is known; whether nothing is.
fn told(figures: &Figures) -> bool {
    for problem in &figures.problems {
        eprintln!("failover: {}: {problem}", figures.name);
    }
    figures.ok
}

fn finish(plan: &Plan, report: &Report) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if plan.json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", report.text())?;
    }
    out.flush()?;
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fail(plan: &Plan, message: &str, next_step: &str) -> io::Result<ExitCode> {
    eprintln!("failover: {message}\nnext: {next_step}");
    if plan.json {
        let error = serde_json::json!({ "message": message, "next_step": next_step });
        let object =
            serde_json::json!({ "ok": false, "scenarios": [], "peers": [], "error": error });
        writeln!(io::stdout().lock(), "{object}")?;
    }
    Ok(ExitCode::FAILURE)
}
