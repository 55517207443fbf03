//! Files that hold after a crash: written to a temporary file, synced, renamed, and the directory
//! synced. A crash at any point leaves the file before or the file after (G5).

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Replaces `dir/name`; durable on return.
pub(super) fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    if cfg!(mutant = "written-in-place") {
        let mut file = File::create(dir.join(name))?;
        file.write_all(content)?;
        return file.sync_all();
    }
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Removes `dir/name` if it is there; durable on return.
pub(super) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| File::open(dir)?.sync_all()),
    }
}
