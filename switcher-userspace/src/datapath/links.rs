//! Attaching the dispatcher to interfaces, by links that are pinned and outlive the agent.

use std::{os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    programs::{ProgramError, Xdp, XdpMode, links::FdLink},
};

use super::{
    bpf,
    error::{Attempt as _, DataPathError},
    load::xdp_mut,
    pins::{PinDir, pinned_links, remove_link},
};
use crate::config::AttachMode;

/// How an interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl Mode {
    /// As the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn aya(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// What happened to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The link was there already.
    Already,
    /// Attached now.
    Now(Mode),
}

/// Attaches the dispatcher to `interface`, unless its pinned link does so already.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interface: &str,
    mode: AttachMode,
) -> Result<Attached, DataPathError> {
    let ifindex = bpf::ifindex(interface).ok_or_else(|| DataPathError::NoInterface {
        interface: interface.to_owned(),
    })?;
    if pinned_ifindex(pins, interface)? == Some(ifindex) {
        return Ok(Attached::Already);
    }
    // A link whose interface went away, or came back with another index.
    detach(pins, interface)?;
    let dispatcher = xdp_mut(ebpf, "dispatch")?;
    let (link, mode) = make_link(dispatcher, interface, ifindex, mode)?;
    link.pin(pins.link(interface))
        .attempt(format!("pinning the link of {interface}"))?;
    Ok(Attached::Now(mode))
}

/// Takes the dispatcher off `interface`, if its link is pinned; it is off when this returns.
pub(super) fn detach(pins: &PinDir, interface: &str) -> Result<(), DataPathError> {
    match remove_link(&pins.link(interface)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).attempt(format!("taking the program off {interface}"))
        }
        _ => Ok(()),
    }
}

/// Whether the pinned link of `interface` is attached to the interface of that name as it is now.
pub(super) fn is_attached(pins: &PinDir, interface: &str) -> bool {
    let now = bpf::ifindex(interface);
    now.is_some() && pinned_ifindex(pins, interface).is_ok_and(|pinned| pinned == now)
}

/// Ids of the programs that the links pinned in `pin_dir` carry; the directory need not be locked.
pub(super) fn program_ids(pin_dir: &Path) -> Vec<u32> {
    pinned_links(pin_dir)
        .unwrap_or_default()
        .iter()
        .filter_map(|path| bpf::open_pinned(path).ok())
        .filter_map(|link| bpf::xdp_link_info(link.as_fd()).ok())
        .map(|info| info.program_id)
        .collect()
}

fn pinned_ifindex(pins: &PinDir, interface: &str) -> Result<Option<u32>, DataPathError> {
    let path = pins.link(interface);
    if !path.exists() {
        return Ok(None);
    }
    let attempt = format!("reading the pinned link of {interface}");
    let link = bpf::open_pinned(&path).attempt(&attempt)?;
    let info = bpf::xdp_link_info(link.as_fd()).attempt(&attempt)?;
    Ok(Some(info.ifindex))
}

fn make_link(
    dispatcher: &mut Xdp,
    interface: &str,
    ifindex: u32,
    mode: AttachMode,
) -> Result<(FdLink, Mode), DataPathError> {
    let result = match mode {
        AttachMode::Native => try_link(dispatcher, ifindex, Mode::Native),
        AttachMode::Generic => try_link(dispatcher, ifindex, Mode::Generic),
        AttachMode::Auto => match try_link(dispatcher, ifindex, Mode::Native) {
            Err(error) if !is_occupied(&error) => {
                tracing::warn!(
                    interface,
                    "native XDP is not to be had ({error}); attaching in generic mode, which is slow"
                );
                try_link(dispatcher, ifindex, Mode::Generic)
            }
            result => result,
        },
    };
    result.map_err(|error| {
        if is_occupied(&error) {
            DataPathError::ForeignProgram {
                interface: interface.to_owned(),
            }
        } else {
            DataPathError::Kernel {
                attempt: format!("attaching to {interface}"),
                found: format!(
                    "{error}; `switcher agent --check` names what stands in the way, and `mode = \"generic\"` works on any driver"
                ),
            }
        }
    })
}

fn try_link(
    dispatcher: &mut Xdp,
    ifindex: u32,
    mode: Mode,
) -> Result<(FdLink, Mode), std::io::Error> {
    let id = dispatcher
        .attach_to_if_index(ifindex, mode.aya())
        .map_err(into_io)?;
    let link = dispatcher.take_link(id).map_err(into_io)?;
    // aya falls back to netlink where links are refused; such an attachment ends with the process.
    let link = FdLink::try_from(link).map_err(|_| {
        std::io::Error::other("the kernel offers no XDP links (it is older than 5.9)")
    })?;
    Ok((link, mode))
}

fn into_io(error: ProgramError) -> std::io::Error {
    match error {
        ProgramError::SyscallError(call) => call.io_error,
        other => std::io::Error::other(other),
    }
}

/// EBUSY in native mode, EEXIST in generic: another program is there.
fn is_occupied(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}
