//! The client's ends of answers that go on: a watched drain, a trace.

use std::path::Path;

use hyper::body::Incoming;

use super::lines::Lines;
use crate::api::{
    trace::TraceLine,
    types::{ApiError, DrainStatus},
};

/// A drain as it proceeds.
#[derive(Debug)]
pub struct DrainWatch {
    lines: Lines,
    ended: bool,
}

impl DrainWatch {
    pub(super) fn new(body: Incoming, socket: &Path) -> Self {
        let next_step = "the drain goes on: wait again with `switcher drain SERVICE --wait` when the \
                         agent runs";
        Self {
            lines: Lines::new(body, socket, next_step),
            ended: true,
        }
    }

    /// The drain's next state; `None` after the one in which it has ended, or at once when no
    /// drain ran yet. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<DrainStatus>, ApiError> {
        match self.lines.next::<DrainStatus>().await? {
            Some(drain) => {
                self.ended = drain.ended.is_some();
                Ok(Some(drain))
            }
            None if self.ended => Ok(None),
            None => Err(self.lines.gone("stopped while the drain was watched")),
        }
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
            lines: Lines::new(body, socket, next_step),
        }
    }

    /// The next line. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<TraceLine, ApiError> {
        let line = self.lines.next().await?;
        line.ok_or_else(|| self.lines.gone("stopped while packets were traced"))
    }
}
