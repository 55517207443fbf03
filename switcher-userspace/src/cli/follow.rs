//! What all verbs share that show something as long as nobody ends them.

use std::{io, ops::ControlFlow};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Console;
use crate::api::types::{ApiError, ErrorCode};

/// The signals that end such a verb with success.
pub(super) struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    /// Catches them from now on.
    pub(super) fn catch() -> Result<Self, ApiError> {
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
        })
    }

    /// Ready when somebody ends the verb.
    pub(super) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn caught(kind: SignalKind) -> Result<Signal, ApiError> {
    signal(kind).map_err(|error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("cannot catch the signal that ends the command: {error}"),
            "free file descriptors or raise their limit, then try again",
        )
    })
}

/// Writes a line to standard output; breaks when its reader has left (`| head`), who has what it wanted.
pub(super) fn show(console: &mut Console<'_>, text: &str) -> Result<ControlFlow<()>, ApiError> {
    match console.line(text) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(ApiError::new(
            ErrorCode::Internal,
            format!("cannot write to standard output: {error}"),
            "mend what standard output leads to, then try again",
        )),
    }
}

/// A line of JSON.
pub(super) fn in_json(line: &impl serde::Serialize) -> Result<String, ApiError> {
    serde_json::to_string(line).map_err(|error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("cannot write a line as JSON: {error}"),
            "report this defect",
        )
    })
}
