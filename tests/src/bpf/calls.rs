//! Stopping a thread before each of its bpf(2) calls (`seccomp_unotify(2)`), so that a test can look
//! at what packets see between any two of them.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};

/// `_IOWR('!', 0, struct seccomp_notif)`
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
/// `_IOWR('!', 1, struct seccomp_notif_resp)`
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// Runs `work` on a thread of its own, and `between` whenever that is about to make a bpf(2) call,
/// with the number of calls that it has made. Returns the result of `work` and the number of calls.
///
/// After an error of `between` the work runs on to its end undisturbed.
pub fn between_bpf_calls<T: Send>(
    work: impl FnOnce() -> Result<T> + Send,
    mut between: impl FnMut(usize) -> Result<()>,
) -> Result<(T, usize)> {
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        let worker = scope.spawn(move || {
            let listener = notify_of_bpf().context("asking to be stopped before bpf(2) calls")?;
            // The receiver waits below.
            let _ = sender.send(listener);
            work()
        });
        let mut calls = 0;
        let mut seen = Ok(());
        if let Ok(listener) = receiver.recv() {
            while let Some(id) = next_call(&listener)? {
                if seen.is_ok() {
                    seen = between(calls);
                }
                let_go(&listener, id)?;
                calls += 1;
            }
        }
        let result = worker
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the watched thread panicked, see above")));
        seen?;
        Ok((result?, calls))
    })
}

/// Makes every later bpf(2) call of this thread wait for the holder of the descriptor.
fn notify_of_bpf() -> io::Result<OwnedFd> {
    let number = u32::try_from(mem::offset_of!(libc::seccomp_data, nr));
    let number = number.map_err(io::Error::other)?;
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        // The codes of classic BPF fit 16 bits.
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    };
    let bpf = u32::try_from(libc::SYS_bpf).map_err(io::Error::other)?;
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, bpf, 0, 1),
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_USER_NOTIF,
            0,
            0,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
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
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for the next call; `None` when the thread has ended.
fn next_call(listener: &OwnedFd) -> Result<Option<u64>> {
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut ready, None).context("waiting for a bpf(2) call")?;
    if !ready[0].revents().contains(PollFlags::IN) {
        return Ok(None);
    }
    // SAFETY: plain integers; the kernel asks for zeros.
    let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: the request takes a structure of this type.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut call) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("receiving a bpf(2) call");
    }
    Ok(Some(call.id))
}

/// Lets a call be made.
fn let_go(listener: &OwnedFd, id: u64) -> Result<()> {
    let mut answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE)?,
    };
    // SAFETY: the request takes a structure of this type.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw mut answer) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("letting a bpf(2) call go on");
    }
    Ok(())
}
