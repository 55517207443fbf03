//! `cargo xtask demo`, `fuzz`, `failover` and `bench`: each builds its program, then becomes it.

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

use crate::{
    process,
    setup::{self, haproxy::HaProxy},
    workspace,
};

/// A program of the tests that works in a lab, which needs root.
pub(crate) struct LabProgram {
    name: &'static str,
    /// Packages and programs that are built for it, its own too.
    builds: &'static [(&'static str, &'static str)],
}

/// Shows flips under load.
pub(crate) const DEMO: LabProgram = LabProgram {
    name: "demo",
    builds: &[
        ("switcher-userspace", "switcher"),
        ("switcher-tests", "demo"),
    ],
};

/// The differential test.
pub(crate) const FUZZ: LabProgram = LabProgram {
    name: "fuzz",
    builds: &[("switcher-tests", "fuzz")],
};

/// Servers that fail under load.
pub(crate) const FAILOVER: LabProgram = LabProgram {
    name: "failover",
    builds: &[
        ("switcher-userspace", "switcher"),
        ("switcher-tests", "failover"),
        ("switcher-tests", "echo_server"),
    ],
};

/// What it all costs.
pub(crate) const BENCH: LabProgram = LabProgram {
    name: "bench",
    builds: &[
        ("switcher-userspace", "switcher"),
        ("switcher-tests", "bench"),
    ],
};

/// What to pass on.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments of the program; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(root: &Path, program: &LabProgram, options: &Options) -> Result<()> {
    setup::ensure(root)?;
    build(root, program)?;
    let path = workspace::target_dir(root)?
        .join("release")
        .join(program.name);
    let mut command = as_root(program.name, &path)?;
    let error = command.args(&options.args).exec();
    Err(error).with_context(|| format!("cannot run {}", path.display()))
}

/// Runs the scenarios of failover, with HAProxy beside them where it can be had.
pub(crate) fn run_failover(root: &Path, options: &Options) -> Result<()> {
    let has = |wanted: &str| {
        options
            .args
            .iter()
            .any(|it| it.to_string_lossy().starts_with(wanted))
    };
    let mut args = options.args.clone();
    if !["--quick", "--haproxy", "--no-haproxy", "--help", "-h"]
        .map(has)
        .contains(&true)
    {
        match setup::haproxy::ensure_there(root) {
            Ok(HaProxy { program, libraries }) => {
                args.extend(["--haproxy".into(), program.into()]);
                if !libraries.is_empty() {
                    args.extend(["--haproxy-libraries".into(), libraries]);
                }
            }
            Err(error) => {
                process::say(&format!("no comparison with HAProxy: {error:#}"));
                args.extend(["--no-haproxy".into(), format!("{error:#}").into()]);
            }
        }
    }
    run(root, &FAILOVER, &Options { args })
}

/// Stdout belongs to the program alone.
fn build(root: &Path, program: &LabProgram) -> Result<()> {
    let log = stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot duplicate stderr")?;
    let mut command = workspace::cargo(root, &["build", "--release"]);
    for (package, binary) in program.builds {
        command.args(["--package", package, "--bin", binary]);
    }
    command.stdout(log);
    process::run(&mut command)
}

/// Only the program itself gets root, not the build.
fn as_root(name: &str, path: &Path) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(path));
    }
    let why = "it makes network namespaces and loads an XDP program";
    if process::find_program("sudo").is_some() && stdin().is_terminal() {
        process::say(&format!("{name} needs root, since {why}: asking sudo"));
        let mut command = Command::new("sudo");
        command.arg("--").arg(path);
        return Ok(command);
    }
    Err(anyhow!(
        "{name} needs root: {why}\nnext: it is built; run {} as root",
        path.display()
    ))
}

fn is_root() -> Result<bool> {
    match fs::metadata("/proc/self") {
        Ok(metadata) => Ok(metadata.uid() == 0),
        Err(error) => bail!("cannot tell whether this is root: /proc/self: {error}"),
    }
}
