//! `switcher failover drill`: the agent fails over and undoes that by itself; here it is waited for and told.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::{
    Console,
    answer::Answer,
    change::{Words, body, describe},
    failover::DrillArgs,
    receipt,
    until::Condition,
    wait,
};
use crate::api::{
    client::Client,
    history::{HistoryQuery, What},
    requests::DrillRequest,
    types::{ApiError, ChangeReply, DrainStatus, ErrorCode, ServiceStatus},
};

/// The agent undoes the failover at its deadline; what comes on top is its answer's way.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Drilled {
    #[serde(flatten)]
    change: ChangeReply,
    /// The failover was undone.
    undone: bool,
    /// What became of the flows of the color that was left; `null`: not known.
    drain: Option<DrainStatus>,
}

const WORDS: Words = Words {
    done: "failed over, as if the active color had failed",
    would: "fail over, and undo that",
};

pub(super) async fn run(args: &DrillArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let services = [args.service.clone()];
    let body = body!(DrillRequest {
        services, args.terms,
        timeout_ms: Some(args.timeout.as_millis()),
        stay: args.stay,
    });
    let change = match client.change(&body).await {
        Ok(change) => change,
        Err(failure) => return failure.into(),
    };
    let mut text = vec![describe(&change, WORDS)];
    let detected = change.detect_ms.map(|ms| format!("detected after {ms} ms"));
    text.extend(detected);
    let mut drilled = Drilled {
        change,
        undone: false,
        drain: None,
    };
    if !drilled.change.changed || drilled.change.error.is_some() {
        let error = drilled.change.error.clone();
        return Answer::new(&drilled, text.join("\n")).failed(error);
    }
    let error = if args.stay {
        console.note("failed over; waiting for the drain to end");
        let limit = Some(args.timeout);
        let waited = wait::until(client, &services, &[Condition::Drained], limit, console).await;
        drilled.drain = waited.drain(&args.service);
        waited.error
    } else {
        console.note("failed over; waiting until that is undone");
        undone(args, &mut drilled, client).await.err()
    };
    text.extend((drilled.drain.as_ref()).map(|drain| receipt::text(&args.service, Some(drain))));
    if drilled.undone {
        text.push(format!(
            "undone: {} is active again, generation {}",
            drilled
                .change
                .active
                .values()
                .next()
                .map_or("?", |it| it.name()),
            drilled.change.generation
        ));
    }
    drilled.change.error.clone_from(&error);
    Answer::new(&drilled, text.join("\n")).failed(error)
}

/// Waits until the failover is undone, and finds out how that went.
async fn undone(args: &DrillArgs, drilled: &mut Drilled, client: &Client) -> Result<(), ApiError> {
    let limit = Duration::from(args.timeout) + PATIENCE;
    let Ok(ended) = timeout(limit, end(args, drilled.change.generation, client)).await else {
        return Err(ApiError::new(
            ErrorCode::Timeout,
            format!("the drill's failover is not undone after {limit:?}"),
            "the agent tries on: see `switcher failover status` and its log",
        ));
    };
    let service = ended?;
    let question = HistoryQuery {
        service: Some(args.service.clone()),
        limit: None,
    };
    let entries = client.history(&question).await?.entries.into_iter();
    let mut ours = entries.filter(|it| {
        it.what == What::DrillEnded && it.from_generation >= drilled.change.generation
    });
    // The newest come first.
    let Some(entry) = ours.next_back() else {
        return Err(ApiError::new(
            ErrorCode::Internal,
            "the drill did not end by itself: the active color was changed meanwhile",
            format!("see `switcher history {}`", args.service),
        ));
    };
    drilled.drain = entry.drain;
    drilled.undone = entry.error.is_none();
    drilled.change.generation = entry.generation;
    drilled.change.active = [(service.name, service.active)].into();
    // Its failover stands, so none of the codes that promise otherwise.
    entry.error.map_or(Ok(()), |error| {
        Err(ApiError::new(
            ErrorCode::Internal,
            format!("the drill's failover stands: {}", error.message),
            error.next_step,
        ))
    })
}

/// The service after the drill whose failover has this generation.
async fn end(
    args: &DrillArgs,
    generation: u64,
    client: &Client,
) -> Result<ServiceStatus, ApiError> {
    let services = [args.service.clone()];
    let mut watch = client.watch_status(Some(&services)).await?;
    loop {
        let status = watch.next().await?;
        let mut named = status.services.into_iter();
        let service = named.find(|it| it.name == args.service).ok_or_else(|| {
            ApiError::new(
                ErrorCode::Internal,
                format!(
                    "the drill's end is not known: there is no service {} any more",
                    args.service
                ),
                "`switcher status` lists the services",
            )
        })?;
        let drill = service.failover.as_ref().and_then(|it| it.drill.as_ref());
        if drill.is_none_or(|drill| drill.generation != generation) {
            return Ok(service);
        }
    }
}
