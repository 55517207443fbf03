//! The API's requests, answered: reads from the published view, changes through the core.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use switcher_common::{address::WideAddress, trace::TraceFilter};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    applier::Applier,
    collector::Collector,
    core::{Asked, Command, data_path},
    explain::explain,
    flows,
    history::History,
    preview::preview,
    statuses::Statuses,
    trace::Subscription,
    view::View,
};
use crate::{
    api::{
        Control, Peer,
        events::EventFeed,
        explain::{ExplainQuestion, Explanation},
        flows::{FlowsLine, FlowsRequest},
        history::{HistoryQuery, HistoryReply, MAX_ENTRIES},
        preview::{PreviewQuery, PreviewReply},
        requests::{ApplyRequest, ChangeRequest},
        trace::{TraceFeed, TraceRequest},
        types::{ApiError, ChangeReply, DrainStatus, ErrorCode, StatusReply, VersionReply},
    },
    datapath::{Explainer, FlowLister},
};

/// A scan that is not older serves a status as it is.
const FRESH_SCAN: Duration = Duration::from_millis(200);

/// The agent as the API sees it.
pub(super) struct AgentControl {
    pub(super) core: mpsc::Sender<Command>,
    pub(super) collector: Collector,
    pub(super) history: Arc<History>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) statuses: Arc<Statuses>,
    pub(super) explainer: Explainer,
    pub(super) lister: Arc<FlowLister>,
    pub(super) subscribe: mpsc::Sender<Subscription>,
    pub(super) applier: Applier,
}

impl AgentControl {
    fn current(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The view after a scan that is young enough.
    async fn scanned(&self) -> Arc<View> {
        let view = self.current();
        let fresh = view
            .scan
            .as_ref()
            .is_some_and(|scan| scan.began_at.elapsed() < FRESH_SCAN);
        if fresh {
            return view;
        }
        if let Some(ready) = self.collector.scan() {
            // An error means that the collector is gone; the newest view is then the best there is.
            let _ = ready.await;
        }
        self.current()
    }

    /// The answer to an apply that never reached the core.
    fn not_applied(&self, error: ApiError) -> ChangeReply {
        let board = &self.current().board;
        let services = board.services.iter();
        ChangeReply {
            changed: false,
            generation: board.generation,
            active: services
                .map(|(name, service)| (name.clone(), service.active))
                .collect(),
            would_change: None,
            visible_us: None,
            barrier_us: None,
            detect_ms: None,
            difference: None,
            error: Some(error),
        }
    }

    fn known(&self, service: &str) -> Result<(), ApiError> {
        if self.current().board.services.contains_key(service) {
            Ok(())
        } else {
            Err(unknown(service))
        }
    }
}

impl Control for AgentControl {
    fn version(&self) -> VersionReply {
        VersionReply {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            layout: switcher_common::LAYOUT_VERSION,
        }
    }

    async fn status(&self) -> Result<StatusReply, ApiError> {
        let view = self.scanned().await;
        self.statuses.now(&view).map_err(|error| data_path(&error))
    }

    fn explain(&self, question: &ExplainQuestion) -> Result<Explanation, ApiError> {
        explain(&self.explainer, &self.current(), question)
    }

    async fn preview(&self, question: &PreviewQuery) -> Result<PreviewReply, ApiError> {
        let view = self.scanned().await;
        preview(&view, &question.service)
    }

    fn history(&self, question: &HistoryQuery) -> Result<HistoryReply, ApiError> {
        if let Some(service) = &question.service
            && self.history.newest(Some(service.as_str()), 1).is_empty()
        {
            // A removed service has a history still.
            self.known(service)?;
        }
        let limit = question.limit.map_or(MAX_ENTRIES, NonZeroUsize::get);
        Ok(HistoryReply {
            entries: self.history.newest(question.service.as_deref(), limit),
        })
    }

    fn events(&self, after: Option<u64>) -> EventFeed {
        let after = after.unwrap_or_else(|| self.history.next_number().saturating_sub(1));
        let history = self.history.clone();
        EventFeed::new(after, move |after| history.follow(after))
    }

    fn flows(
        &self,
        service: &str,
        request: &FlowsRequest,
    ) -> Result<mpsc::Receiver<FlowsLine>, ApiError> {
        let view = self.current();
        let removed = view.removed_service(service);
        if removed.is_none() {
            self.known(service)?;
        }
        let id = view.ids.get(service).copied().or(removed);
        // A service that is known has an id as soon as it is in the kernel.
        let id = id.ok_or_else(|| unknown(service))?;
        Ok(flows::list(self.lister.clone(), view, id, *request))
    }

    async fn trace(&self, request: TraceRequest) -> Result<TraceFeed, ApiError> {
        let service = match &request.service {
            None => None,
            Some(name) => {
                self.known(name)?;
                self.current().ids.get(name).copied()
            }
        };
        let client = request.client.map(WideAddress::from_ip);
        let (reply, answer) = oneshot::channel();
        let subscription = Subscription {
            filter: TraceFilter::new(client, service),
            reply,
        };
        let sent = self.subscribe.send(subscription).await.is_ok();
        match answer.await {
            Ok(feed) if sent => feed,
            _ => Err(ApiError::new(
                ErrorCode::Internal,
                "cannot trace: the agent's tracing has ended",
                "look into the agent's log, and start it again",
            )),
        }
    }

    async fn change(&self, request: ChangeRequest, peer: Peer) -> ChangeReply {
        let (reply, answer) = oneshot::channel();
        let command = Command::Change(Box::new(Asked {
            request,
            peer,
            arrived: Instant::now(),
            reply,
        }));
        let sent = self.core.send(command).await.is_ok();
        match answer.await {
            Ok(reply) if sent => reply,
            _ => stopping(self.current().board.generation),
        }
    }

    async fn apply(&self, request: ApplyRequest, peer: Peer) -> ChangeReply {
        match self.applier.apply(request, peer).await {
            Ok(Some(reply)) => reply,
            Ok(None) => stopping(self.current().board.generation),
            Err(error) => self.not_applied(error),
        }
    }

    async fn drain(&self, service: &str) -> Result<Option<DrainStatus>, ApiError> {
        self.known(service)?;
        Ok(self.scanned().await.drain(service))
    }

    fn watch_status(
        &self,
        services: Option<&[String]>,
    ) -> Result<watch::Receiver<StatusReply>, ApiError> {
        for service in services.into_iter().flatten() {
            self.known(service)?;
        }
        let mut views = self.view.clone();
        let view = views.borrow_and_update().clone();
        let first = self.statuses.told(&view, services);
        let (reader, receiver) = watch::channel(first.map_err(|error| data_path(&error))?);
        let services = services.map(<[String]>::to_vec);
        tokio::spawn(self.statuses.clone().tell(services, views, reader));
        Ok(receiver)
    }
}

/// The error of a service that is not there.
pub(super) fn unknown(service: &str) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is no service {service}"),
        "`switcher status` lists the services",
    )
}

fn stopping(generation: u64) -> ChangeReply {
    ChangeReply {
        changed: false,
        generation,
        active: BTreeMap::new(),
        would_change: None,
        visible_us: None,
        barrier_us: None,
        detect_ms: None,
        difference: None,
        error: Some(ApiError::new(
            ErrorCode::Unreachable,
            "the agent is stopping",
            "start it again, then look at `switcher status` before you repeat the request",
        )),
    }
}
