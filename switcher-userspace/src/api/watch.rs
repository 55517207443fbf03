//! `GET /v1/status/watch`: the status, and again whenever it has changed, as long as the client stays.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};

use super::{
    Control, WATCH_HEARTBEAT,
    routes::{Shared, answer, query, typed},
    stop::Stop,
    types::{ApiError, StatusReply},
};

/// `?services=web,api`: no name has a comma.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusQuery {
    /// Names of services, with commas between; absent: all.
    services: Option<String>,
}

pub(super) async fn watch_status<C: Control>(
    State(server): State<Arc<Shared<C>>>,
    asked: Result<Query<StatusQuery>, QueryRejection>,
) -> Response {
    let watcher = match watcher(&server, asked) {
        Ok(watcher) => watcher,
        Err(error) => return answer::<()>(Err(error)),
    };
    let lines = stream::unfold(watcher, Watcher::next_line);
    typed(
        StatusCode::OK,
        "application/x-ndjson",
        Body::from_stream(lines),
    )
}

fn watcher<C: Control>(
    server: &Shared<C>,
    asked: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Watcher, ApiError> {
    let services: Option<Vec<String>> = query(asked)?
        .services
        .map(|names| names.split(',').map(str::to_owned).collect());
    let slot = server.watcher()?;
    Ok(Watcher {
        statuses: server.control().watch_status(services.as_deref())?,
        stop: server.stop(),
        is_new: true,
        _slot: slot,
    })
}

/// One client that watches. It is asked for a line only when the client has taken the one before, so a
/// slow client misses states in between, never the newest.
struct Watcher {
    statuses: watch::Receiver<StatusReply>,
    stop: Stop,
    is_new: bool,
    _slot: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next_line(mut self) -> Option<(Result<Bytes, serde_json::Error>, Self)> {
        if !std::mem::take(&mut self.is_new) {
            self.changed().await?;
        }
        let line = serde_json::to_vec(&*self.statuses.borrow_and_update());
        let line = line.map(|mut line| {
            line.push(b'\n');
            line.into()
        });
        Some((line, self))
    }

    /// Waits for something to say; `None`: the agent stops.
    async fn changed(&mut self) -> Option<()> {
        tokio::select! {
            changed = self.statuses.changed() => changed.ok(),
            () = self.stop.requested() => None,
            () = sleep(WATCH_HEARTBEAT) => Some(()),
        }
    }
}
