//! The writer's thread: brings the state to disk, so that a slow disk holds up no flip (G5).
//!
//! When several states wait, only the newest is written; it holds all the others.

use std::{io, sync::mpsc, thread, time::Duration};

use super::{core::Command, state_file::StateFile};
use crate::{api::types::ApiError, switching::Switchboard};

/// How long a stopping agent waits for the disk.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A state that waits to be written, and its number.
struct Order {
    number: u64,
    board: Switchboard,
}

/// The disk's word on all states up to a number.
pub(super) struct Written {
    /// The newest state that it is about.
    pub(super) number: u64,
    /// That state.
    pub(super) board: Switchboard,
    /// Whether it is durable.
    pub(super) result: Result<(), ApiError>,
}

/// The way to the writer's thread.
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    newest: u64,
    /// Disconnected when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Writer {
    /// Starts the thread. It ends when the core does.
    pub(super) fn start(
        file: StateFile,
        core: tokio::sync::mpsc::Sender<Command>,
    ) -> io::Result<Self> {
        let (orders, received) = mpsc::channel::<Order>();
        let (until_the_end, ended) = mpsc::channel();
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                let _until_the_end = until_the_end;
                while let Ok(first) = received.recv() {
                    let newest = received.try_iter().last().unwrap_or(first);
                    let written = Written {
                        number: newest.number,
                        result: file.write(&newest.board),
                        board: newest.board,
                    };
                    if core.blocking_send(Command::Written(written)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            orders,
            newest: 0,
            ended,
        })
    }

    /// Hands a state over; [`Command::Written`] with this number or a higher one tells its end.
    ///
    /// The queue has no bound of its own: each entry belongs to a request that waits for its answer,
    /// and the API bounds those.
    pub(super) fn write(&mut self, board: &Switchboard) -> u64 {
        self.newest += 1;
        let order = Order {
            number: self.newest,
            board: board.clone(),
        };
        // The thread lives as long as the core takes its commands.
        let _ = self.orders.send(order);
        self.newest
    }

    /// The number of the newest state that was handed over.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// Ends the thread when it has written what it has; waits for that at most [`END_LIMIT`].
    pub(super) fn finish(self) {
        drop(self.orders);
        if self.ended.recv_timeout(END_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the disk does not answer; the newest state may not be on it");
        }
    }
}
