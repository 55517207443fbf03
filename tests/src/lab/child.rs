//! A process inside the lab, as a guard.

use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process inside the lab; dropping it kills and reaps it.
pub struct LabChild {
    child: Child,
    handle: OwnedFd,
    what: String,
}

impl LabChild {
    pub(super) fn new(mut child: Child, what: String) -> Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let handle = pid
            .context("a process id out of range")
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        match handle {
            Ok(handle) => Ok(Self {
                child,
                handle,
                what,
            }),
            Err(error) => {
                // Not to leave it running without a guard; it may have ended already.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("opening a handle on {what}")))
            }
        }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard library's handle, for the pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends SIGTERM: asks the process to end orderly.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    /// Sends SIGSTOP: the kernel goes on to accept connections, and nobody answers them.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Sends SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGKILL and reaps the process.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.child
            .wait()
            .with_context(|| format!("waiting for the end of {}", self.what))
    }

    /// Waits at most `limit` for the end of the process; `None` when it still runs then.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let limit = Timespec::try_from(limit).context("a waiting time out of range")?;
        let mut ended = [PollFd::new(&self.handle, PollFlags::IN)];
        let events = poll(&mut ended, Some(&limit))
            .with_context(|| format!("waiting for the end of {}", self.what))?;
        if events == 0 {
            return Ok(None);
        }
        let status = self
            .child
            .wait()
            .with_context(|| format!("reaping {}", self.what))?;
        Ok(Some(status))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            // A process that has ended needs no signal.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("signalling {}", self.what)),
        }
    }
}

impl Drop for LabChild {
    fn drop(&mut self) {
        // Either fails only for a process that was reaped before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
