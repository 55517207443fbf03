//! The source of the standard library, of exactly the compiler's version.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{apt, remove_folder, wait_for_lock};
use crate::{
    process::{find_program, run_kept_back, say},
    toolchain::Toolchain,
};

const RUSTUP_LIMIT: Duration = Duration::from_mins(3);
const UNPACK_LIMIT: Duration = Duration::from_mins(5);
const PACKAGE: &str = "rust-src";
/// Keeps several versions of the package; the system's own suites have others.
const SUITE: &str = "trixie-backports";
/// Lies beside the project on its own build machines, nowhere else.
const BUNDLE_FOLDER: &str = "../shared/toolchain";
/// Files without which cargo cannot compile `core`.
const NEEDED: [&str; 2] = ["Cargo.lock", "core/src/lib.rs"];

/// Puts the source where cargo looks for it, from the first place that has it.
pub(super) fn ensure(root: &Path, toolchain: &Toolchain) -> Result<()> {
    // The compiler's folder is shared by all tool folders, so it has a lock of its own.
    let rustlib = toolchain.sysroot.join("lib/rustlib");
    let lock = File::open(&rustlib).with_context(|| {
        format!(
            "cannot open {}; next: install Rust with rustup",
            rustlib.display()
        )
    })?;
    wait_for_lock(&lock, &rustlib)?;
    remove_half_installed(toolchain)?;
    if is_complete(&toolchain.library()) {
        return Ok(());
    }
    say(&format!(
        "fetching the source of rustc {}'s library",
        toolchain.version
    ));
    let mut failures = Vec::new();
    for (name, fetch) in places(root, toolchain) {
        match fetch(root, toolchain) {
            Ok(()) => {
                say(&format!("library source installed from {name}"));
                return Ok(());
            }
            Err(error) => {
                say(&format!("not from {name}"));
                failures.push(format!("- {name}: {error:#}"));
            }
        }
    }
    Err(anyhow!(
        "cannot get the source of rustc {version}'s library; tried:\n{failures}\n\
         next: make one of these work, or put the folder `library` of rustc {version}'s source \
         at {library}",
        version = toolchain.version,
        failures = failures.join("\n"),
        library = toolchain.library().display(),
    ))
}

type Fetch = fn(&Path, &Toolchain) -> Result<()>;

fn places(root: &Path, toolchain: &Toolchain) -> Vec<(&'static str, Fetch)> {
    let mut places: Vec<(&'static str, Fetch)> =
        vec![("rustup", from_rustup), ("Debian's package", from_debian)];
    // Not a word about it where it cannot be.
    if bundle(root, toolchain).is_file() {
        places.push(("the file beside the project", from_bundle));
    }
    places
}

fn is_complete(library: &Path) -> bool {
    NEEDED.iter().all(|file| library.join(file).is_file())
}

/// rustup copies file by file. This note stands while it does, so that what a kill left behind
/// is told from a folder that somebody else made.
fn rustup_note(toolchain: &Toolchain) -> PathBuf {
    toolchain.folder.join("rustup-adds-rust-src")
}

fn remove_half_installed(toolchain: &Toolchain) -> Result<()> {
    let note = rustup_note(toolchain);
    if !note.is_file() {
        return Ok(());
    }
    // rustup lists a component only when all of its files are in place.
    let components = toolchain.sysroot.join("lib/rustlib/components");
    let is_listed = fs::read_to_string(components)
        .is_ok_and(|text| text.lines().any(|component| component == PACKAGE));
    if !is_listed {
        remove_folder(&toolchain.library())?;
    }
    fs::remove_file(&note).with_context(|| format!("cannot remove {}", note.display()))
}

fn from_rustup(root: &Path, toolchain: &Toolchain) -> Result<()> {
    if find_program("rustup").is_none() {
        bail!("`rustup` is not on the PATH");
    }
    let note = rustup_note(toolchain);
    File::create(&note).with_context(|| format!("cannot create {}", note.display()))?;
    let mut command = Command::new("rustup");
    command
        .args(["component", "add", PACKAGE])
        .current_dir(root);
    let added = run_kept_back("rustup", &mut command, RUSTUP_LIMIT);
    remove_half_installed(toolchain)?;
    added?;
    if !is_complete(&toolchain.library()) {
        bail!(
            "it reported success, but {} is not there: is this compiler another one than rustup's?",
            toolchain.library().display()
        );
    }
    Ok(())
}

fn from_debian(_root: &Path, toolchain: &Toolchain) -> Result<()> {
    let work = toolchain.folder.join("apt");
    remove_folder(&work)?;
    let package = apt::download(PACKAGE, &toolchain.version, SUITE, &work)?;
    let inside = format!("./usr/src/rustc-{}/library", toolchain.version);
    install_library(toolchain, |folder| {
        // The package holds the whole compiler; only the library is written to disk.
        let mut source = Command::new("dpkg-deb");
        source.arg("--fsys-tarfile").arg(&package);
        let mut unpacker = Command::new("tar");
        unpacker
            .args(["-x", "--no-same-owner", "--strip-components=4", "-C"])
            .arg(folder)
            .arg(&inside);
        pipe(source, unpacker)
    })?;
    remove_folder(&work)
}

fn from_bundle(root: &Path, toolchain: &Toolchain) -> Result<()> {
    install_library(toolchain, |folder| {
        let mut command = Command::new("tar");
        command
            .args(["-x", "--no-same-owner", "-C"])
            .arg(folder)
            .arg("-f")
            .arg(bundle(root, toolchain));
        run_kept_back("unpacking", &mut command, UNPACK_LIMIT).map(|_| ())
    })
}

fn bundle(root: &Path, toolchain: &Toolchain) -> PathBuf {
    root.join(BUNDLE_FOLDER)
        .join(format!("rust-library-{}.tar.xz", toolchain.version))
}

/// Lets `unpack` make a folder `library` beside the final place and renames it: a kill at any
/// point leaves either nothing there or all of it.
fn install_library(toolchain: &Toolchain, unpack: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let library = toolchain.library();
    let parent = library
        .parent()
        .context("the library has no parent folder")?;
    let partial = parent.join("switcher-setup.partial");
    remove_folder(&partial)?;
    fs::create_dir_all(&partial).with_context(|| {
        format!(
            "cannot create {}; the compiler's folder has to be writable for this user",
            partial.display()
        )
    })?;
    unpack(&partial)?;
    let unpacked = partial.join("library");
    if !is_complete(&unpacked) {
        bail!(
            "found no whole library after unpacking: expected {} in {}",
            NEEDED.join(" and "),
            unpacked.display()
        );
    }
    // A folder without the needed files may be in the way.
    remove_folder(&library)?;
    fs::rename(&unpacked, &library).with_context(|| {
        format!(
            "cannot rename {} to {}",
            unpacked.display(),
            library.display()
        )
    })?;
    remove_folder(&partial)
}

/// Runs `source | tar`, and fails if either does.
fn pipe(mut source: Command, mut tar: Command) -> Result<()> {
    let mut child = source
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let stdout = child.stdout.take().context("dpkg-deb has no output")?;
    let mut tar_child = tar.stdin(stdout).spawn().context("cannot run tar")?;
    // It holds the pipe open: dpkg-deb would wait for ever if tar ended early.
    drop(tar);
    let tar_status = tar_child.wait().context("cannot wait for tar")?;
    let source_status = child.wait().context("cannot wait for dpkg-deb")?;
    if !tar_status.success() || !source_status.success() {
        bail!("unpacking the package: dpkg-deb ended with {source_status}, tar with {tar_status}");
    }
    Ok(())
}
