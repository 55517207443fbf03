//! `cargo xtask mutants`: builds the switcher without one promise after the other; for each, a test
//! must fail. A mutant that no test notices means that the promise has no test.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};
use clap::Args;

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

/// A build without one promise, and the test that must notice.
struct Mutant {
    name: &'static str,
    promise: &'static str,
    without: &'static str,
    /// Test target of package switcher-tests.
    target: &'static str,
    /// Name of the test.
    test: &'static str,
}

const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "three-stores",
        promise: "G1",
        without: "a flip of several services is one store for each",
        target: "packets",
        test: "switching::g1_between_the_calls_of_a_flip_all_services_are_old_and_then_all_are_new",
    },
    Mutant {
        name: "apply-in-place",
        promise: "G1",
        without: "an apply's VIPs and endpoints are seen before its listeners",
        target: "packets",
        test: "apply::between_the_calls_of_an_apply_all_packets_see_the_old_or_all_the_new_configuration",
    },
    Mutant {
        name: "no-pin",
        promise: "G2",
        without: "a flow goes where fresh flows go",
        target: "e2e",
        test: "flip::fifty_flips_break_nothing_mix_nothing_and_leave_nothing_late",
    },
    Mutant {
        name: "every-rst-believed",
        promise: "G2",
        without: "a RST counts with any sequence number",
        target: "packets",
        test: "closing::g2_a_rst_of_somebody_else_ends_no_pin_and_moves_none",
    },
    Mutant {
        name: "every-ack-believed",
        promise: "G2",
        without: "a RST counts with a number that anybody has acknowledged",
        target: "packets",
        test: "closing::g2_a_rst_of_somebody_else_ends_no_pin_and_moves_none",
    },
    Mutant {
        name: "syn-moves-pin",
        promise: "G2",
        without: "a SYN with a new number on an established flow selects afresh",
        target: "packets",
        test: "switching::g2_a_new_syn_on_an_established_flow_goes_to_its_backend_and_changes_nothing",
    },
    Mutant {
        name: "no-barrier",
        promise: "G3",
        without: "the flip answers before the store",
        target: "e2e",
        test: "flip::fifty_flips_break_nothing_mix_nothing_and_leave_nothing_late",
    },
    Mutant {
        name: "pins-forgotten",
        promise: "G4",
        without: "the agent makes new maps at each start",
        target: "e2e",
        test: "lifecycle::a_killed_agent_costs_no_request_and_the_next_one_knows_all",
    },
    Mutant {
        name: "no-state-file",
        promise: "G5",
        without: "nothing is written to disk",
        target: "e2e",
        test: "adoption::after_a_reboot_the_state_file_decides_not_the_configuration",
    },
    Mutant {
        name: "no-gate",
        promise: "G6",
        without: "a flip to a color without backends is carried out",
        target: "e2e",
        test: "commands::a_request_that_is_refused_changes_nothing",
    },
    Mutant {
        name: "never-promote",
        promise: "G7",
        without: "established flows stay in the LRU",
        target: "packets",
        test: "tables::g7_a_flood_evicts_no_established_flow_and_its_tables_stay_bounded",
    },
    Mutant {
        name: "retransmit-reselects",
        promise: "G8",
        without: "a repeated SYN selects afresh",
        target: "packets",
        test: "switching::g8_a_syn_that_is_sent_again_after_a_flip_keeps_its_color",
    },
    Mutant {
        name: "no-base-color",
        promise: "G9",
        without: "packets in the middle of a stream go to the active color",
        target: "packets",
        test: "switching::g9_a_packet_in_mid_stream_without_a_pin_goes_to_the_base_color",
    },
    Mutant {
        name: "drain-without-scan",
        promise: "G10",
        without: "a drain ends whatever the scan found",
        target: "e2e",
        test: "drains::at_the_deadline_the_flows_that_are_left_are_told_and_live_on",
    },
    Mutant {
        name: "counted-twice",
        promise: "G10",
        without: "a flow that is established during a scan is counted in both tables",
        target: "packets",
        test: "collect_traffic::flows_that_are_established_between_the_tables_of_a_scan_are_counted_once",
    },
    Mutant {
        name: "foreign-dropped",
        promise: "G11",
        without: "packets that are not ours are dropped",
        target: "packets",
        test: "not_ours::g11_packets_to_no_listener_pass_untouched",
    },
    Mutant {
        name: "zero-checksum-updated",
        promise: "RFC 768",
        without: "a UDP checksum of zero is updated",
        target: "packets",
        test: "rewriting::",
    },
];

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
        let caught = !passes(root, mutant, Some(mutant.name))?;
        let verdict = if caught { "caught" } else { "SURVIVED" };
        println!(
            "{verdict:<9} {:<24} {}: {}",
            mutant.name, mutant.promise, mutant.without
        );
        if !caught {
            survivors.push(mutant.name);
        }
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
        return Ok(MUTANTS.iter().collect());
    }
    let find = |name: &String| MUTANTS.iter().find(|mutant| mutant.name == name);
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
        if !passes(root, mutant, None)? {
            bail!(
                "{} {} fails without a mutant; mend it first",
                mutant.target,
                mutant.test
            );
        }
    }
    Ok(())
}

/// Whether the test passes in a build with `mutant`. A build that fails is an error.
fn passes(root: &Path, tests: &Mutant, mutant: Option<&str>) -> Result<bool> {
    let command = |arguments: &[&str]| {
        let mut command = workspace::cargo(root, arguments);
        command.env("CARGO_TARGET_DIR", root.join("target").join("mutants"));
        match mutant {
            Some(name) => command.env(toolchain::MUTANT_VARIABLE, name),
            None => command.env_remove(toolchain::MUTANT_VARIABLE),
        };
        command
    };
    let target = ["--package", "switcher-tests", "--test", tests.target];
    quietly(&mut command(&["build", "--bin", "switcher"]))?;
    quietly(&mut command(&[&["test", "--no-run"], &target[..]].concat()))?;
    let output = command(&[&["test"], &target[..], &["--", tests.test]].concat()).output()?;
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
    Ok(!failed)
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
