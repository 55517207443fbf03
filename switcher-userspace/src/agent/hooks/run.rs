//! One command of a hook, from its start to the end of all that it has started.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, unix::AsyncFd},
    process::{Child, ChildStderr, Command},
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    api::history::HistoryEntry,
    config::{HookConfig, HookEvent},
};

/// Of the last line that a command writes to standard error, so much is told.
const MAX_LINE_BYTES: usize = 512;
/// How long what was written before the end is read; somebody outside the command's group may hold the pipe.
const READ_PATIENCE: Duration = Duration::from_millis(100);

/// A command that is due.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) hook: HookConfig,
    pub(super) event: HookEvent,
    pub(super) entry: Arc<HistoryEntry>,
    /// The agent's, for commands that ask it.
    pub(super) socket: PathBuf,
}

/// How a command went that could be started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended by itself.
    Ended(ExitStatus),
    /// It took too long.
    Killed,
}

/// Runs a job, and tells the log how it went.
pub(super) async fn run(job: Job) {
    let Job { hook, entry, .. } = &job;
    let (command, number, event) = (&hook.command, entry.number, job.event.name());
    let mut last_line = LastLine::default();
    match carry_out(&job, &mut last_line).await {
        Ok(Outcome::Ended(status)) if status.success() => {
            tracing::info!(?command, entry = number, event, "a hook has run");
        }
        Ok(Outcome::Ended(status)) => {
            let last_line = last_line.text();
            tracing::error!(?command, entry = number, event, %status, last_line, "a hook has failed");
        }
        Ok(Outcome::Killed) => {
            let (limit, last_line) = (hook.timeout, last_line.text());
            tracing::error!(?command, entry = number, event, %limit, last_line, "a hook took too long, and was killed");
        }
        Err(error) => {
            tracing::error!(?command, entry = number, event, %error, "a hook cannot be run");
        }
    }
}

/// Runs a job for its time at most.
pub(super) async fn carry_out(job: &Job, last_line: &mut LastLine) -> io::Result<Outcome> {
    let limit = if cfg!(mutant = "hook-without-limit") {
        Duration::from_hours(24)
    } else {
        job.hook.timeout.into()
    };
    let until = Instant::now() + limit;
    let input = serde_json::to_vec(&*job.entry)?;
    let mut command = command(job)?;
    // Looking up a path on a file system that hangs must not hold up the event loop.
    let spawned = spawn_blocking(move || command.spawn());
    let Ok(spawned) = timeout_at(until, spawned).await else {
        return Ok(Outcome::Killed);
    };
    let mut running = Running::of(spawned.map_err(io::Error::other)??)?;
    let talk = running.talk(input, last_line);
    let is_over = timeout_at(until, talk).await.is_ok();
    let status = running.end().await?;
    running.read_rest(last_line).await;
    Ok(if is_over {
        Outcome::Ended(status)
    } else {
        Outcome::Killed
    })
}

fn command(job: &Job) -> io::Result<Command> {
    let (program, arguments) = job
        .hook
        .command
        .split_first()
        .ok_or_else(|| io::Error::other("it has no command"))?;
    let entry = &job.entry;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("SWITCHER_EVENT", job.event.name())
        .env("SWITCHER_WHAT", entry.what.name())
        .env("SWITCHER_ENTRY", entry.number.to_string())
        .env("SWITCHER_SERVICES", entry.services.join(" "))
        .env("SWITCHER_REASON", entry.reason.as_deref().unwrap_or(""))
        .env("SWITCHER_SOCKET", &job.socket)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own, so that what it has started ends with it.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(health) = &entry.health {
        command.env("SWITCHER_BACKEND", health.backend.to_string());
    }
    Ok(command)
}

/// A command that was started. Its whole group is killed when this is dropped.
struct Running {
    child: Child,
    /// The leader's process, not yet waited for: until then no other group can have its id.
    group: Option<Pid>,
    /// Readable when the leader has ended.
    leader: AsyncFd<OwnedFd>,
    stderr: Option<ChildStderr>,
}

impl Running {
    fn of(mut child: Child) -> io::Result<Self> {
        let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let group = id.ok_or_else(|| io::Error::other("it has no process id"))?;
        let leader = pidfd_open(group, PidfdFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` is the same descriptor for as long as it lives.
        let leader = unsafe { AsyncFd::register(leader) }?;
        Ok(Self {
            stderr: child.stderr.take(),
            child,
            group: Some(group),
            leader,
        })
    }

    /// Writes `input` and reads what it says, until it has ended.
    async fn talk(&mut self, input: Vec<u8>, last_line: &mut LastLine) {
        let stdin = self.child.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // It need not read it.
                let _ = stdin.write_all(&input).await;
            }
            std::future::pending::<()>().await;
        };
        let stderr = &mut self.stderr;
        let read = async {
            if let Some(stderr) = stderr {
                last_line.read(stderr).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = self.leader.readable() => {}
            () = write => {}
            () = read => {}
        }
    }

    /// Ends what is left of it; how its leader has ended.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.child.wait().await
    }

    async fn read_rest(&mut self, last_line: &mut LastLine) {
        if let Some(stderr) = &mut self.stderr {
            let _ = timeout(READ_PATIENCE, last_line.read(stderr)).await;
        }
    }

    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            // All of it may have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last line of a text, or the one before if it is empty; bounded.
#[derive(Debug, Default)]
pub(super) struct LastLine {
    line: Vec<u8>,
    is_ended: bool,
}

impl LastLine {
    async fn read(&mut self, stderr: &mut ChildStderr) {
        let mut part = [0; 1_024];
        while let Ok(len @ 1..) = stderr.read(&mut part).await {
            part[..len].iter().for_each(|byte| self.push(*byte));
        }
    }

    fn push(&mut self, byte: u8) {
        if byte == b'\n' {
            self.is_ended = true;
            return;
        }
        if std::mem::take(&mut self.is_ended) {
            self.line.clear();
        }
        if self.line.len() < MAX_LINE_BYTES {
            self.line.push(byte);
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }
}
