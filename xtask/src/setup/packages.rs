//! Programs that the failover scenarios and the benchmarks use or compare with: the system's own, or those of
//! Debian's packages, unpacked beside the other tools. Nothing is installed.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{apt, locate, remove_folder};
use crate::process::{find_program, run_kept_back};

const LIMIT: Duration = Duration::from_mins(1);

/// A program, and where it comes from.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Its file's name.
    pub(crate) program: &'static str,
    package: &'static str,
    /// Where the package puts it.
    folder: &'static str,
    /// What it says of itself when it is asked for its version.
    says: &'static str,
}

const HAPROXY: Wanted = Wanted {
    program: "haproxy",
    package: "haproxy",
    folder: "usr/sbin",
    says: "HAProxy",
};

/// For `cargo xtask failover`.
pub(crate) const FAILOVER: &[Wanted] = &[HAPROXY];

/// For `cargo xtask bench`.
pub(crate) const BENCH: &[Wanted] = &[
    HAPROXY,
    Wanted {
        program: "iperf3",
        package: "iperf3",
        folder: "usr/bin",
        says: "iperf",
    },
    Wanted {
        program: "nft",
        package: "nftables",
        folder: "usr/sbin",
        says: "nftables",
    },
    Wanted {
        program: "nginx",
        package: "nginx",
        folder: "usr/sbin",
        says: "nginx",
    },
    Wanted {
        program: "wrk",
        package: "wrk",
        folder: "usr/bin",
        says: "wrk",
    },
];

/// Programs that run.
pub(crate) struct Programs {
    /// As they were wanted, with their files.
    pub(crate) files: Vec<(&'static str, PathBuf)>,
    /// For `LD_LIBRARY_PATH`; empty: the system has what they need.
    pub(crate) libraries: OsString,
}

/// Finds or gets them.
pub(crate) fn ensure_there(root: &Path, wanted: &[Wanted]) -> Result<Programs> {
    let (system, missing): (Vec<_>, Vec<_>) = wanted
        .iter()
        .map(|it| (*it, find_program(it.program)))
        .partition(|(_, found)| found.is_some());
    let missing: Vec<Wanted> = missing.into_iter().map(|(it, _)| it).collect();
    let mut programs = Programs {
        files: Vec::new(),
        libraries: OsString::new(),
    };
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|it| it.package).collect();
        let folder = locate(root)?.folder.join(names.join("+"));
        if let Ok(unpacked) = unpacked(&folder, &missing) {
            programs = unpacked;
        } else {
            unpack(&folder, &names)?;
            programs = unpacked(&folder, &missing)?;
        }
    }
    for (it, found) in system {
        let file = found.context("it was just found")?;
        check(&it, &file, &OsString::new())?;
        programs.files.push((it.program, file));
    }
    Ok(programs)
}

/// Downloads packages, and renames the folder into place when all of them are in it.
fn unpack(folder: &Path, packages: &[&str]) -> Result<()> {
    let partial = folder.with_extension("partial");
    remove_folder(&partial)?;
    let work = partial.join("apt");
    for package in apt::download_with_dependencies(packages, &work)? {
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&package).arg(&partial);
        run_kept_back("unpacking", &mut command, LIMIT)?;
    }
    remove_folder(&work)?;
    remove_folder(folder)?;
    fs::rename(&partial, folder).with_context(|| format!("cannot rename {}", partial.display()))
}

/// What was unpacked into `folder`.
fn unpacked(folder: &Path, wanted: &[Wanted]) -> Result<Programs> {
    let mut libraries = Vec::new();
    for part in ["lib", "usr/lib"] {
        // A folder for each architecture, of which the packages have one.
        let entries = fs::read_dir(folder.join(part)).into_iter().flatten();
        libraries.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let libraries = std::env::join_paths(libraries).context("a folder with a colon")?;
    let mut files = Vec::new();
    for it in wanted {
        let file = folder.join(it.folder).join(it.program);
        ensure!(file.is_file(), "no {}", file.display());
        check(it, &file, &libraries)?;
        files.push((it.program, file));
    }
    Ok(Programs { files, libraries })
}

/// Sees that it runs. Some say it on standard error, or end with a failure although they say it.
fn check(wanted: &Wanted, file: &Path, libraries: &OsString) -> Result<()> {
    let mut command = Command::new(file);
    command.arg("-v").env("LD_LIBRARY_PATH", libraries);
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", file.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !said.contains(wanted.says) {
        bail!(
            "{} is not the program that is wanted: asked for its version it says {said:?}, expected a line with {:?}",
            file.display(),
            wanted.says
        );
    }
    Ok(())
}
