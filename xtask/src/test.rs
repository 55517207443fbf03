//! `cargo xtask test`: lint, then all tests, with a count that leaves no skipped test unseen.

use std::{
    env,
    io::{BufRead, BufReader, IsTerminal, Read, Write, stderr, stdout},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::{lint, process, setup, test_report::Report, workspace};

/// Which tests, and how strictly.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Do not run lint first
    #[arg(long)]
    skip_lint: bool,
    /// Fail if a test could not run here (as if CI were set)
    #[arg(long)]
    deny_skips: bool,
}

/// Runs the command.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    setup::ensure(root)?;
    if !options.skip_lint {
        lint::run(root)?;
    }
    // End-to-end tests run the programs of other packages, which `cargo test` does not build.
    process::run(&mut workspace::cargo(root, &["build", "--bins"]))?;
    let (status, report) = run_tests(root, options.filter.as_deref())?;
    print_skips(&report);
    println!("{}", report.summary());
    judge(status, &report, options)
}

fn run_tests(root: &Path, filter: Option<&str>) -> Result<(ExitStatus, Report)> {
    let mut command = workspace::cargo(root, &["test", "--no-fail-fast"]);
    command.args(filter);
    // Passing tests' output too: a test that cannot run here passes, and says SKIPPED.
    command.args(["--", "--show-output"]);
    if stderr().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    stream(&mut command)
}

/// Runs the command, and passes its output on while reading it.
fn stream(command: &mut Command) -> Result<(ExitStatus, Report)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let out = child.stdout.take().context("cargo test has no stdout")?;
    let err = child.stderr.take().context("cargo test has no stderr")?;
    let report = Mutex::new(Report::default());
    thread::scope(|scope| {
        let errors = scope.spawn(|| pass_on(err, stderr(), &report));
        let output = pass_on(out, stdout(), &report);
        output.and(errors.join().unwrap_or(Ok(())))
    })
    .context("cannot pass on the output of cargo test")?;
    let status = child.wait().context("cannot wait for cargo test")?;
    let report = report
        .into_inner()
        .map_err(|_| anyhow!("a reader of cargo test's output panicked"))?;
    Ok((status, report))
}

fn pass_on(from: impl Read, mut to: impl Write, report: &Mutex<Report>) -> std::io::Result<()> {
    for line in BufReader::new(from).split(b'\n') {
        let line = line?;
        if let Ok(mut report) = report.lock() {
            report.read_line(&String::from_utf8_lossy(&line));
        }
        to.write_all(&line)?;
        to.write_all(b"\n")?;
        to.flush()?;
    }
    Ok(())
}

fn print_skips(report: &Report) {
    if !report.skips.is_empty() {
        println!("skipped here:");
        for skip in &report.skips {
            println!("  {skip}");
        }
    }
}

fn judge(status: ExitStatus, report: &Report, options: &Options) -> Result<()> {
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    if report.ran() == 0 {
        let filter = options.filter.as_deref().unwrap_or_default();
        bail!("no test ran; next: check the filter {filter:?}");
    }
    let is_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
    if (options.deny_skips || is_ci) && !report.skips.is_empty() {
        bail!(
            "{} skips are not allowed here (--deny-skips, or CI is set):\n  {}",
            report.skips.len(),
            report.skips.join("\n  ")
        );
    }
    Ok(())
}
