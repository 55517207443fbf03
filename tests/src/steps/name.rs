//! What a system call is about, in words that are the same at each repetition.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::{Path, PathBuf},
};

/// What a call does to its arguments, as far as a name needs it.
#[derive(Clone, Copy)]
enum Kind {
    /// bpf(2).
    Bpf,
    /// The first argument is a descriptor.
    Descriptor(&'static str),
    /// The argument of this number is a path, which is made or removed.
    Path(&'static str, usize),
    /// As [`Self::Path`], with flags in the argument after it: only what makes or cuts a file.
    Open(usize),
    /// Arguments of a new process.
    Process,
}

/// Changes of BPF objects, files and directories.
const CHANGES: &[(libc::c_long, Kind)] = &[
    (libc::SYS_bpf, Kind::Bpf),
    (libc::SYS_write, Kind::Descriptor("write")),
    (libc::SYS_writev, Kind::Descriptor("write")),
    (libc::SYS_pwrite64, Kind::Descriptor("write")),
    (libc::SYS_pwritev, Kind::Descriptor("write")),
    (libc::SYS_fsync, Kind::Descriptor("fsync")),
    (libc::SYS_fdatasync, Kind::Descriptor("fsync")),
    (libc::SYS_ftruncate, Kind::Descriptor("truncate")),
    (libc::SYS_openat, Kind::Open(1)),
    (libc::SYS_renameat, Kind::Path("rename", 1)),
    (libc::SYS_renameat2, Kind::Path("rename", 1)),
    (libc::SYS_unlinkat, Kind::Path("remove", 1)),
    (libc::SYS_mkdirat, Kind::Path("make", 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Kind::Open(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, Kind::Path("rename", 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, Kind::Path("remove", 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, Kind::Path("remove", 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, Kind::Path("make", 0)),
];

/// Requests to other processes. Not the calls by which the supervisor gets its descriptor and the
/// process its program.
const REQUESTS: &[(libc::c_long, Kind)] = &[
    (libc::SYS_connect, Kind::Descriptor("connect")),
    (libc::SYS_write, Kind::Descriptor("write")),
    (libc::SYS_writev, Kind::Descriptor("write")),
    (libc::SYS_sendto, Kind::Descriptor("write")),
    (libc::SYS_clone, Kind::Process),
    (libc::SYS_clone3, Kind::Process),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, Kind::Process),
];

/// Commands of bpf(2) that change something, and the offset of a map's descriptor in their attribute.
const BPF_CHANGES: &[(u64, &str, Option<u64>)] = &[
    (0, "MAP_CREATE", None),
    (2, "MAP_UPDATE_ELEM", Some(0)),
    (3, "MAP_DELETE_ELEM", Some(0)),
    (5, "PROG_LOAD", None),
    (6, "OBJ_PIN", None),
    (8, "PROG_ATTACH", None),
    (9, "PROG_DETACH", None),
    (10, "PROG_TEST_RUN", None),
    (21, "MAP_LOOKUP_AND_DELETE_ELEM", Some(0)),
    (22, "MAP_FREEZE", Some(0)),
    (25, "MAP_LOOKUP_AND_DELETE_BATCH", Some(36)),
    (26, "MAP_UPDATE_BATCH", Some(36)),
    (27, "MAP_DELETE_BATCH", Some(36)),
    (28, "LINK_CREATE", None),
    (29, "LINK_UPDATE", None),
    (33, "ITER_CREATE", None),
    (34, "LINK_DETACH", None),
    (35, "PROG_BIND_MAP", None),
];

/// Names the steps of one kind of process.
pub(super) struct Names {
    calls: &'static [(libc::c_long, Kind)],
    /// Where files count; empty: sockets count.
    dirs: Vec<PathBuf>,
}

impl Names {
    /// Changes of BPF objects, and of files below `dirs`.
    pub(super) const fn changes(dirs: Vec<PathBuf>) -> Self {
        Self {
            calls: CHANGES,
            dirs,
        }
    }

    /// Requests to other processes.
    pub(super) const fn requests() -> Self {
        Self {
            calls: REQUESTS,
            dirs: Vec::new(),
        }
    }

    /// The numbers of the calls that may be steps.
    pub(super) fn calls(&self) -> impl Iterator<Item = libc::c_long> {
        self.calls.iter().map(|(number, _)| *number)
    }

    /// The thread and the step; `None`: what is about to be done is no step of `process`.
    pub(super) fn of(&self, process: u32, call: &libc::seccomp_notif) -> Option<(String, String)> {
        let number = libc::c_long::from(call.data.nr);
        let (_, kind) = self.calls.iter().find(|(known, _)| *known == number)?;
        let dir = PathBuf::from(format!("/proc/{process}/task/{}", call.pid));
        // A process that it has started is not it.
        let thread = fs::read_to_string(dir.join("comm")).ok()?;
        let arguments = &call.data.args;
        let words = match *kind {
            Kind::Bpf => bpf(&dir, arguments)?,
            Kind::Descriptor(what) => format!("{what} {}", self.target(&dir, arguments[0])?),
            Kind::Path(what, at) => format!("{what} {}", self.path(&dir, arguments[at])?),
            Kind::Open(at) => {
                let makes = u64::from((libc::O_CREAT | libc::O_TRUNC).unsigned_abs());
                if arguments[at + 1] & makes == 0 {
                    return None;
                }
                format!("make {}", self.path(&dir, arguments[at])?)
            }
            Kind::Process => "start a process".to_owned(),
        };
        Some((thread.trim_end().to_owned(), words))
    }

    /// The file or socket of a descriptor.
    fn target(&self, dir: &Path, descriptor: u64) -> Option<String> {
        let target = fs::read_link(dir.join("fd").join(descriptor.to_string())).ok()?;
        if self.dirs.is_empty() {
            let is_socket = target.to_string_lossy().starts_with("socket:");
            return is_socket.then(|| "a socket".to_owned());
        }
        self.named(&target)
    }

    fn path(&self, dir: &Path, address: u64) -> Option<String> {
        let mut bytes = [0; libc::PATH_MAX as usize];
        let memory = File::open(dir.join("mem")).ok()?;
        // A path may end near the end of what can be read.
        let read = memory.read_at(&mut bytes, address).ok()?;
        let path = bytes[..read].split(|byte| *byte == 0).next()?;
        self.named(Path::new(OsStr::from_bytes(path)))
    }

    /// A path below one of the directories, from that directory's name on.
    fn named(&self, path: &Path) -> Option<String> {
        let dir = self.dirs.iter().find(|dir| path.starts_with(dir))?;
        let path = path.strip_prefix(dir.parent()?).ok()?;
        Some(path.display().to_string())
    }
}

fn bpf(dir: &Path, arguments: &[u64; 6]) -> Option<String> {
    let (_, name, map) = BPF_CHANGES
        .iter()
        .find(|(command, ..)| *command == arguments[0])?;
    let mut words = format!("bpf {name}");
    if let Some(offset) = map {
        let mut descriptor = [0; 4];
        let memory = File::open(dir.join("mem")).ok()?;
        memory
            .read_exact_at(&mut descriptor, arguments[1] + offset)
            .ok()?;
        let descriptor = u32::from_ne_bytes(descriptor);
        words.push(' ');
        words.push_str(&map_name(dir, descriptor).unwrap_or_else(|| "?".to_owned()));
    }
    Some(words)
}

/// The map of a descriptor. The two inner maps of a pair change places at each store, so they have
/// one name.
fn map_name(dir: &Path, descriptor: u32) -> Option<String> {
    let info = fs::read_to_string(dir.join("fdinfo").join(descriptor.to_string())).ok()?;
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let (_, id) = lines.find(|(key, _)| *key == "map_id")?;
    let id: u32 = id.trim().parse().ok()?;
    let mut maps = aya::maps::loaded_maps().filter_map(Result::ok);
    let map = maps.find(|map| map.id() == id)?;
    let name = map.name_as_str()?;
    let pair = name.strip_suffix("_A").or_else(|| name.strip_suffix("_B"));
    Some(pair.map_or_else(|| name.to_owned(), |pair| format!("spare {pair}")))
}
