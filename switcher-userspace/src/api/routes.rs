//! The handlers: each reads its request, asks [`Control`], writes the answer.

use std::{collections::BTreeMap, convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{
        HeaderValue, Method, StatusCode, Uri,
        header::{CONNECTION, CONTENT_TYPE},
    },
    response::Response,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::{
    ANSWER_DEADLINE, Control, MAX_APPLY_BYTES, MAX_REQUEST_BYTES, Peer, check,
    explain::ExplainQuestion,
    history::HistoryQuery,
    preview::PreviewQuery,
    requests::{self, ApplyRequest, ChangeRequest},
    stop::Stop,
    types::{ApiError, ChangeFailure, ChangeReply, DrainReply, ErrorCode, Failure},
};

/// Longest time for a request's body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// Watchers have no deadline, so they may hold only half of the connections.
const MAX_WATCHERS: usize = 128;
/// Configurations that are taken in at once.
const MAX_APPLIES: usize = 2;
/// Lists of flows that are read at once: each has a thread and some 100 kB.
const MAX_LISTS: usize = 4;

/// What the handlers share.
pub(super) struct Shared<C> {
    control: Arc<C>,
    stop: Stop,
    /// Each running change holds a clone: the server stops after the last one.
    changes: mpsc::Sender<Infallible>,
    watchers: Arc<Semaphore>,
    applies: Arc<Semaphore>,
    lists: Arc<Semaphore>,
}

impl<C> Shared<C> {
    pub(super) fn new(control: Arc<C>, stop: Stop, changes: mpsc::Sender<Infallible>) -> Self {
        let watchers = Arc::new(Semaphore::new(MAX_WATCHERS));
        Self {
            control,
            stop,
            changes,
            watchers,
            applies: Arc::new(Semaphore::new(MAX_APPLIES)),
            lists: Arc::new(Semaphore::new(MAX_LISTS)),
        }
    }

    pub(super) fn control(&self) -> &C {
        &self.control
    }

    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// A watcher's place, until it is dropped.
    pub(super) fn watcher(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.watchers.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(
                ErrorCode::Refused,
                format!(
                    "cannot watch: {MAX_WATCHERS} watchers are connected, the most that are served"
                ),
                "try again when one has left, or ask for the state without watching it",
            )
        })
    }

    /// The place of a list of flows, until it is dropped.
    pub(super) fn list(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.lists.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(
                ErrorCode::Refused,
                format!(
                    "cannot list flows: {MAX_LISTS} lists are being read, the most that are served"
                ),
                "try again when one is complete",
            )
        })
    }
}

/// What a handler gets of the server.
type Server<C> = State<Arc<Shared<C>>>;
/// The service in a path; not a name when its escapes are no UTF-8.
pub(super) type Service = Result<Path<String>, PathRejection>;

/// Answers everything with a refusal because `limit` connections are open.
pub(super) fn refusing(limit: usize) -> Router {
    Router::new().fallback(move || async move {
        let mut response = answer::<()>(Err(ApiError::new(
            ErrorCode::Refused,
            format!("the agent already serves {limit} connections, the most that it does at once"),
            "try again when another client has left",
        )));
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        response
    })
}

pub(super) async fn version<C: Control>(State(server): Server<C>) -> Response {
    json(StatusCode::OK, &server.control.version())
}

pub(super) async fn status<C: Control>(State(server): Server<C>) -> Response {
    answer(bounded(server.control.status()).await)
}

pub(super) async fn drain<C: Control>(State(server): Server<C>, service: Service) -> Response {
    let found = match name(service) {
        Ok(service) => bounded(server.control.drain(&service)).await,
        Err(error) => Err(error),
    };
    answer(found.map(|drain| DrainReply { drain }))
}

pub(super) async fn explain<C: Control>(
    State(server): Server<C>,
    question: Result<Query<ExplainQuestion>, QueryRejection>,
) -> Response {
    let explained = query(question).and_then(|question| {
        question.check()?;
        server.control.explain(&question)
    });
    answer(explained)
}

pub(super) async fn preview<C: Control>(
    State(server): Server<C>,
    question: Result<Query<PreviewQuery>, QueryRejection>,
) -> Response {
    let found = match query(question) {
        Ok(question) => bounded(server.control.preview(&question)).await,
        Err(error) => Err(error),
    };
    answer(found)
}

pub(super) async fn history<C: Control>(
    State(server): Server<C>,
    question: Result<Query<HistoryQuery>, QueryRejection>,
) -> Response {
    answer(query(question).and_then(|question| server.control.history(&question)))
}

pub(super) async fn change<C: Control, B: requests::Body + 'static>(
    State(server): Server<C>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    let request: ChangeRequest = match read_change::<B>(body, MAX_REQUEST_BYTES, B::VERB).await {
        Ok(request) => request.into(),
        Err(error) => return refuse_change(&server, |_| false, error).await,
    };
    if let Err(error) = check::change(&request) {
        let services = request.terms().services;
        return refuse_change(&server, |name| services.contains(name), error).await;
    }
    let control = server.clone();
    let change = async move { control.control.change(request, peer).await };
    carried_out(&server, B::VERB, change).await
}

/// Makes another configuration the running one.
pub(super) async fn apply<C: Control>(
    State(server): Server<C>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    // Bodies are large, so only a few are taken in at once.
    let slot = timeout(BODY_DEADLINE, server.applies.clone().acquire_owned()).await;
    let Ok(Ok(slot)) = slot else {
        let error = ApiError::new(
            ErrorCode::Refused,
            format!(
                "the agent already reads {MAX_APPLIES} configurations, the most that it does at once"
            ),
            "try again",
        );
        return refuse_change(&server, |_| true, error).await;
    };
    let request: ApplyRequest = match read_change(body, MAX_APPLY_BYTES, ApplyRequest::VERB).await {
        Ok(request) => request,
        Err(error) => return refuse_change(&server, |_| true, error).await,
    };
    let control = server.clone();
    let change = async move {
        let _slot = slot;
        control.control.apply(request, peer).await
    };
    carried_out(&server, ApplyRequest::VERB, change).await
}

/// Answers what came of a change.
async fn carried_out<C: Control>(
    server: &Shared<C>,
    verb: &str,
    change: impl Future<Output = ChangeReply> + Send + 'static,
) -> Response {
    let running = server.changes.clone();
    // A task of its own: a client that leaves must not stop a change half-way.
    let change = tokio::spawn(async move {
        let _running = running;
        change.await
    });
    match timeout(ANSWER_DEADLINE, change).await {
        Ok(Ok(reply)) => json(change_status(&reply), &reply),
        Ok(Err(_)) => unknown_outcome(ApiError::new(
            ErrorCode::Internal,
            format!("the agent failed during the {verb}; it is not known whether it stands"),
            "ask `switcher status`, and look into the agent's log",
        )),
        Err(_) => unknown_outcome(late("the change goes on; ask `switcher status`")),
    }
}

fn change_status(reply: &ChangeReply) -> StatusCode {
    reply
        .error
        .as_ref()
        .map_or(StatusCode::OK, |error| http_status(error.code))
}

fn unknown_outcome(error: ApiError) -> Response {
    let status = http_status(error.code);
    let changed = None;
    json(
        status,
        &ChangeFailure {
            changed,
            ..error.into()
        },
    )
}

/// Answers a change that was refused before the agent saw it, with the node's state beside it.
async fn refuse_change<C: Control>(
    server: &Shared<C>,
    is_named: impl Fn(&String) -> bool,
    error: ApiError,
) -> Response {
    let code = http_status(error.code);
    let mut failure = ChangeFailure::from(error);
    if let Ok(status) = bounded(server.control.status()).await {
        failure.generation = Some(status.generation);
        failure.active = status
            .services
            .into_iter()
            .filter(|service| is_named(&service.name))
            .map(|service| (service.name, service.active))
            .collect::<BTreeMap<_, _>>();
    }
    json(code, &failure)
}

async fn read_change<B: DeserializeOwned>(
    body: Body,
    most_bytes: usize,
    verb: &str,
) -> Result<B, ApiError> {
    let example = if verb == ApplyRequest::VERB {
        "{\"config\": \"TEXT OF THE FILE\"}"
    } else {
        "{\"services\": [\"web\"]}, with the verb's own fields"
    };
    let refused = |problem: String| {
        ApiError::new(
            ErrorCode::Usage,
            format!("cannot read the request of the {verb}: {problem}"),
            format!("send one JSON object such as {example}"),
        )
    };
    let read = timeout(BODY_DEADLINE, Limited::new(body, most_bytes).collect());
    let body = match read.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(refused(format!("it is longer than {most_bytes} bytes")));
        }
        Ok(Err(error)) => return Err(refused(format!("it broke off: {error}"))),
        Err(_) => {
            return Err(refused(format!(
                "it did not arrive within {BODY_DEADLINE:?}"
            )));
        }
    };
    serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))
}

pub(super) async fn unknown_route(uri: Uri) -> Response {
    answer::<()>(Err(ApiError::new(
        ErrorCode::NotFound,
        format!("there is no route {}", uri.path()),
        "`/v1/openapi.json` lists all routes: most are /v1/VERB, with GET to read and POST to change",
    )))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Response {
    let error = ApiError::new(
        ErrorCode::Usage,
        format!("the route {} does not take the method {method}", uri.path()),
        "use POST for changing verbs and GET for everything else",
    );
    json(StatusCode::METHOD_NOT_ALLOWED, &Failure { error })
}

pub(super) fn name(service: Service) -> Result<String, ApiError> {
    service.map(|Path(name)| name).map_err(|rejection| {
        ApiError::new(
            ErrorCode::Usage,
            format!("cannot read the service's name in the path: {rejection}"),
            "write the name as `switcher status` shows it",
        )
    })
}

pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|rejection| {
        ApiError::new(
            ErrorCode::Usage,
            format!("cannot read the request's query: {}", rejection.body_text()),
            "write it as `switcher --help` and the verb's --help show",
        )
    })
}

async fn bounded<T>(work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    timeout(ANSWER_DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(late("try again, and look into the agent's log")))
}

fn late(next_step: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Timeout,
        format!("the agent did not finish the request within {ANSWER_DEADLINE:?}"),
        next_step,
    )
}

pub(super) fn answer<T: Serialize>(result: Result<T, ApiError>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => json(http_status(error.code), &Failure { error }),
    }
}

fn http_status(code: ErrorCode) -> StatusCode {
    // All of them are valid; a wrong one would still be told as a failure.
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            typed(status, "application/json", body.into())
        }
        // A value that cannot be written is a defect; the client sees an answer without a body.
        Err(error) => {
            tracing::error!(%error, "cannot serialize an answer");
            typed(
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/json",
                Body::empty(),
            )
        }
    }
}

pub(super) fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
