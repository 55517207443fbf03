//! The lab's temporary directory, gone with the lab; what a killed run left is swept by the next.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = "switcher-lab-";

/// Younger directories are left alone: their owner may not have locked them yet.
const SWEEP_AGE: Duration = Duration::from_mins(1);

/// The directories of this process, for an end without destructors.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A temporary directory, locked while its owner lives.
pub(super) struct LabDirectory {
    path: PathBuf,
    _lock: File,
}

impl LabDirectory {
    pub(super) fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::temp_dir();
        sweep(&parent);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        create(&path)?;
        live().insert(path.clone());
        let lock = lock(&path).with_context(|| format!("locking {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LabDirectory {
    fn drop(&mut self) {
        remove(&self.path);
        live().remove(&self.path);
    }
}

/// Removes the directories of all labs of this process, which is about to end.
pub(super) fn remove_all() {
    live().iter().for_each(|path| remove(path));
}

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of that name may be left from a killed process that had our id.
fn create(path: &Path) -> Result<()> {
    if path.exists() {
        remove(path);
    }
    let what = || {
        format!(
            "making {}; set TMPDIR to a writable directory",
            path.display()
        )
    };
    fs::create_dir(path).with_context(what)
}

fn lock(path: &Path) -> std::io::Result<File> {
    let directory = File::open(path)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("removing {}: {error}; remove it by hand", path.display());
    }
}

/// Removes what killed runs left: old enough, and locked by nobody.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && is_old(&entry)
            && let Ok(_lock) = lock(&entry.path())
        {
            remove(&entry.path());
        }
    }
}

fn is_old(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SWEEP_AGE))
}
