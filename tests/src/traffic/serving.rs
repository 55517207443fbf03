//! The tasks of a server, and their end.

use std::convert::Infallible;
use std::sync::mpsc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

/// Tasks that stop when cancelled have nothing to wait for, but for a turn on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

/// What keeps the tasks of a server running: they are told to end when it is dropped.
pub(super) struct Serving {
    stop: DropGuard,
    ended: mpsc::Receiver<Infallible>,
}

impl Serving {
    /// No tasks yet; what spawns them is handed out with it.
    pub(super) fn new() -> (Self, Tasks) {
        let stop = CancellationToken::new();
        let (alive, ended) = mpsc::channel();
        let serving = Self {
            stop: stop.clone().drop_guard(),
            ended,
        };
        (serving, Tasks { stop, alive })
    }

    /// Ends the tasks and waits until their sockets are closed. Not for a thread that runs them.
    pub(super) fn end(self) {
        drop(self.stop);
        // Nothing is ever sent: this returns when the last task has dropped its end.
        let _ = self.ended.recv_timeout(LIMIT);
    }
}

/// Spawns the tasks of a server.
#[derive(Clone)]
pub(super) struct Tasks {
    stop: CancellationToken,
    alive: mpsc::Sender<Infallible>,
}

impl Tasks {
    /// Runs `task` on the runtime of the caller until the server ends.
    pub(super) fn spawn<T: Future + Send + 'static>(&self, task: T) {
        let running = self.stop.clone().run_until_cancelled_owned(task);
        let alive = self.alive.clone();
        tokio::spawn(async move {
            running.await;
            drop(alive);
        });
    }
}
