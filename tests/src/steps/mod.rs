//! Killing a process at its every step: before each system call that changes something which
//! outlives it, one after the other.

mod name;
pub(crate) mod notify;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use self::{
    name::Names,
    notify::{Filter, let_go, next_call},
};

/// What a process does that outlives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Name of the thread.
    pub thread: String,
    /// The call and what it is about, such as `bpf MAP_UPDATE_ELEM SWITCH`.
    pub call: String,
    /// How many of the same came before, since [`Watch::arm`]. Always 0 in threads that are not
    /// [`Watch::counting`].
    pub nth: u32,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.thread, self.call)?;
        if self.nth > 0 {
            write!(f, " (again, {})", self.nth)?;
        }
        Ok(())
    }
}

/// Watches the steps of processes, one process after the other, and kills where it was told to.
pub struct Watch {
    names: Names,
    counting: &'static [&'static str],
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    /// Threads that are killed at their steps; none: the watch is not armed.
    threads: &'static [&'static str],
    /// Where a process was killed before.
    before: BTreeSet<Step>,
    counts: BTreeMap<(String, String), u32>,
    seen: Vec<Step>,
    killed: Option<Step>,
}

/// What came of an armed watch.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Where the process was killed: before this step was made. `None`: it took no new step.
    pub killed: Option<Step>,
    /// All steps since [`Watch::arm`], the one of the kill too.
    pub seen: Vec<Step>,
}

impl Watch {
    /// Of an agent: changes of BPF objects, and of files and directories below `dirs`.
    #[must_use]
    pub fn of_agent(dirs: Vec<PathBuf>) -> Arc<Self> {
        Self::new(Names::changes(dirs), &["core", "writer"])
    }

    /// Of a command: what it asks others to do, by requests and by processes.
    #[must_use]
    pub fn of_command() -> Arc<Self> {
        Self::new(Names::requests(), &["switcher"])
    }

    /// `counting`: threads whose steps come in a fixed order.
    fn new(names: Names, counting: &'static [&'static str]) -> Arc<Self> {
        Arc::new(Self {
            names,
            counting,
            plan: Mutex::default(),
        })
    }

    /// From now on the process is killed when one of `threads` comes to a step at which none was killed
    /// before.
    pub fn arm(&self, threads: &'static [&'static str]) {
        let mut plan = self.plan();
        plan.threads = threads;
        plan.counts.clear();
        plan.seen.clear();
        plan.killed = None;
    }

    /// From now on no process is killed; what came of it since [`Self::arm`].
    pub fn disarm(&self) -> Outcome {
        let mut plan = self.plan();
        plan.threads = &[];
        Outcome {
            killed: plan.killed.take(),
            seen: std::mem::take(&mut plan.seen),
        }
    }

    /// Forgets where processes were killed.
    pub fn forget(&self) {
        self.plan().before.clear();
    }

    /// Makes the child of `command` a process that is watched from its first instruction on, by the
    /// supervisor that is then started.
    pub(crate) fn over(self: &Arc<Self>, command: &mut Command) -> Result<Supervisor> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("making a socket pair")?;
        let mut filter = Filter::of(self.names.calls())?;
        let prepare = move || {
            let listener = filter.install()?;
            send(&theirs, &listener)
        };
        // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(prepare) };
        Ok(Supervisor {
            watch: self.clone(),
            socket: ours,
        })
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        // Nothing panics half-way through a change of it.
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process is to be killed instead of making this call.
    fn must_die(&self, process: u32, call: &libc::seccomp_notif) -> bool {
        if self.plan().threads.is_empty() {
            return false;
        }
        let Some((thread, call)) = self.names.of(process, call) else {
            return false;
        };
        let mut plan = self.plan();
        if plan.killed.is_some() {
            return true;
        }
        if !plan.threads.contains(&thread.as_str()) {
            return false;
        }
        let mut nth = 0;
        if self.counting.contains(&thread.as_str()) {
            let count = plan
                .counts
                .entry((thread.clone(), call.clone()))
                .or_default();
            nth = *count;
            *count += 1;
        }
        let step = Step { thread, call, nth };
        plan.seen.push(step.clone());
        if plan.before.contains(&step) {
            return false;
        }
        plan.before.insert(step.clone());
        plan.killed = Some(step);
        true
    }
}

/// Watches one process, once that is started.
pub(crate) struct Supervisor {
    watch: Arc<Watch>,
    socket: OwnedFd,
}

impl Supervisor {
    /// Supervises the process `id`, which runs the prepared command, until its end.
    pub(crate) fn start(self, id: u32) -> Result<()> {
        let listener = receive(&self.socket).context("taking over a process's system calls")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("a process id out of range")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).context("opening a handle on it")?;
        let supervise = move || -> Result<()> {
            while let Some(call) = next_call(&listener)? {
                if self.watch.must_die(id, &call) {
                    // One that has ended needs no signal.
                    let _ = pidfd_send_signal(process.as_fd(), Signal::KILL);
                } else {
                    let_go(&listener, call.id)?;
                }
            }
            Ok(())
        };
        thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                // Without it the process's calls fail, and so does the test, with this beside it.
                if let Err(error) = supervise() {
                    eprintln!("the supervisor of process {id} ended: {error:#}");
                }
            })
            .context("starting a supervisor")?;
        Ok(())
    }
}

/// Sends a descriptor; allocates nothing.
fn send(socket: &OwnedFd, descriptor: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[IoSlice::new(b"x")],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut messages = ancillary.drain();
    let descriptor = messages.find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.context("the process sent none")
}
