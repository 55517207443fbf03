//! The pin directory: what lies where, the lock, and making all of it appear at once.
//!
//! ```text
//! <pin_dir>/maps/      every map, by name; made as maps_new and renamed (bpffs reserves names with a dot), so it is whole or absent
//! <pin_dir>/links/     one XDP link for each interface
//! <pin_dir>/tracing/   the links of the programs that count send errors
//! ```

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::maps::{Map, MapData, MapError};

use super::{
    bpf,
    error::{Attempt as _, DataPathError},
};

/// A locked pin directory.
#[derive(Debug)]
pub(super) struct PinDir {
    root: PathBuf,
    /// Held while the agent runs; the lock ends with the descriptor.
    _lock: File,
}

impl PinDir {
    /// Creates the directory if need be, and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, DataPathError> {
        let fail = |source: io::Error| DataPathError::PinDir {
            dir: root.to_owned(),
            source,
        };
        fs::create_dir_all(root).map_err(fail)?;
        let file = File::open(root).map_err(fail)?;
        let locked = bpf::lock_exclusively(&file).map_err(fail)?;
        // Whoever detaches removes the directory: a lock on one that is gone excludes nobody.
        let is_still_there = fs::metadata(root).is_ok_and(|now| {
            file.metadata()
                .is_ok_and(|locked| now.ino() == locked.ino())
        });
        if !locked || !is_still_there {
            return Err(DataPathError::Locked {
                dir: root.to_owned(),
            });
        }
        let pins = Self {
            root: root.to_owned(),
            _lock: file,
        };
        // A leftover of an agent that died while it made the maps.
        remove_flat_dir(&pins.staging()).map_err(fail)?;
        if !pins.has_maps() {
            // They would count into maps that are gone.
            remove_flat_dir(&pins.tracing()).map_err(fail)?;
        }
        fs::create_dir_all(pins.links()).map_err(fail)?;
        Ok(pins)
    }

    /// As [`Self::lock`], but only where a data path is.
    pub(super) fn lock_existing(root: &Path) -> Result<Self, DataPathError> {
        if maps_dir(root).is_dir() {
            Self::lock(root)
        } else {
            Err(DataPathError::NotLoaded {
                dir: root.to_owned(),
            })
        }
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a data path is there.
    pub(super) fn has_maps(&self) -> bool {
        maps_dir(&self.root).is_dir()
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        maps_dir(&self.root).join(name)
    }

    /// Where a map is pinned until all of them are.
    pub(super) fn staged_map(&self, name: &str) -> PathBuf {
        self.staging().join(name)
    }

    fn staging(&self) -> PathBuf {
        self.root.join("maps_new")
    }

    /// Opens a pinned map, untyped.
    pub(super) fn open_data(&self, name: &str) -> Result<MapData, DataPathError> {
        MapData::from_pin(self.map(name)).attempt(format!("opening the pinned map {name}"))
    }

    /// Opens a pinned map.
    pub(super) fn open<T>(&self, name: &str) -> Result<T, DataPathError>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        open_at(&self.map(name), name)
    }

    /// Opens a map that is pinned in the staging directory.
    pub(super) fn open_staged<T>(&self, name: &str) -> Result<T, DataPathError>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        open_at(&self.staged_map(name), name)
    }

    /// Begins making the maps.
    pub(super) fn begin(&self) -> Result<(), DataPathError> {
        fs::create_dir(self.staging()).map_err(|source| self.error(source))
    }

    /// All maps appear at once.
    pub(super) fn commit(&self) -> Result<(), DataPathError> {
        fs::rename(self.staging(), maps_dir(&self.root)).map_err(|source| self.error(source))
    }

    /// Directory of the links.
    pub(super) fn links(&self) -> PathBuf {
        links_dir(&self.root)
    }

    /// Where the link of an interface is pinned. bpffs reserves names with a dot.
    pub(super) fn link(&self, interface: &str) -> PathBuf {
        self.links().join(interface.replace('.', "%2e"))
    }

    /// Where the link to a tracepoint is pinned.
    pub(super) fn tracing_link(&self, tracepoint: &str) -> PathBuf {
        self.tracing().join(tracepoint)
    }

    /// Makes the directory of the links to tracepoints, if need be.
    pub(super) fn make_tracing(&self) -> Result<(), DataPathError> {
        fs::create_dir_all(self.tracing()).map_err(|source| self.error(source))
    }

    fn tracing(&self) -> PathBuf {
        self.root.join("tracing")
    }

    /// Interfaces with a pinned link.
    pub(super) fn linked_interfaces(&self) -> Result<Vec<String>, DataPathError> {
        let links = pinned_links(&self.root).map_err(|source| self.error(source))?;
        let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().replace("%2e", "."));
        Ok(links.iter().filter_map(name).collect())
    }

    /// Takes away what locking has made, where no data path came of it.
    pub(super) fn remove_if_new(&self) {
        if !self.has_maps() {
            // Best effort: the caller has an error to tell already, and the next start cleans up too.
            let _ = remove_flat_dir(&self.staging());
            let _ = fs::remove_dir(self.links());
            let _ = fs::remove_dir(&self.root);
        }
    }

    /// Removes links first, so that no packet meets a half-removed data path, then the maps.
    pub(super) fn remove_all(&self) -> Result<(), DataPathError> {
        self.remove_links()
            .and_then(|()| remove_flat_dir(&self.tracing()))
            .map_err(|source| self.error(source))?;
        self.remove_maps()?;
        fs::remove_dir(&self.root).map_err(|source| self.error(source))
    }

    /// Removes the maps, which are gone as a whole first.
    pub(super) fn remove_maps(&self) -> Result<(), DataPathError> {
        let (maps, gone) = (maps_dir(&self.root), self.staging());
        let renamed = match fs::rename(&maps, &gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        renamed
            .and_then(|()| remove_flat_dir(&gone))
            .map_err(|source| self.error(source))
    }

    fn remove_links(&self) -> io::Result<()> {
        for link in pinned_links(&self.root)? {
            remove_link(&link)?;
        }
        fs::remove_dir(self.links())
    }

    fn error(&self, source: io::Error) -> DataPathError {
        DataPathError::PinDir {
            dir: self.root.clone(),
            source,
        }
    }
}

fn open_at<T>(path: &Path, name: &str) -> Result<T, DataPathError>
where
    T: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(path)
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .attempt(format!("opening the pinned map {name}"))
}

/// Takes a pinned link off and removes its pin. By removing the pin alone the kernel would take it off
/// too, but some time later, in the background.
pub(super) fn remove_link(pin: &Path) -> io::Result<()> {
    bpf::detach_link(bpf::open_pinned(pin)?.as_fd())?;
    fs::remove_file(pin)
}

/// Paths of the pinned links below a pin directory, which need not be locked.
pub(super) fn pinned_links(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(links_dir(root))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn links_dir(root: &Path) -> PathBuf {
    root.join("links")
}

fn maps_dir(root: &Path) -> PathBuf {
    root.join("maps")
}

/// Removes a directory of files, if it exists.
fn remove_flat_dir(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(dir)
}
