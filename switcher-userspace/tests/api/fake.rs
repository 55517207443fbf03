//! An agent that only pretends: the API's and the CLI's other side.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicU64},
    thread::{self, JoinHandle},
};

use switcher_common::service::{Color, PerColor};
use switcher_userspace::api::{
    Control, Peer,
    events::EventFeed,
    explain::{ExplainQuestion, Explanation},
    flows::{FlowsLine, FlowsRequest},
    history::{HistoryEntry, HistoryQuery, HistoryReply},
    preview::{PreviewQuery, PreviewReply},
    requests::{ApplyRequest, ChangeRequest, FlipRequest},
    server::{self, ApiSocket},
    trace::{Decision, TraceFeed, TraceRequest},
    types::{
        AgentStatus, ApiError, ChangeReply, DrainEnd, DrainStatus, ErrorCode, InterfaceStatus,
        SendErrorStatus, ServiceStatus, StatusReply, TableStatus, VerdictCount, VersionReply,
    },
};
use switcher_userspace::{
    config::{Config, difference::Difference},
    switching::AtDeadline,
};
use tempfile::TempDir;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};

/// What a fake has applied at first.
pub(crate) const CONFIG: &str = r#"[agent]
interfaces = ["eth0"]
[[service]]
name = "web"
[[service.listener]]
name = "http"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
blue = [{ address = "10.0.1.11", port = 8080 }]
"#;

/// A node with one service, `web`.
pub(crate) struct Fake {
    pub(crate) service: watch::Sender<ServiceStatus>,
    pub(crate) flips: Mutex<Vec<(FlipRequest, Peer)>>,
    pub(crate) history: Arc<Mutex<Vec<HistoryEntry>>>,
    pub(crate) events: broadcast::Sender<Arc<HistoryEntry>>,
    /// Changes that are no flips.
    pub(crate) others: Mutex<Vec<ChangeRequest>>,
    /// The configuration that is applied.
    pub(crate) config: Mutex<String>,
    /// Applies, dry runs too.
    pub(crate) applies: Mutex<Vec<ApplyRequest>>,
    /// What is listed, and what was asked for.
    pub(crate) flows: Mutex<Vec<FlowsLine>>,
    pub(crate) lists: Mutex<Vec<FlowsRequest>>,
    /// The preview; absent: there is no preview listener.
    pub(crate) preview: Mutex<Option<PreviewReply>>,
    /// Who traces, and what is told to whom.
    pub(crate) traces: Mutex<Vec<Traced>>,
    /// A flip with the reason `slow` says here that it began ...
    pub(crate) began: Notify,
    /// ... and goes on when told so here.
    pub(crate) go_on: Notify,
}

/// The agent's end of one trace.
#[derive(Clone)]
pub(crate) struct Traced {
    pub(crate) request: TraceRequest,
    pub(crate) decisions: mpsc::Sender<Decision>,
    pub(crate) lost: Arc<AtomicU64>,
    pub(crate) left: Arc<Notify>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            service: watch::Sender::new(web()),
            flips: Mutex::default(),
            others: Mutex::default(),
            flows: Mutex::default(),
            lists: Mutex::default(),
            preview: Mutex::default(),
            history: Arc::default(),
            events: broadcast::channel(4).0,
            config: Mutex::new(CONFIG.to_owned()),
            applies: Mutex::default(),
            traces: Mutex::default(),
            began: Notify::new(),
            go_on: Notify::new(),
        }
    }
}

impl Fake {
    /// The newest trace; waits for it, since whoever reads begins elsewhere.
    pub(crate) fn trace(&self) -> Traced {
        loop {
            if let Some(trace) = self.traces.lock().unwrap().last() {
                return trace.clone();
            }
            thread::yield_now();
        }
    }

    pub(crate) fn active(&self) -> Color {
        self.service.borrow().active
    }

    /// Pretends that this drain runs, or was the newest.
    pub(crate) fn set_drain(&self, drain: DrainStatus) {
        self.service.send_modify(|web| web.drain = Some(drain));
    }

    /// Returns when somebody watches.
    pub(crate) fn wait_for_watcher(&self) {
        while self.service.receiver_count() == 0 {
            thread::yield_now();
        }
    }

    /// Ends the drain that runs, or pretends that one ran.
    pub(crate) fn end_drain(&self, ended: DrainEnd, flows_left: u64) {
        self.set_drain(DrainStatus {
            ended: Some(ended),
            ended_at: Some("2026-01-01T00:00:04Z".to_owned()),
            elapsed_ms: 4_100,
            flows_left: Some(flows_left),
            ..running(Some(flows_left))
        });
    }

    fn reply(&self, changed: bool, error: Option<ApiError>) -> ChangeReply {
        let (active, generation) = {
            let web = self.service.borrow();
            (web.active, web.generation)
        };
        ChangeReply {
            changed,
            generation,
            active: BTreeMap::from([("web".to_owned(), active)]),
            would_change: None,
            visible_us: Some(400),
            barrier_us: Some(5_100),
            detect_ms: None,
            difference: None,
            error,
        }
    }
}

/// The drain of blue while it runs.
pub(crate) fn running(in_flight: Option<u64>) -> DrainStatus {
    DrainStatus {
        service: "web".to_owned(),
        color: Color::Blue,
        generation: 2,
        in_flight,
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        deadline_at: "2026-01-01T00:00:30Z".to_owned(),
        at_deadline: AtDeadline::Keep,
        ended: None,
        ended_at: None,
        elapsed_ms: 0,
        flows_left: None,
        flows_reset: None,
        flows_silent: None,
        flows_moved: None,
        first_new_flow_at: None,
        last_old_packet_at: None,
        flows_finished: None,
        unpinned_packets: None,
    }
}

/// The service before anybody has changed anything.
fn web() -> ServiceStatus {
    ServiceStatus {
        name: "web".to_owned(),
        active: Color::Blue,
        standby: Color::Green,
        base: Color::Blue,
        generation: 1,
        newest_change: None,
        confirm_until_at: None,
        split_percent: 0,
        pauses: Vec::new(),
        in_flight: PerColor { blue: 17, green: 4 },
        preview_flows: 0,
        traffic: PerColor::default(),
        drain: None,
        health_settles_ms: None,
        failover: None,
        listeners: Vec::new(),
    }
}

/// The status of a node with `service` alone.
fn status(service: ServiceStatus) -> StatusReply {
    StatusReply {
        removed: Vec::new(),
        agent: AgentStatus {
            version: "9.8.7".to_owned(),
            pid: 42,
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            adopted: true,
        },
        generation: service.generation,
        services: vec![service],
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            mode: "generic".to_owned(),
            takes_redirects: Some(false),
        }],
        verdicts: vec![VerdictCount {
            verdict: "drop".to_owned(),
            reason: "ttl_over".to_owned(),
            packets: 12,
        }],
        send_errors: Some(SendErrorStatus {
            redirect_refused: 21,
            ..SendErrorStatus::default()
        }),
        tables: TableStatus::default(),
    }
}

fn known(service: &str) -> Result<(), ApiError> {
    if service == "web" {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::NotFound,
        format!("there is no service {service}"),
        "`switcher status` lists the services",
    ))
}

impl Control for Fake {
    fn version(&self) -> VersionReply {
        VersionReply {
            agent: "9.8.7".to_owned(),
            layout: 3,
        }
    }

    async fn status(&self) -> Result<StatusReply, ApiError> {
        Ok(status(self.service.borrow().clone()))
    }

    fn explain(&self, question: &ExplainQuestion) -> Result<Explanation, ApiError> {
        Ok(crate::explain::explanation(question))
    }

    fn flows(
        &self,
        service: &str,
        request: &FlowsRequest,
    ) -> Result<mpsc::Receiver<FlowsLine>, ApiError> {
        known(service)?;
        self.lists.lock().unwrap().push(*request);
        let lines = self.flows.lock().unwrap().clone();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for line in lines {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn trace(&self, request: TraceRequest) -> Result<TraceFeed, ApiError> {
        if let Some(service) = &request.service {
            known(service)?;
        }
        let (decisions, queue) = mpsc::channel(4);
        let (lost, left) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        self.traces.lock().unwrap().push(Traced {
            request,
            decisions,
            lost: lost.clone(),
            left: left.clone(),
        });
        Ok(TraceFeed::new(queue, lost, left))
    }

    async fn preview(&self, question: &PreviewQuery) -> Result<PreviewReply, ApiError> {
        known(&question.service)?;
        let preview = self.preview.lock().unwrap().clone();
        preview.ok_or_else(|| ApiError::new(ErrorCode::Refused, "no preview", "configure one"))
    }

    fn history(&self, question: &HistoryQuery) -> Result<HistoryReply, ApiError> {
        let entries = self.history.lock().unwrap();
        let limit = question.limit.map_or(usize::MAX, NonZeroUsize::get);
        Ok(HistoryReply {
            entries: entries.iter().rev().take(limit).cloned().collect(),
        })
    }

    fn events(&self, after: Option<u64>) -> EventFeed {
        let newest = self
            .history
            .lock()
            .unwrap()
            .last()
            .map_or(0, |it| it.number);
        let (history, events) = (self.history.clone(), self.events.clone());
        EventFeed::new(after.unwrap_or(newest), move |after| {
            let follows = events.subscribe();
            let entries = history.lock().unwrap();
            let later = entries.iter().filter(|entry| entry.number > after);
            (later.cloned().map(Arc::new).collect(), follows)
        })
    }

    async fn change(&self, request: ChangeRequest, peer: Peer) -> ChangeReply {
        let ChangeRequest::Flip(request) = request else {
            let terms = request.terms();
            self.others.lock().unwrap().push(request);
            let unknown = terms.services.iter().try_for_each(|name| known(name)).err();
            return self.reply(unknown.is_none(), unknown);
        };
        if request.reason.as_deref() == Some("slow") {
            self.began.notify_one();
            self.go_on.notified().await;
        }
        assert_ne!(request.reason.as_deref(), Some("panic"), "as the test asks");
        self.flips.lock().unwrap().push((request.clone(), peer));
        if let Err(error) = request.services.iter().try_for_each(|name| known(name)) {
            return self.reply(false, Some(error));
        }
        let active = self.active();
        if request
            .expect_active
            .is_some_and(|expected| expected != active)
        {
            let error = ApiError::new(ErrorCode::Conflict, "another color is active", "look first");
            return self.reply(false, Some(error));
        }
        let to = request.to.unwrap_or(active.other());
        if to == active {
            return self.reply(false, None);
        }
        self.service.send_modify(|web| {
            (web.active, web.standby) = (to, active);
            web.generation += 1;
            web.drain = Some(running(Some(42)));
        });
        self.reply(true, None)
    }

    async fn apply(&self, request: ApplyRequest, _: Peer) -> ChangeReply {
        self.applies.lock().unwrap().push(request.clone());
        let file = request.file.unwrap_or_default();
        let new = match Config::parse(Path::new(&file), &request.config) {
            Ok(new) => new,
            Err(error) => {
                let error = ApiError::new(ErrorCode::Usage, error.to_string(), "mend it");
                return self.reply(false, Some(error));
            }
        };
        let mut text = self.config.lock().unwrap();
        let old = Config::parse(Path::new("running"), &text).unwrap();
        let difference = Difference::between(&old, &new);
        let would_change = !difference.is_empty();
        if !request.dry_run {
            *text = request.config;
        }
        ChangeReply {
            would_change: request.dry_run.then_some(would_change),
            difference: Some(Box::new(difference)),
            ..self.reply(would_change && !request.dry_run, None)
        }
    }

    async fn drain(&self, service: &str) -> Result<Option<DrainStatus>, ApiError> {
        known(service)?;
        Ok(self.service.borrow().drain.clone())
    }

    fn watch_status(
        &self,
        services: Option<&[String]>,
    ) -> Result<watch::Receiver<StatusReply>, ApiError> {
        let mut names = services.into_iter().flatten();
        names.try_for_each(|name| known(name))?;
        let mut service = self.service.subscribe();
        let first = status(service.borrow_and_update().clone());
        let (reader, receiver) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = reader.closed() => return,
                    changed = service.changed() => if changed.is_err() { return },
                }
                reader.send_replace(status(service.borrow_and_update().clone()));
            }
        });
        Ok(receiver)
    }
}

/// A served [`Fake`]: a thread with a runtime of its own, so that tests may block.
pub(crate) struct Served {
    pub(crate) fake: Arc<Fake>,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub(crate) fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("switcher.sock");
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel();
        let (bound, wait_until_bound) = std::sync::mpsc::channel();
        let control = Arc::clone(&fake);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let socket = ApiSocket::bind(&socket).await.unwrap();
                bound.send(()).unwrap();
                server::serve(socket, control, async { drop(stopped.await) }).await;
            });
        });
        wait_until_bound.recv().unwrap();
        Self {
            fake,
            directory,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("switcher.sock")
    }

    /// Stops the server and waits until it has.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket's path in a directory of its own.
pub(crate) fn unused_socket(directory: &Path) -> PathBuf {
    directory.join("none.sock")
}
