//! Processes with few rights: an unprivileged user, with the capabilities that a test names.

use std::{io, os::unix::fs::chown, path::Path, process::Command};

use anyhow::{Context as _, Result};
use rustix::{
    process::{Gid, Signal, Uid, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
        set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// `nobody`, a user without any right.
pub const NOBODY: u32 = 65_534;

/// Makes the child of `command` a process of [`NOBODY`] that has `capabilities` and can get no others.
pub(super) fn limit(command: &mut Command, capabilities: CapabilitySet) {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let prepare = move || -> io::Result<()> {
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if capabilities.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The kernel's last capability was the one before.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
        set_keep_capabilities(true)?;
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        let sets = CapabilitySets {
            effective: capabilities,
            permitted: capabilities,
            inheritable: capabilities,
        };
        set_capabilities(None, sets)?;
        clear_ambient_capability_set()?;
        for capability in capabilities {
            configure_capability_in_ambient_set(capability, true)?;
        }
        // Changing the user has cleared it.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, prepare) };
}

/// Lets [`NOBODY`] write in `dir`.
pub(super) fn give(dir: &Path) -> Result<()> {
    chown(dir, Some(NOBODY), Some(NOBODY))
        .with_context(|| format!("cannot give {} away", dir.display()))
}
