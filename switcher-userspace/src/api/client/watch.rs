//! The client's ends of answers that go on: a watched status, a trace.

use std::path::Path;

use hyper::body::Incoming;

use super::{MAX_ANSWER_BYTES, lines::Lines};
use crate::api::{
    trace::TraceLine,
    types::{ApiError, StatusReply},
};

/// Longest line of a trace; one takes some hundred bytes.
const MAX_PACKET_BYTES: usize = 64 * 1024;

/// The status as it changes.
#[derive(Debug)]
pub struct StatusWatch {
    lines: Lines,
}

impl StatusWatch {
    pub(super) fn new(body: Incoming, socket: &Path) -> Self {
        let next_step = "what was begun goes on: look again when the agent runs";
        Self {
            lines: Lines::new(body, MAX_ANSWER_BYTES, socket, next_step),
        }
    }

    /// The next status, the first one at once. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<StatusReply, ApiError> {
        let line = self.lines.next().await?;
        line.ok_or_else(|| self.lines.gone("stopped while its status was watched"))
    }
}

/// Packets as they are decided about.
#[derive(Debug)]
pub struct TraceWatch {
    lines: Lines,
}

impl TraceWatch {
    pub(super) fn new(body: Incoming, socket: &Path) -> Self {
        let next_step = "trace again when the agent runs";
        Self {
            lines: Lines::new(body, MAX_PACKET_BYTES, socket, next_step),
        }
    }

    /// The next line. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<TraceLine, ApiError> {
        let line = self.lines.next().await?;
        line.ok_or_else(|| self.lines.gone("stopped while packets were traced"))
    }
}
