//! `cargo xtask bench`: what the switcher costs, beside what it is compared with.
//!
//! Each measurement is a module with a struct of figures that can be serialized. To add one:
//!
//! 1. a module with that struct, a function that measures (`fn measure(plan: &Plan) -> Result<Figures>`; a short run when
//!    `plan.quick`) and one that tells it (`fn tables(&self) -> Vec<Table>`). [`spread::Spread`] has the runs of one thing;
//! 2. in [`measurement`]: an optional field of `Measured`, a line in `ALL`, its tables in `Measured::tables`;
//! 3. in [`ratios`], which is pure: what its figures come to, called by `Headline::of`, with a unit test.
//!
//! A measurement that ends with an error leaves its ratios out; the others go on, and the exit code tells it. Programs that
//! have to be found or built first are `xtask/src/lab_program.rs`'s business, and come as arguments ([`plan`]).

mod applications;
mod bed;
mod bulk;
mod collection;
mod flip;
mod http;
mod leftovers;
mod live;
mod measurement;
mod object;
mod packets;
mod plan;
mod programs;
mod ratios;
mod report;
mod session;
mod spread;
mod stolen;
mod table;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use clap::Parser as _;
use switcher_tests::{lab::requirements, machine::Machine};

use self::{
    leftovers::Leftovers, measurement::Measured, plan::Plan, ratios::Headline, report::Report,
    stolen::Processors,
};

fn main() -> ExitCode {
    let plan = Plan::parse();
    let report = match requirements() {
        Ok(()) => perform(&plan),
        Err(skip) => Report {
            problems: vec![format!(
                "{}\nnext: run `cargo xtask bench`, which asks sudo for what it needs, or run this program as root",
                skip.reason
            )],
            ..perform_nothing(&plan)
        },
    };
    tell(&plan, &report).unwrap_or_else(|error| {
        eprintln!("bench: cannot write to standard output: {error}");
        ExitCode::FAILURE
    })
}

fn perform_nothing(plan: &Plan) -> Report {
    Report {
        ok: false,
        quick: plan.quick,
        headline: Headline::default(),
        measured: Measured::default(),
        problems: Vec::new(),
        machine: Machine::here(),
        stolen: BTreeMap::new(),
        seconds: 0.0,
    }
}

fn perform(plan: &Plan) -> Report {
    let began = Instant::now();
    let mut report = perform_nothing(plan);
    let leftovers = Leftovers::none_yet();
    for it in measurement::ALL.iter().filter(|it| plan.wants(it.name)) {
        eprintln!("bench: {}: {}", it.name, it.what);
        let of_this = Instant::now();
        leftovers.wait_until_gone();
        let processors = Processors::now();
        if let Err(error) = (it.make)(plan, &mut report.measured) {
            let problem = format!("{}: {error:#}", it.name);
            eprintln!("bench: {problem}");
            report.problems.push(problem);
        }
        let stolen = Processors::now().zip(processors);
        let stolen = stolen.map(|(now, before)| now.stolen_since(before));
        eprintln!(
            "bench: {}: {:.0} s{}",
            it.name,
            of_this.elapsed().as_secs_f64(),
            stolen.map_or_else(String::new, |it| format!(", {:.1} % stolen", it * 100.0))
        );
        report.stolen.extend(stolen.map(|share| (it.name, share)));
    }
    report.ok = report.problems.is_empty();
    report.headline = Headline::of(&report.measured);
    report.machine = Machine::here();
    report.seconds = began.elapsed().as_secs_f64();
    report
}

fn tell(plan: &Plan, report: &Report) -> io::Result<ExitCode> {
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
