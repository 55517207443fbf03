//! `cargo xtask setup`: brings this machine to where the eBPF program builds.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, TryLockError},
    path::Path,
};

use anyhow::{Context, Result};

use crate::{
    process::say,
    toolchain::{BPF_LINKER_VERSION, Toolchain},
};

mod apt;
mod linker;
pub(crate) mod packages;
mod probe;
mod rust_src;

/// Runs the command.
pub(crate) fn run(root: &Path) -> Result<()> {
    let toolchain = ensure(root)?;
    say(&format!(
        "ready: rustc {}, library source at {}, bpf-linker {BPF_LINKER_VERSION} at {}",
        toolchain.version,
        toolchain.library().display(),
        toolchain.linker().display()
    ));
    Ok(())
}

/// Sets up what is missing, and returns at once if nothing is.
pub(crate) fn ensure(root: &Path) -> Result<Toolchain> {
    let toolchain = locate(root)?;
    if toolchain.check_ready().is_ok() {
        return Ok(toolchain);
    }
    fs::create_dir_all(&toolchain.folder).with_context(|| {
        format!(
            "cannot create the folder for tools, {}; set SWITCHER_TOOLCHAIN_DIR to a writable one",
            toolchain.folder.display()
        )
    })?;
    let lock_path = toolchain.folder.join("lock");
    let lock_file = File::create(&lock_path)
        .with_context(|| format!("cannot create {}", lock_path.display()))?;
    wait_for_lock(&lock_file, &lock_path)?;
    // Another set-up may have finished while this one waited.
    if toolchain.check_ready().is_err() {
        install(root, &toolchain)?;
    }
    Ok(toolchain)
}

fn locate(root: &Path) -> Result<Toolchain> {
    Toolchain::locate(root).map_err(anyhow::Error::msg)
}

fn install(root: &Path, toolchain: &Toolchain) -> Result<()> {
    rust_src::ensure(root, toolchain)?;
    linker::ensure(toolchain)?;
    write_stamp(toolchain)
}

/// Takes the lock, and says so if it has to wait. The kernel frees it however the process ends.
fn wait_for_lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => return Ok(()),
        Err(TryLockError::WouldBlock) => {
            say(&format!("waiting for another set-up ({})", path.display()));
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// Written last and renamed into place: it exists only after the tools have been seen to work.
fn write_stamp(toolchain: &Toolchain) -> Result<()> {
    let partial = toolchain.folder.join("ready.partial");
    fs::write(&partial, toolchain.stamp_text())
        .and_then(|()| fs::rename(&partial, toolchain.stamp()))
        .with_context(|| format!("cannot write {}", toolchain.stamp().display()))
}

/// Removes a folder of ours that may not be there.
fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The name under which rustup knows the compiler: outside the project nothing else pins it.
fn rustup_name(toolchain: &Toolchain) -> OsString {
    env::var_os("RUSTUP_TOOLCHAIN").unwrap_or_else(|| toolchain.version.clone().into())
}
