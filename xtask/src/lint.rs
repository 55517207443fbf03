//! `cargo xtask lint`: rustfmt and clippy, for the host's crates and for the eBPF program.

use std::path::Path;

use anyhow::Result;

use crate::{
    process::{run as run_command, say},
    setup, workspace,
};

const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

/// Runs the command.
pub(crate) fn run(root: &Path) -> Result<()> {
    // The host's crates hold the eBPF program, so clippy needs the tools too.
    let toolchain = setup::ensure(root)?;
    say("lint: formatting");
    run_command(&mut workspace::cargo(root, &["fmt", "--all", "--check"]))?;
    say("lint: clippy on the host's crates");
    run_command(workspace::cargo(root, &["clippy", "--all-targets"]).args(DENY_WARNINGS))?;
    say("lint: clippy on the eBPF programs");
    let target_dir = workspace::target_dir(root)?.join("ebpf-lint");
    run_command(
        toolchain
            .ebpf_cargo("clippy", &target_dir)
            .args([
                "--package",
                "switcher-ebpf",
                "--package",
                "switcher-bench-ebpf",
            ])
            .args(DENY_WARNINGS)
            .current_dir(root),
    )
}
