//! The writer's thread: brings the state to disk, so that a slow disk holds up no flip (G5).
//!
//! Of several states that wait, only the newest is kept and written; it holds all the others. So a disk that
//! stalls gathers nothing but entries of the history, of which there is a most. The configuration that a state
//! belongs to is kept before it: a state alone would forget services that the configuration before has.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use super::{
    applied::AppliedFile, configured::Configured, core::Command, history::HistoryFile,
    state_file::StateFile,
};
use crate::{
    api::{
        history::{HistoryEntry, MAX_ENTRIES},
        types::ApiError,
    },
    switching::Switchboard,
};

/// How long a stopping agent waits for the disk.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A state that waits to be written, and its number.
struct Order {
    number: u64,
    board: Switchboard,
    configured: Arc<Configured>,
    /// What has led to it, and to those that it was put in the place of.
    entries: VecDeque<HistoryEntry>,
}

/// What waits for the disk.
#[derive(Default)]
struct Waiting {
    newest: Option<Order>,
    /// Nothing will follow.
    is_last: bool,
}

/// Where it waits.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    /// Nobody panics with it in his hands.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, mut order: Order) {
        let mut waiting = self.lock();
        if let Some(before) = waiting.newest.take() {
            let mut entries = before.entries;
            entries.append(&mut order.entries);
            entries.drain(..entries.len().saturating_sub(MAX_ENTRIES));
            order.entries = entries;
        }
        waiting.newest = Some(order);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().is_last = true;
        self.changed.notify_one();
    }

    /// Waits for the next one; `None`: there will be none.
    fn take(&self) -> Option<Order> {
        let waiting = self.changed.wait_while(self.lock(), |waiting| {
            waiting.newest.is_none() && !waiting.is_last
        });
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        waiting.newest.take()
    }
}

/// The files, and what the disk has of the configuration.
pub(super) struct Files {
    pub(super) state: StateFile,
    pub(super) applied: AppliedFile,
    pub(super) kept: Arc<Configured>,
    pub(super) log: Log,
}

impl Files {
    fn write(&mut self, order: &Order) -> Result<(), ApiError> {
        if !Arc::ptr_eq(&self.kept, &order.configured) {
            self.applied.keep(&order.configured.kept)?;
            self.kept = order.configured.clone();
        }
        self.state.write(&order.board)?;
        self.log.write();
        Ok(())
    }
}

/// The history on its way to disk.
pub(super) struct Log {
    file: HistoryFile,
    /// The newest entries.
    kept: VecDeque<HistoryEntry>,
    /// Those that are not on disk.
    unwritten: Vec<HistoryEntry>,
}

impl Log {
    /// The log of `file`, which has `entries`.
    pub(super) fn new(file: HistoryFile, entries: Vec<HistoryEntry>) -> Self {
        Self {
            file,
            kept: entries.into(),
            unwritten: Vec::new(),
        }
    }

    fn add(&mut self, entries: VecDeque<HistoryEntry>) {
        self.kept.extend(entries.iter().cloned());
        self.kept
            .drain(..self.kept.len().saturating_sub(MAX_ENTRIES));
        self.unwritten.extend(entries);
        let too_many = self.unwritten.len().saturating_sub(MAX_ENTRIES);
        self.unwritten.drain(..too_many);
    }

    /// The history is no promise: a disk that refuses it holds up no answer.
    fn write(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        match self.file.append(&self.unwritten, &self.kept) {
            Ok(()) => self.unwritten.clear(),
            Err(error) => {
                tracing::error!(%error, "the history is not on disk; it is tried again with the next change");
            }
        }
    }
}

/// The disk's word on all states up to a number.
pub(super) struct Written {
    /// The newest state that it is about.
    pub(super) number: u64,
    /// That state.
    pub(super) board: Switchboard,
    /// What it belongs to.
    pub(super) configured: Arc<Configured>,
    /// Whether it is durable.
    pub(super) result: Result<(), ApiError>,
}

/// The way to the writer's thread.
pub(super) struct Writer {
    queue: Arc<Queue>,
    newest: u64,
    /// What the states that come belong to.
    configured: Arc<Configured>,
    /// Disconnected when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Writer {
    /// Starts the thread. It ends when the core does.
    pub(super) fn start(
        mut files: Files,
        core: tokio::sync::mpsc::Sender<Command>,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let orders = queue.clone();
        let configured = files.kept.clone();
        let (until_the_end, ended) = mpsc::channel();
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                let _until_the_end = until_the_end;
                while let Some(mut newest) = orders.take() {
                    files.log.add(std::mem::take(&mut newest.entries));
                    let written = Written {
                        number: newest.number,
                        result: files.write(&newest),
                        board: newest.board,
                        configured: newest.configured,
                    };
                    if core.blocking_send(Command::Written(written)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            queue,
            newest: 0,
            configured,
            ended,
        })
    }

    /// Hands a state over; [`Command::Written`] with this number or a higher one tells its end.
    pub(super) fn write(&mut self, board: &Switchboard, entries: &[HistoryEntry]) -> u64 {
        self.newest += 1;
        self.queue.put(Order {
            number: self.newest,
            board: board.clone(),
            configured: self.configured.clone(),
            entries: entries.iter().cloned().collect(),
        });
        self.newest
    }

    /// What states that are handed over now belong to.
    pub(super) fn configured(&self) -> &Configured {
        &self.configured
    }

    /// States that are handed over from now on belong to `configured`.
    pub(super) fn configure(&mut self, configured: Arc<Configured>) {
        self.configured = configured;
    }

    /// The number of the newest state that was handed over.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// Ends the thread when it has written what it has; waits for that at most [`END_LIMIT`].
    pub(super) fn finish(self) {
        self.queue.close();
        if self.ended.recv_timeout(END_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the disk does not answer; the newest state may not be on it");
        }
    }
}
