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
    setup::{self, packages},
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
    let mut args = options.args.clone();
    if !has_one_of(&args, &["--quick", "--haproxy", "--no-haproxy"]) {
        match packages::ensure_there(root, packages::FAILOVER) {
            Ok(programs) => {
                for (name, file) in programs.files {
                    args.extend([format!("--{name}").into(), file.into()]);
                }
                if !programs.libraries.is_empty() {
                    args.extend(["--haproxy-libraries".into(), programs.libraries]);
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

/// Runs the benchmarks, with the programs that they use and compare with where those can be had.
pub(crate) fn run_bench(root: &Path, options: &Options) -> Result<()> {
    let mut args = options.args.clone();
    if !has_one_of(&args, &["--program", "--no-programs"]) {
        match packages::ensure_there(root, packages::BENCH) {
            Ok(programs) => {
                for (name, file) in programs.files {
                    let mut program = OsString::from(format!("--program={name}="));
                    program.push(file);
                    args.push(program);
                }
                if !programs.libraries.is_empty() {
                    args.extend(["--program-libraries".into(), programs.libraries]);
                }
            }
            Err(error) => {
                process::say(&format!("no comparison with other programs: {error:#}"));
                args.push(format!("--no-programs={error:#}").into());
            }
        }
    }
    run(root, &BENCH, &Options { args })
}

/// Whether nothing needs to be looked for: one of `wanted` says where it is, or it is not used at all.
fn has_one_of(args: &[OsString], wanted: &[&str]) -> bool {
    let mut args = args.iter().map(|it| it.to_string_lossy());
    args.any(|arg| ["--help", "-h"].contains(&&*arg) || wanted.iter().any(|it| arg.starts_with(it)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_unless_the_arguments_name_them_or_none_is_used() {
        let wanted = ["--program", "--no-programs"];
        let has = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            has_one_of(&args, &wanted)
        };
        assert!(!has(&["--quick", "--json"]));
        assert!(!has(&["--only", "live"]));
        assert!(has(&["--quick", "--program=wrk=/usr/bin/wrk"]));
        assert!(has(&["--no-programs", "no network"]));
        assert!(has(&["--help"]));
    }
}
