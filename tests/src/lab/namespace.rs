//! Anonymous namespaces, held by descriptors: the kernel removes them with the last holder,
//! however that one ends.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::sys;

/// A mount namespace with a bpffs of its own; those of the hosts are copies of it.
pub(super) struct BaseMounts(OwnedFd);

impl BaseMounts {
    /// Makes the namespace and mounts a new bpffs at `bpffs` in it, invisible outside.
    pub(super) fn new(bpffs: &Path) -> Result<Self> {
        on_fresh_thread("lab-mounts", || {
            sys::unshare(UnshareFlags::NEWNS).context("making a mount namespace (needs root)")?;
            mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )
            .context("making the mounts of the lab private")?;
            mount("bpf", bpffs, "bpf", MountFlags::empty(), None).with_context(|| {
                format!(
                    "mounting a bpffs at {} (kernel without BPF?)",
                    bpffs.display()
                )
            })?;
            Ok(Self(own("mnt")?))
        })
    }
}

/// The network and the mount namespace of one host.
#[derive(Clone)]
pub(super) struct Namespaces {
    pub(super) net: Arc<OwnedFd>,
    pub(super) mount: Arc<OwnedFd>,
}

impl Namespaces {
    /// Moves the calling thread, which must be a new one, into new namespaces.
    ///
    /// `/sys` shows the interfaces of the new network namespace, and the lab's bpffs is found at
    /// `bpffs` and at `/sys/fs/bpf`.
    pub(super) fn enter_new(base: &BaseMounts, bpffs: &Path) -> Result<Self> {
        sys::unshare(UnshareFlags::FS).context("separating the thread's working directory")?;
        move_into_link_name_space(base.0.as_fd(), Some(LinkNameSpaceType::Mount))
            .context("entering the mounts of the lab")?;
        sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET)
            .context("making a network namespace (needs root)")?;
        mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)
            .context("mounting the sysfs of a new network namespace")?;
        mount_bind(bpffs, "/sys/fs/bpf").context("binding the lab's bpffs to /sys/fs/bpf")?;
        Ok(Self {
            net: Arc::new(own("net")?),
            mount: Arc::new(own("mnt")?),
        })
    }

    /// Moves the calling thread, which must not be needed elsewhere afterwards, into these
    /// namespaces. Its working directory stays.
    pub(super) fn enter(&self) -> Result<()> {
        let directory = std::env::current_dir();
        sys::unshare(UnshareFlags::FS).context("separating the thread's working directory")?;
        move_into_link_name_space(self.mount.as_fd(), Some(LinkNameSpaceType::Mount))
            .context("entering the mount namespace of a host")?;
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))
            .context("entering the network namespace of a host")?;
        if let Ok(directory) = directory {
            std::env::set_current_dir(&directory)
                .with_context(|| format!("returning to {}", directory.display()))?;
        }
        Ok(())
    }
}

/// The calling thread's namespace of `kind`.
fn own(kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/thread-self/ns/{kind}");
    Ok(File::open(&path)
        .with_context(|| format!("opening {path}"))?
        .into())
}

/// Runs `task` on a thread of its own, whose namespaces may be changed.
pub(super) fn on_fresh_thread<T: Send>(
    name: &str,
    task: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, task);
        let thread = thread.with_context(|| format!("starting the thread {name}"))?;
        thread
            .join()
            .map_err(|_| anyhow!("the thread {name} panicked"))?
    })
}
