//! `GET /v1/events`: each change as it becomes durable, as server-sent events (WHATWG HTML, 9.2).
//!
//! An event's id is its number in the history, so a client that comes back with `Last-Event-ID` misses
//! nothing that the history still has.

use std::{collections::VecDeque, convert::Infallible, fmt::Write as _, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast},
    time::sleep,
};

use super::{
    Control, WATCH_HEARTBEAT,
    history::HistoryEntry,
    routes::{Shared, answer, typed},
    stop::Stop,
    types::{ApiError, ErrorCode},
};

/// Entries that are there, and those that follow.
type Followed = (
    Vec<Arc<HistoryEntry>>,
    broadcast::Receiver<Arc<HistoryEntry>>,
);

/// Changes in their order, without a gap as long as the history has them.
pub struct EventFeed {
    /// Number of the newest one that was given out.
    newest: u64,
    ready: VecDeque<Arc<HistoryEntry>>,
    follows: broadcast::Receiver<Arc<HistoryEntry>>,
    follow: Box<dyn Fn(u64) -> Followed + Send>,
}

impl EventFeed {
    /// The changes after the one numbered `after`. `follow` gives those after a number.
    pub fn new(after: u64, follow: impl Fn(u64) -> Followed + Send + 'static) -> Self {
        let (ready, follows) = follow(after);
        Self {
            newest: after,
            ready: ready.into(),
            follows,
            follow: Box::new(follow),
        }
    }

    /// The next change; `None`: the agent has ended.
    pub async fn next(&mut self) -> Option<Arc<HistoryEntry>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.newest = entry.number;
                return Some(entry);
            }
            match self.follows.recv().await {
                Ok(entry) => self.ready.push_back(entry),
                // Too slow: the history has what was missed.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let (ready, follows) = (self.follow)(self.newest);
                    self.ready = ready.into();
                    self.follows = follows;
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

pub(super) async fn events<C: Control>(
    State(server): State<Arc<Shared<C>>>,
    headers: HeaderMap,
) -> Response {
    let after = match last_event_id(&headers) {
        Ok(after) => after,
        Err(error) => return answer::<()>(Err(error)),
    };
    let slot = match server.watcher() {
        Ok(slot) => slot,
        Err(error) => return answer::<()>(Err(error)),
    };
    let reader = Reader {
        feed: server.control().events(after),
        stop: server.stop(),
        is_new: true,
        _slot: slot,
    };
    let events = stream::unfold(reader, Reader::next_event);
    typed(
        StatusCode::OK,
        "text/event-stream",
        Body::from_stream(events),
    )
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        ApiError::new(
            ErrorCode::Usage,
            format!("the Last-Event-ID {value:?} is no number of an event"),
            "send back the id of the newest event, or no such header",
        )
    })
}

/// One client that reads. It is asked for an event only when the client has taken the one before.
struct Reader {
    feed: EventFeed,
    stop: Stop,
    is_new: bool,
    _slot: OwnedSemaphorePermit,
}

impl Reader {
    async fn next_event(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        // A comment at once, so that a client knows that whatever happens from now on is told.
        let text = if std::mem::take(&mut self.is_new) {
            ": listening\n\n".to_owned()
        } else {
            tokio::select! {
                entry = self.feed.next() => event(&*entry?),
                () = self.stop.requested() => return None,
                () = sleep(WATCH_HEARTBEAT) => ":\n\n".to_owned(),
            }
        };
        Some((Ok(text.into()), self))
    }
}

fn event(entry: &HistoryEntry) -> String {
    let data = serde_json::to_string(entry).unwrap_or_else(|error| {
        // A value that cannot be written is a defect; its number still says that it happened.
        tracing::error!(%error, "cannot serialize an event");
        "{}".to_owned()
    });
    let mut text = String::with_capacity(data.len() + 64);
    // Writing to a string cannot fail; JSON has no line breaks of its own.
    let _ = write!(
        text,
        "id: {}\nevent: {}\ndata: {data}\n\n",
        entry.number,
        entry.what.name()
    );
    text
}
