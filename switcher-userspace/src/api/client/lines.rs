//! An answer that is one JSON object per line, and does not end by itself.

use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::broken_off;
use crate::api::{
    WATCH_HEARTBEAT,
    types::{ApiError, ErrorCode},
};

/// Heartbeats that may be missing before the agent counts as gone.
const MISSED_HEARTBEATS: u32 = 3;

/// The lines of an answer.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    unread: Vec<u8>,
    /// What of it was read already.
    read: usize,
    longest: usize,
    socket: PathBuf,
    next_step: &'static str,
}

impl Lines {
    /// The lines of `body`, of at most `longest` bytes each; `next_step` is for whoever loses the agent
    /// meanwhile.
    pub(super) fn new(
        body: Incoming,
        longest: usize,
        socket: &Path,
        next_step: &'static str,
    ) -> Self {
        Self {
            body,
            longest,
            unread: Vec::new(),
            read: 0,
            socket: socket.to_owned(),
            next_step,
        }
    }

    /// The next line's object; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            if let Some(line) = self.take_line() {
                return serde_json::from_slice(line)
                    .map(Some)
                    .map_err(|error| broken_off(&self.socket, &error));
            }
            match self.read().await? {
                Some(bytes) => {
                    self.unread.drain(..self.read);
                    self.read = 0;
                    self.unread.extend_from_slice(&bytes);
                }
                None => return Ok(None),
            }
            // A whole line was taken above, so what is there is the part of one, and what just came.
            if self.unread.len() > self.longest && !self.unread.contains(&b'\n') {
                return Err(self.gone("sent a line that is longer than any that it has"));
            }
        }
    }

    fn take_line(&mut self) -> Option<&[u8]> {
        let rest = &self.unread[self.read..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        self.read += end + 1;
        Some(&rest[..end])
    }

    async fn read(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let silence = WATCH_HEARTBEAT * MISSED_HEARTBEATS;
            let Ok(frame) = timeout(silence, self.body.frame()).await else {
                return Err(self.gone(&format!("said nothing for {silence:?}")));
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

    /// The error of an agent that did `what`.
    pub(super) fn gone(&self, what: &str) -> ApiError {
        ApiError::new(
            ErrorCode::Unreachable,
            format!("the agent on {} {what}", self.socket.display()),
            self.next_step,
        )
    }
}
