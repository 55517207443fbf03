//! The client's end of a watched drain: one JSON object per line.

use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;

use super::broken_off;
use crate::api::{
    WATCH_HEARTBEAT,
    types::{ApiError, DrainStatus, ErrorCode},
};

/// Longest line that is accepted; a drain takes some hundred bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Heartbeats that may be missing before the agent counts as gone.
const MISSED_HEARTBEATS: u32 = 3;

/// A drain as it proceeds.
#[derive(Debug)]
pub struct DrainWatch {
    body: Incoming,
    unread: Vec<u8>,
    ended: bool,
    socket: PathBuf,
}

impl DrainWatch {
    pub(super) fn new(body: Incoming, socket: &Path) -> Self {
        Self {
            body,
            unread: Vec::new(),
            ended: true,
            socket: socket.to_owned(),
        }
    }

    /// The drain's next state; `None` after the one in which it has ended, or at once when no
    /// drain ran yet. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<DrainStatus>, ApiError> {
        loop {
            if let Some(line) = self.take_line() {
                let drain: DrainStatus = serde_json::from_slice(&line)
                    .map_err(|error| broken_off(&self.socket, &error))?;
                self.ended = drain.ended.is_some();
                return Ok(Some(drain));
            }
            match self.read().await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.ended => return Ok(None),
                None => return Err(self.stopped("stopped while the drain was watched")),
            }
            if self.unread.len() > MAX_LINE_BYTES {
                return Err(self.stopped("sent a line that is longer than any drain's"));
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        Some(self.unread.drain(..=end).collect())
    }

    async fn read(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let silence = WATCH_HEARTBEAT * MISSED_HEARTBEATS;
            let Ok(frame) = timeout(silence, self.body.frame()).await else {
                return Err(self.stopped(&format!("said nothing for {silence:?}")));
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken_off(&self.socket, &error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    fn stopped(&self, what: &str) -> ApiError {
        ApiError::new(
            ErrorCode::Unreachable,
            format!(
                "the agent on {} {what}; the drain goes on",
                self.socket.display()
            ),
            "wait again with `switcher drain SERVICE --wait` when the agent runs",
        )
    }
}
