//! The routes, one table: the router and the OpenAPI document are made of it.

use std::sync::Arc;

use axum::{
    Router,
    http::StatusCode,
    response::Response,
    routing::{MethodRouter, get, post},
};
use serde_json::{Map, Value};

use super::{
    Control,
    events::events,
    explain::{ExplainQuestion, Explanation},
    flow_list::flows,
    flows::{FlowsLine, FlowsRequest},
    history::{HistoryEntry, HistoryQuery, HistoryReply},
    openapi::{self, Operation},
    preview::{PreviewQuery, PreviewReply},
    requests::{
        self, AbortRequest, ApplyRequest, ConfirmRequest, DisableFailoverRequest,
        DrainBackendRequest, DrillRequest, EnableFailoverRequest, ExtendDrainRequest,
        FinishDrainRequest, FlipRequest, PauseRequest, PromoteRequest, ResumeBackendRequest,
        ResumeRequest, RollbackRequest, SplitRequest,
    },
    routes::{
        Shared, apply, change, drain, explain, history, json, preview, status, unknown_route,
        version, wrong_method,
    },
    stream::trace,
    trace::{TraceLine, TraceRequest},
    types::{DrainReply, StatusReply, VersionReply},
    watch::{StatusQuery, watch_status},
};

/// A path, what it does and takes, and who does it.
struct Route<C> {
    path: String,
    operation: Operation,
    handler: MethodRouter<Arc<Shared<C>>>,
}

/// All routes: the router and the document are made of them.
fn routes<C: Control>() -> Vec<Route<C>> {
    let read = |path: &str, operation, handler| Route {
        path: format!("/v1/{path}"),
        operation,
        handler,
    };
    let mut routes = vec![
        read(
            "version",
            Operation::read::<VersionReply>("The agent's version"),
            get(version::<C>),
        ),
        read(
            "status",
            Operation::read::<StatusReply>("Everything that `switcher status` shows"),
            get(status::<C>),
        ),
        read(
            "status/watch",
            Operation::lines::<StatusReply>("The status, and again whenever it has changed")
                .query::<StatusQuery>(),
            get(watch_status::<C>),
        ),
        read(
            "explain",
            Operation::read::<Explanation>("Where packets of a 5-tuple would go now, and why")
                .query::<ExplainQuestion>(),
            get(explain::<C>),
        ),
        read(
            "trace",
            Operation::lines::<TraceLine>("Packets as they come, and what is decided about them")
                .query::<TraceRequest>(),
            get(trace::<C>),
        ),
        read(
            "flows/{service}",
            Operation::lines::<FlowsLine>("A service's flows").query::<FlowsRequest>(),
            get(flows::<C>),
        ),
        read(
            "preview",
            Operation::read::<PreviewReply>(
                "Where the standby can be tried, and whether it could become active",
            )
            .query::<PreviewQuery>(),
            get(preview::<C>),
        ),
        read(
            "history",
            Operation::read::<HistoryReply>("What has changed, and who asked")
                .query::<HistoryQuery>(),
            get(history::<C>),
        ),
        read(
            "events",
            Operation::events::<HistoryEntry>("What changes, as it becomes durable").headers(&[(
                "Last-Event-ID",
                "Number of the newest event that the client has; those after it come first",
            )]),
            get(events::<C>),
        ),
        read(
            "drain/{service}",
            Operation::read::<DrainReply>("A service's newest drain"),
            get(drain::<C>),
        ),
        read(
            "openapi.json",
            Operation::read::<Map<String, Value>>("This document"),
            get(openapi::<C>),
        ),
        Route {
            path: format!("/v1/{}", ApplyRequest::VERB),
            operation: Operation::change::<ApplyRequest>(ApplyRequest::SUMMARY),
            handler: post(apply::<C>),
        },
    ];
    routes.extend(changes());
    routes
}

/// A route for each changing verb of services.
fn changes<C: Control>() -> [Route<C>; 15] {
    fn of<C: Control, B: requests::Body + 'static>() -> Route<C> {
        Route {
            path: format!("/v1/{}", B::VERB),
            operation: Operation::change::<B>(B::SUMMARY),
            handler: post(change::<C, B>),
        }
    }
    [
        of::<C, FlipRequest>(),
        of::<C, RollbackRequest>(),
        of::<C, ConfirmRequest>(),
        of::<C, SplitRequest>(),
        of::<C, PromoteRequest>(),
        of::<C, AbortRequest>(),
        of::<C, PauseRequest>(),
        of::<C, ResumeRequest>(),
        of::<C, ExtendDrainRequest>(),
        of::<C, FinishDrainRequest>(),
        of::<C, DrainBackendRequest>(),
        of::<C, ResumeBackendRequest>(),
        of::<C, EnableFailoverRequest>(),
        of::<C, DisableFailoverRequest>(),
        of::<C, DrillRequest>(),
    ]
}

pub(super) fn router<C: Control>(shared: Shared<C>) -> Router {
    let routed = |router: Router<_>, route: Route<C>| router.route(&route.path, route.handler);
    routes()
        .into_iter()
        .fold(Router::new(), routed)
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::new(shared))
}

async fn openapi<C: Control>() -> Response {
    let routes = routes::<C>();
    let described = routes
        .iter()
        .map(|route| (route.path.as_str(), &route.operation));
    json(StatusCode::OK, &openapi::document(described))
}
