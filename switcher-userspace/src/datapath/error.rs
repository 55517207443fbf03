//! What can go wrong between the agent and the kernel.

use std::{fmt, io, path::PathBuf};

/// A failure of the data path. Its text says what was attempted, on what, what was found, and what
/// to do next.
#[derive(Debug, thiserror::Error)]
pub enum DataPathError {
    /// The pin directory cannot be used.
    #[error("cannot use the pin directory {}: {source}; it must lie on a bpffs, which `mount -t bpf bpf /sys/fs/bpf` mounts", dir.display())]
    PinDir {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent holds the lock.
    #[error("another agent runs on the pin directory {}; stop it first, or give this one a `pin_dir` of its own", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The pins are of another layout.
    #[error("the data path pinned in {} has layout {found}, this version of switcher speaks layout {expected}; run the version that loaded it, or `switcher detach --force`, which ends its flows", dir.display())]
    Layout {
        /// The directory.
        dir: PathBuf,
        /// Layout of the pins.
        found: u32,
        /// Layout of this program.
        expected: u32,
    },
    /// The configured table sizes differ from the pinned ones.
    #[error("the data path pinned in {} was loaded with {what} = {found}, the configuration says {expected}; set it back, or `switcher detach` first, which ends all flows", dir.display())]
    Limits {
        /// The directory.
        dir: PathBuf,
        /// Which size.
        what: &'static str,
        /// Pinned.
        found: u32,
        /// Configured.
        expected: u32,
    },
    /// An interface carries somebody else's XDP program.
    #[error(
        "interface {interface} already carries an XDP program that is not switcher's; look at it with `ip link show dev {interface}`, and take it off with `ip link set dev {interface} xdp off` if nobody needs it"
    )]
    ForeignProgram {
        /// Its name.
        interface: String,
    },
    /// An interface does not exist.
    #[error(
        "interface {interface} does not exist; `ip link` lists those that do, `interfaces` of [agent] names the ones to attach to"
    )]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// A table of the operator's size is full.
    #[error(
        "the configuration needs more than {limit} {what}; raise `{what}` in [agent.limits], then `switcher detach` and start the agent again"
    )]
    Full {
        /// Which limit.
        what: &'static str,
        /// Its value.
        limit: u32,
    },
    /// There is no data path.
    #[error("no data path is pinned in {}; nothing to detach", dir.display())]
    NotLoaded {
        /// The directory.
        dir: PathBuf,
    },
    /// A kernel call failed.
    #[error("{attempt} failed: {found}")]
    Kernel {
        /// What was attempted.
        attempt: String,
        /// What was found.
        found: String,
    },
}

/// Turns any error into [`DataPathError::Kernel`] with what was attempted.
pub(super) trait Attempt<T> {
    /// Names what was attempted.
    fn attempt(self, what: impl fmt::Display) -> Result<T, DataPathError>;
}

impl<T, E: std::error::Error> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl fmt::Display) -> Result<T, DataPathError> {
        self.map_err(|error| DataPathError::Kernel {
            attempt: what.to_string(),
            found: chain(&error),
        })
    }
}

/// An error with its causes; aya keeps the kernel's answer in a cause.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}
