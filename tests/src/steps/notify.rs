//! Being asked before a system call is made (`seccomp_unotify(2)`).

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};

/// `_IOWR('!', 0, struct seccomp_notif)`
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
/// `_IOWR('!', 1, struct seccomp_notif_resp)`
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// Which system calls wait for permission.
pub(crate) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// All calls with one of these numbers.
    pub(crate) fn of(calls: impl IntoIterator<Item = libc::c_long>) -> Result<Self> {
        let number = u32::try_from(mem::offset_of!(libc::seccomp_data, nr))?;
        let mut filter = vec![statement(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            number,
            0,
        )];
        for call in calls {
            let call = u32::try_from(call).context("the number of a system call")?;
            // Each number by itself: one too many to jump over is one statement.
            filter.push(statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                call,
                1,
            ));
            filter.push(statement(
                libc::BPF_RET | libc::BPF_K,
                libc::SECCOMP_RET_USER_NOTIF,
                0,
            ));
        }
        filter.push(statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ALLOW,
            0,
        ));
        Ok(Self(filter))
    }

    /// From now on such calls of this thread, and of all that it starts, wait for the holder of the
    /// descriptor. Makes one system call and allocates nothing.
    pub(crate) fn install(&mut self) -> io::Result<OwnedFd> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            filter: self.0.as_mut_ptr(),
        };
        // SAFETY: a valid program, which the kernel copies; the filter is this thread's alone.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// `jump` is over so many statements where a comparison fails.
fn statement(code: u32, k: u32, jump: u8) -> libc::sock_filter {
    libc::sock_filter {
        // The codes of classic BPF fit 16 bits.
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: 0,
        jf: jump,
        k,
    }
}

/// Waits for the next call; `None` when all threads have ended that could make one.
pub(crate) fn next_call(listener: &OwnedFd) -> Result<Option<libc::seccomp_notif>> {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.context("waiting for a system call")?,
        };
        if !ready[0].revents().contains(PollFlags::IN) {
            return Ok(None);
        }
        // SAFETY: plain integers; the kernel asks for zeros.
        let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
        // SAFETY: the request takes a structure of this type.
        let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut call) };
        if result == 0 {
            return Ok(Some(call));
        }
        let error = io::Error::last_os_error();
        // Its thread was killed meanwhile.
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) {
            return Err(error).context("receiving a system call");
        }
    }
}

/// Lets a call be made. One whose thread was killed meanwhile is no error.
pub(crate) fn let_go(listener: &OwnedFd, id: u64) -> Result<()> {
    let mut answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE)?,
    };
    // SAFETY: the request takes a structure of this type.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw mut answer) };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() != Some(libc::ENOENT) {
        return Err(error).context("letting a system call go on");
    }
    Ok(())
}
