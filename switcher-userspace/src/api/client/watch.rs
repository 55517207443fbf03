//! The client's ends of answers that go on: a watched status, a trace, a list of flows.

use std::path::Path;

use hyper::body::Incoming;

use super::{MAX_ANSWER_BYTES, lines::Lines};
use crate::api::{
    flows::FlowsLine,
    trace::TraceLine,
    types::{ApiError, StatusReply},
};

/// Longest line of a packet or a flow; one takes some hundred bytes.
const MAX_SHORT_BYTES: usize = 64 * 1024;

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
            lines: Lines::new(body, MAX_SHORT_BYTES, socket, next_step),
        }
    }

    /// The next line. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<TraceLine, ApiError> {
        let line = self.lines.next().await?;
        line.ok_or_else(|| self.lines.gone("stopped while packets were traced"))
    }
}

/// Flows as they are read.
#[derive(Debug)]
pub struct FlowList {
    lines: Lines,
}

impl FlowList {
    pub(super) fn new(body: Incoming, socket: &Path) -> Self {
        let next_step = "list them again when the agent runs";
        Self {
            lines: Lines::new(body, MAX_SHORT_BYTES, socket, next_step),
        }
    }

    /// The next line; there is none behind one that is no flow. A list that broke off is an error.
    pub async fn next(&mut self) -> Result<FlowsLine, ApiError> {
        match self.lines.next().await? {
            Some(FlowsLine::Failed { error }) => Err(error),
            Some(line) => Ok(line),
            None => Err(self.lines.gone("stopped while flows were listed")),
        }
    }
}
