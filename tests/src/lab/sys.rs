//! The system calls that need `unsafe`, and nothing else.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::thread::UnshareFlags;

/// Gives the calling thread namespaces (or file system attributes) of its own.
///
/// `flags` must not contain [`UnshareFlags::FILES`].
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(
        !flags.contains(UnshareFlags::FILES),
        "descriptors stay shared between threads"
    );
    // SAFETY: the only hazard of unshare(2) is a descriptor table of one's own, excluded above.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Makes the child of `command` enter two namespaces and die with the thread that spawns it.
pub(super) fn enter_in_child(command: &mut Command, mount: Arc<OwnedFd>, net: Arc<OwnedFd>) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above; then nobody would send the signal.
        if getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let mut directory = [0_u8; libc::PATH_MAX as usize];
        let known = current_directory(&mut directory);
        move_into_link_name_space(mount.as_fd(), Some(LinkNameSpaceType::Mount))?;
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
        // Entering a mount namespace moves the working directory to its root.
        if let Some(path) = known {
            rustix::process::chdir(path)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// The working directory, without allocating.
fn current_directory(buffer: &mut [u8]) -> Option<&CStr> {
    // SAFETY: the pointer and the length are those of one writable buffer.
    let path = unsafe { libc::getcwd(buffer.as_mut_ptr().cast(), buffer.len()) };
    if path.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(buffer).ok()
}

/// Offloads that the lab switches; the numbers are ethtool's `ETHTOOL_S*` commands.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Offload {
    /// Transmit checksums left to the device.
    TxChecksum = 0x17,
    /// TCP segmentation left to the device.
    TcpSegmentation = 0x1f,
    /// Generic segmentation.
    GenericSegmentation = 0x24,
    /// Generic receive offload; on veth also what makes it accept redirected frames.
    GenericReceive = 0x2c,
}

/// Switches one offload of `interface` in the network namespace of the calling thread.
pub(super) fn set_offload(interface: &str, offload: Offload, on: bool) -> io::Result<()> {
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let mut value = EthtoolValue {
        command: offload as u32,
        data: u32::from(on),
    };
    // SAFETY: all-zero bytes are a valid ifreq: an empty name and a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL takes an ifreq whose data points at an ethtool_value for these commands;
    // both live until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Loads an XDP program that passes every frame; with `frags`, which needs Linux 5.18, also those
/// that are larger than a page.
pub(super) fn load_pass_program(frags: bool) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 4],
        kernel_version: u32,
        flags: u32,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
    // r0 = XDP_PASS; exit
    let instructions = [0xb7_u64 | 2 << 32, 0x95];
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 4],
        kernel_version: 0,
        flags: if frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
    };
    // SAFETY: the attributes and what they point at live until the call returns.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<ProgLoad>(),
        )
    };
    match libc::c_int::try_from(descriptor) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}
