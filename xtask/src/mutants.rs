//! `cargo xtask mutants`: builds the switcher without one promise after the other, and then with one
//! small fault after the other; for each, a test must fail. A mutant that no test notices means that the
//! promise has no test, or that the differential test does not find what it should.

mod list;

use std::{path::Path, process::Command};

use anyhow::{Result, bail};
use clap::Args;

use self::list::{DECISIONS, Mutant, all};
use crate::{setup, toolchain, workspace};

/// Which mutants.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the mutants of these names
    names: Vec<String>,
    /// List them, run nothing
    #[arg(long)]
    list: bool,
}

/// Runs the command.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let chosen = chosen(options)?;
    if options.list {
        for mutant in chosen {
            println!(
                "{:<24} {:<8} {}",
                mutant.name, mutant.promise, mutant.without
            );
        }
        return Ok(());
    }
    setup::ensure(root)?;
    check_baseline(root, &chosen)?;
    let mut survivors = Vec::new();
    for mutant in &chosen {
        let (verdict, how) = match run_test(root, mutant, Some(mutant.name))? {
            Outcome::Failed(how) => ("caught", how),
            Outcome::Passed => {
                survivors.push(mutant.name);
                ("SURVIVED", None)
            }
        };
        let how = how.map(|how| format!(" ({how})")).unwrap_or_default();
        println!(
            "{verdict:<9} {:<24} {}: {}{how}",
            mutant.name, mutant.promise, mutant.without
        );
    }
    println!(
        "{} passed, {} failed",
        chosen.len() - survivors.len(),
        survivors.len()
    );
    if survivors.is_empty() {
        Ok(())
    } else {
        bail!("no test notices: {}", survivors.join(", "))
    }
}

fn chosen(options: &Options) -> Result<Vec<&'static Mutant>> {
    if options.names.is_empty() {
        return Ok(all().collect());
    }
    let find = |name: &String| all().find(|mutant| mutant.name == name);
    let found: Vec<_> = options.names.iter().filter_map(find).collect();
    if found.len() < options.names.len() {
        bail!("no such mutant; `cargo xtask mutants --list` shows them");
    }
    Ok(found)
}

/// A test that fails without a mutant shows nothing.
fn check_baseline(root: &Path, chosen: &[&Mutant]) -> Result<()> {
    let mut seen = Vec::new();
    for mutant in chosen {
        let tests = (mutant.target, mutant.test);
        if seen.contains(&tests) {
            continue;
        }
        seen.push(tests);
        if let Outcome::Failed(_) = run_test(root, mutant, None)? {
            bail!(
                "{} {} fails without a mutant; mend it first",
                mutant.target,
                mutant.test
            );
        }
    }
    Ok(())
}

/// What came of a test.
enum Outcome {
    Passed,
    /// And what it says of how soon, if it does.
    Failed(Option<String>),
}

/// Runs the test in a build with `mutant`. A build that fails is an error.
fn run_test(root: &Path, tests: &Mutant, mutant: Option<&str>) -> Result<Outcome> {
    let command = |arguments: &[&str]| {
        let mut command = workspace::cargo(root, arguments);
        command.env("CARGO_TARGET_DIR", root.join("target").join("mutants"));
        // Each mutant links all programs anew; without their debug information in half the time.
        command.env("CARGO_PROFILE_DEV_DEBUG", "false");
        match mutant {
            Some(name) => command.env(toolchain::MUTANT_VARIABLE, name),
            None => command.env_remove(toolchain::MUTANT_VARIABLE),
        };
        command
    };
    let target: &[&str] = match tests.target {
        DECISIONS => &["--package", "switcher-userspace", "--lib"],
        target => &["--package", "switcher-tests", "--test", target],
    };
    if tests.target == "e2e" {
        quietly(&mut command(&["build", "--bin", "switcher"]))?;
    }
    quietly(&mut command(&[&["test", "--no-run"], target].concat()))?;
    let output = command(&[&["test"], target, &["--", tests.test]].concat()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Any other failure would show nothing.
    let failed = text.lines().any(|line| {
        line.starts_with("test ") && line.contains(tests.test) && line.ends_with("FAILED")
    });
    let is_unclear = output.status.success() == failed;
    if is_unclear || text.contains("SKIPPED") || text.contains("running 0 tests") {
        bail!(
            "{} {} did not run to its end:\n{text}",
            tests.target,
            tests.test
        );
    }
    Ok(if failed {
        Outcome::Failed(found_after(&text))
    } else {
        Outcome::Passed
    })
}

/// After how many packets the differential test met a difference, as it says.
fn found_after(text: &str) -> Option<String> {
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("difference in "))?;
    let (_, after) = line.trim_end_matches(':').split_once(", ")?;
    Some(after.to_owned())
}

fn quietly(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "the build failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    )
}
