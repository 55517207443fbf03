//! `GET /v1/flows/{service}`: a line for each flow, as fast as the client takes them.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Control,
    flows::{FlowsLine, FlowsRequest},
    routes::{Service, Shared, answer, name, query, typed},
    stop::Stop,
    types::ApiError,
};

/// Lines that are written at once.
const BATCH: usize = 256;

pub(super) async fn flows<C: Control>(
    State(server): State<Arc<Shared<C>>>,
    service: Service,
    request: Result<Query<FlowsRequest>, QueryRejection>,
) -> Response {
    let list = match list(&server, service, request) {
        Ok(list) => list,
        Err(error) => return answer::<()>(Err(error)),
    };
    let lines = stream::unfold(list, List::next_lines);
    typed(
        StatusCode::OK,
        "application/x-ndjson",
        Body::from_stream(lines),
    )
}

fn list<C: Control>(
    server: &Shared<C>,
    service: Service,
    request: Result<Query<FlowsRequest>, QueryRejection>,
) -> Result<List, ApiError> {
    let (service, request) = (name(service)?, query(request)?);
    let slot = server.list()?;
    Ok(List {
        lines: server.control().flows(&service, &request)?,
        stop: server.stop(),
        _slot: slot,
    })
}

/// One client that reads a list.
struct List {
    lines: mpsc::Receiver<FlowsLine>,
    stop: Stop,
    _slot: OwnedSemaphorePermit,
}

impl List {
    async fn next_lines(mut self) -> Option<(Result<Bytes, serde_json::Error>, Self)> {
        let mut lines = Vec::with_capacity(BATCH);
        let read = tokio::select! {
            read = self.lines.recv_many(&mut lines, BATCH) => read,
            () = self.stop.requested() => 0,
        };
        if read == 0 {
            return None;
        }
        let text = lines.iter().try_fold(String::new(), |mut text, line| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}", serde_json::to_string(line)?);
            Ok(text)
        });
        Some((text.map(Bytes::from), self))
    }
}
