//! Hooks: commands of the configuration that are run for entries of the history.
//!
//! They are fed by what readers of the history see, so nothing that switches waits for them. An entry's
//! hooks are run by the agent that made it, once; those that one left that was killed are not made up for.

mod run;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast::error::RecvError, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::run::{Job, run};
use super::history::History;
use crate::{
    api::history::{HistoryEntry, What},
    config::{Config, HookEvent},
};

/// Commands that run at once.
const MAX_RUNNING: usize = 4;
/// Commands that wait for one of those to end; further ones are dropped.
const MAX_WAITING: usize = 64;
/// How long the agent's end waits for commands at most, if their own time is not over before.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What an entry is to hooks.
fn event_of(entry: &HistoryEntry) -> Option<HookEvent> {
    match entry.what {
        What::Health if entry.health.as_ref()?.is_healthy => Some(HookEvent::Recovery),
        What::Health => Some(HookEvent::Ejection),
        What::DrainEnded => Some(HookEvent::DrainEnd),
        What::Failover | What::Failback | What::Revert | What::Unconfirmed => {
            Some(HookEvent::Failover)
        }
        What::AlarmRaised | What::AlarmCleared => Some(HookEvent::Alarm),
        What::Flip
        | What::Rollback
        | What::Confirm
        | What::Split
        | What::Promote
        | What::Abort
        | What::Pause
        | What::Resume
        | What::ExtendDrain
        | What::FinishDrain
        | What::DrainBackend
        | What::ResumeBackend
        | What::Apply
        | What::PauseEnded
        | What::RemovalEnded
        | What::FailoverEnabled
        | What::FailoverDisabled
        | What::Drill
        | What::DrillEnded => None,
    }
}

/// The jobs of a node's hooks.
pub(super) struct Hooks {
    history: Arc<History>,
    /// The configuration that holds.
    config: Box<dyn Fn() -> Arc<Config> + Send>,
    /// Newest entry that was seen.
    seen: u64,
    jobs: Jobs,
}

impl Hooks {
    /// Hooks for the entries that follow the newest one of `history`.
    pub(super) fn new(
        history: Arc<History>,
        config: impl Fn() -> Arc<Config> + Send + 'static,
    ) -> Self {
        if let Err(error) = keep_descriptors() {
            tracing::warn!(%error, "hooks inherit what the agent has inherited");
        }
        Self {
            seen: history.next_number() - 1,
            history,
            config: Box::new(config),
            jobs: Jobs::default(),
        }
    }

    /// Runs hooks until `stop`, and then those that are left, for a bounded time.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            let (missed, mut events) = self.history.follow(self.seen);
            for entry in missed {
                self.take(&entry);
            }
            // Behind by too much: the history still has it.
            let is_stopped = loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(entry) => self.take(&entry),
                        Err(RecvError::Lagged(_)) => break false,
                        Err(RecvError::Closed) => break true,
                    },
                    () = self.jobs.one_ends() => {}
                    _ = &mut stop => break true,
                }
            };
            if is_stopped {
                break;
            }
        }
        for entry in self.history.follow(self.seen).0 {
            self.take(&entry);
        }
        self.jobs.end().await;
    }

    fn take(&mut self, entry: &Arc<HistoryEntry>) {
        if entry.number <= self.seen {
            return;
        }
        self.seen = entry.number;
        let Some(event) = event_of(entry) else { return };
        let config = (self.config)();
        for hook in &config.agent.hooks {
            if hook.on.contains(&event) {
                self.jobs.add(Job {
                    hook: hook.clone(),
                    event,
                    entry: entry.clone(),
                    socket: config.agent.socket.clone(),
                });
            }
        }
    }
}

/// Keeps descriptors from commands that whoever started the agent has left open; its own are kept anyway.
fn keep_descriptors() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: a flag of descriptors is set, none is closed.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Commands that run, and those that wait.
#[derive(Default)]
struct Jobs {
    running: JoinSet<()>,
    waiting: VecDeque<Job>,
    /// Since the agent's start.
    dropped: u64,
    /// The longest time that one of them may take.
    longest: Duration,
}

impl Jobs {
    /// Takes a command in. Where too many wait, what tells of a single backend or drain gives way to what tells of
    /// a service.
    fn add(&mut self, job: Job) {
        let is_minor = |job: &Job| !matches!(job.event, HookEvent::Failover | HookEvent::Alarm);
        if self.waiting.len() >= MAX_WAITING {
            let minor = self.waiting.iter().position(is_minor);
            let dropped = match minor.filter(|_| !is_minor(&job)) {
                Some(at) => self.waiting.remove(at),
                None => None,
            };
            let is_taken = dropped.is_some();
            let dropped = dropped.unwrap_or_else(|| job.clone());
            self.dropped += 1;
            tracing::error!(
                command = ?dropped.hook.command,
                entry = dropped.entry.number,
                dropped = self.dropped,
                "a hook is not run: {MAX_RUNNING} run and {MAX_WAITING} wait; make them faster, or their timeout shorter"
            );
            if !is_taken {
                return;
            }
        }
        self.longest = self.longest.max(job.hook.timeout.into());
        self.waiting.push_back(job);
        self.begin();
    }

    fn begin(&mut self) {
        while self.running.len() < MAX_RUNNING
            && let Some(job) = self.waiting.pop_front()
        {
            self.running.spawn(run(job));
        }
    }

    /// Ready when a command has ended; never while none runs.
    async fn one_ends(&mut self) {
        match self.running.join_next().await {
            Some(_) => self.begin(),
            None => std::future::pending().await,
        }
    }

    /// Runs what is left for a while, and kills the rest.
    async fn end(mut self) {
        let until = Instant::now() + self.longest.min(END_PATIENCE);
        while !self.running.is_empty() {
            tokio::select! {
                () = self.one_ends() => {}
                () = sleep_until(until) => {
                    let (running, waiting) = (self.running.len(), self.waiting.len());
                    tracing::error!(running, waiting, "the agent ends, and with it the hooks that are left");
                    return self.running.shutdown().await;
                }
            }
        }
    }
}
