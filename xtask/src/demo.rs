//! `cargo xtask demo`: builds, then becomes the demo program.

use std::{
    ffi::OsString,
    fs,
    io::{IsTerminal, stderr, stdin},
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::{process, setup, workspace};

/// What to pass on.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments of the demo program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    setup::ensure(root)?;
    build(root)?;
    let program = workspace::target_dir(root)?.join("release/demo");
    let mut command = demo_command(&program)?;
    let error = command.args(&options.args).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Stdout belongs to the demo program alone.
fn build(root: &Path) -> Result<()> {
    let log = stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot duplicate stderr")?;
    let mut command = workspace::cargo(root, &["build", "--release"]);
    command
        .args(["--package", "switcher-userspace", "--bin", "switcher"])
        .args(["--package", "switcher-tests", "--bin", "demo"])
        .stdout(log);
    process::run(&mut command)
}

/// Only the demo itself gets root, not the build.
fn demo_command(program: &Path) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    if process::find_program("sudo").is_some() && stdin().is_terminal() {
        process::say("the demo makes network namespaces and loads an XDP program: asking sudo");
        let mut command = Command::new("sudo");
        command.arg("--").arg(program);
        return Ok(command);
    }
    Err(anyhow!(
        "the demo needs root: it makes network namespaces and loads an XDP program\n\
         next: it is built; run {} as root",
        program.display()
    ))
}

fn is_root() -> Result<bool> {
    match fs::metadata("/proc/self") {
        Ok(metadata) => Ok(metadata.uid() == 0),
        Err(error) => bail!("cannot tell whether this is root: /proc/self: {error}"),
    }
}
