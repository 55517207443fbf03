//! `GET /v1/trace`: a line for each packet, as long as the client stays.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use futures_util::stream;
use tokio::time::sleep;

use super::{
    Control, WATCH_HEARTBEAT,
    routes::{Shared, answer, query, typed},
    stop::Stop,
    trace::{TraceFeed, TraceLine, TraceRequest},
};

pub(super) async fn trace<C: Control>(
    State(server): State<Arc<Shared<C>>>,
    request: Result<Query<TraceRequest>, QueryRejection>,
) -> Response {
    let feed = match feed(&server, request).await {
        Ok(feed) => feed,
        Err(error) => return answer::<()>(Err(error)),
    };
    let reader = Reader {
        feed,
        stop: server.stop(),
        is_new: true,
    };
    let lines = stream::unfold(reader, Reader::next_line);
    typed(
        StatusCode::OK,
        "application/x-ndjson",
        Body::from_stream(lines),
    )
}

async fn feed<C: Control>(
    server: &Shared<C>,
    request: Result<Query<TraceRequest>, QueryRejection>,
) -> Result<TraceFeed, super::types::ApiError> {
    let request = query(request)?;
    request.check()?;
    server.control().trace(request).await
}

/// One client that reads. It is asked for a line only when the client has taken the one before; what
/// does not fit into its queue meanwhile is lost, and told.
struct Reader {
    feed: TraceFeed,
    stop: Stop,
    is_new: bool,
}

impl Reader {
    async fn next_line(mut self) -> Option<(Result<Bytes, serde_json::Error>, Self)> {
        let line = if std::mem::take(&mut self.is_new) {
            TraceLine::Tracing
        } else {
            tokio::select! {
                line = self.feed.next() => line?,
                () = self.stop.requested() => return None,
                () = sleep(WATCH_HEARTBEAT) => self.feed.lost().unwrap_or(TraceLine::Tracing),
            }
        };
        let line = serde_json::to_vec(&line).map(|mut line| {
            line.push(b'\n');
            line.into()
        });
        Some((line, self))
    }
}
