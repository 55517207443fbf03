//! HAProxy, which `cargo xtask failover` compares with: the system's own, or Debian's package unpacked beside the
//! other tools. Nothing is installed.

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

const PROGRAM: &str = "haproxy";
const LIMIT: Duration = Duration::from_mins(1);

/// A program that runs.
pub(crate) struct HaProxy {
    pub(crate) program: PathBuf,
    /// For `LD_LIBRARY_PATH`; empty: the system has what it needs.
    pub(crate) libraries: OsString,
}

/// Finds or gets it.
pub(crate) fn ensure_there(root: &Path) -> Result<HaProxy> {
    if let Some(program) = find_program(PROGRAM) {
        return checked(program, OsString::new());
    }
    let folder = locate(root)?.folder.join(PROGRAM);
    if let Ok(unpacked) = unpacked(&folder) {
        return Ok(unpacked);
    }
    let partial = folder.with_extension("partial");
    remove_folder(&partial)?;
    let work = partial.join("apt");
    for package in apt::download_with_dependencies(PROGRAM, &work)? {
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&package).arg(&partial);
        run_kept_back("unpacking", &mut command, LIMIT)?;
    }
    remove_folder(&work)?;
    remove_folder(&folder)?;
    fs::rename(&partial, &folder)
        .with_context(|| format!("cannot rename {}", partial.display()))?;
    unpacked(&folder)
}

/// What was unpacked into `folder`.
fn unpacked(folder: &Path) -> Result<HaProxy> {
    let program = folder.join("usr/sbin").join(PROGRAM);
    ensure!(program.is_file(), "no {}", program.display());
    let mut libraries = Vec::new();
    for part in ["lib", "usr/lib"] {
        // A folder for each architecture, of which the packages have one.
        let entries = fs::read_dir(folder.join(part)).into_iter().flatten();
        libraries.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let libraries = std::env::join_paths(libraries).context("a folder with a colon")?;
    checked(program, libraries)
}

/// Sees that it runs.
fn checked(program: PathBuf, libraries: OsString) -> Result<HaProxy> {
    let mut command = Command::new(&program);
    command.arg("-v").env("LD_LIBRARY_PATH", &libraries);
    let said = run_kept_back("HAProxy", &mut command, LIMIT)?;
    if !said.contains("HAProxy") {
        bail!("{} is no HAProxy: it says {said}", program.display());
    }
    Ok(HaProxy { program, libraries })
}
