//! Active checks: a task for each backend of a service that has `[service.check]` asks it again and again,
//! and at once when the program reports something of it, and tells the core when its health has changed.

mod probe;
mod suspicion;
mod task;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::AbortHandle,
};

use self::{
    suspicion::{Doorbell, Suspecting, Suspicion},
    task::{Life, Task},
    tls::Tls,
};
use super::{core::Command, view::View};
use crate::{
    config::{CheckConfig, Config, ServiceConfig},
    datapath::{LiveReports, Reported, Reports},
    failover::{Checked, Health},
};

/// Checks that run at once; each has a descriptor. Further ones wait, and so come later than configured.
const MAX_AT_ONCE: usize = 256;
/// Reports that are taken together.
const REPORTS_AT_ONCE: usize = 256;
/// News that wait for the core; a task whose news do not fit waits with them.
const MAX_NEWS: usize = 1_024;

/// The health of a backend has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthNews {
    /// Name of the service.
    pub(super) service: String,
    /// Address and port of the backend.
    pub(super) endpoint: SocketAddr,
    /// What it is from now on.
    pub(super) health: Health,
    /// It takes no connection at all.
    pub(super) is_dead: bool,
    /// When the newest of these checks began.
    pub(super) began_at: Instant,
    /// What the checks have found.
    pub(super) evidence: String,
    /// When it refused the connection that led to this.
    pub(super) refused_at: Option<Instant>,
}

/// Backends to which a failover would go: each is checked at once, and what is found told in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedProof {
    /// Name of the service.
    pub(super) service: String,
    /// Addresses and ports of the backends.
    pub(super) endpoints: Vec<SocketAddr>,
}

/// A backend that is checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    service: String,
    endpoint: SocketAddr,
}

/// The tasks, as the configuration wants them.
struct Checks {
    running: BTreeMap<Target, Running>,
    slots: Arc<Semaphore>,
    tls: Arc<Tls>,
    news: mpsc::Sender<HealthNews>,
}

/// The task of one backend.
struct Running {
    check: CheckConfig,
    task: AbortHandle,
    bell: Arc<Doorbell>,
    suspecting: Suspecting,
}

/// Checks what is configured, until the core has ended.
pub(super) async fn run(
    reports: Reports,
    mut wanted: mpsc::Receiver<WantedProof>,
    mut views: watch::Receiver<Arc<View>>,
    core: mpsc::Sender<Command>,
) {
    let mut reports = match reports.live() {
        Ok(reports) => Some(reports),
        Err(error) => {
            tracing::error!(%error, "what the program reports of backends is not heard; checks go on");
            None
        }
    };
    let (news, mut received) = mpsc::channel(MAX_NEWS);
    let mut checks = Checks {
        running: BTreeMap::new(),
        slots: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        tls: Arc::default(),
        news,
    };
    let mut config = None;
    loop {
        let view = views.borrow_and_update().clone();
        if !config
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &view.config))
        {
            checks.follow(&view);
            config = Some(view.config.clone());
        }
        let (mut all, mut reported) = (Vec::new(), Vec::new());
        tokio::select! {
            changed = views.changed() => if changed.is_err() { break },
            // Backends that fail together leave their tables together.
            _ = received.recv_many(&mut all, MAX_NEWS) => {
                if core.send(Command::Health(all)).await.is_err() {
                    break;
                }
            }
            Some(wanted) = wanted.recv() => checks.prove(&wanted),
            heard = hear(&mut reports, &mut reported) => {
                if let Err(error) = heard {
                    tracing::error!(%error, "what the program reports of backends is heard no more; checks go on");
                    reports = None;
                }
                checks.suspect(reported);
            }
        }
    }
}

/// Waits for what the program reports.
async fn hear(reports: &mut Option<LiveReports>, all: &mut Vec<Reported>) -> std::io::Result<()> {
    match reports {
        Some(reports) => reports.take(REPORTS_AT_ONCE, |it| all.push(it)).await,
        None => std::future::pending().await,
    }
}

impl Checks {
    /// Wakes the tasks of the backends that the reports are about. Those of services without checks are only
    /// counted, by the program.
    fn suspect(&mut self, reported: Vec<Reported>) {
        for reported in reported {
            let target = Target {
                service: reported.service.clone(),
                endpoint: reported.endpoint,
            };
            if let Some(running) = self.running.get_mut(&target) {
                running.suspecting.hear(&reported, &running.bell);
            }
        }
    }

    /// Wakes the tasks of the backends to which a failover would go.
    fn prove(&mut self, wanted: &WantedProof) {
        for endpoint in &wanted.endpoints {
            let target = Target {
                service: wanted.service.clone(),
                endpoint: *endpoint,
            };
            if let Some(running) = self.running.get(&target) {
                running.bell.ring(Suspicion::of_target());
            }
        }
    }

    /// Ends the checks of what is configured no more or otherwise, and begins the others.
    fn follow(&mut self, view: &View) {
        let wanted = targets(&view.config);
        self.running.retain(|target, running| {
            let stays = wanted.get(target).is_some_and(|it| **it == running.check);
            if !stays {
                running.task.abort();
            }
            stays
        });
        for (target, check) in wanted {
            if self.running.contains_key(&target) {
                continue;
            }
            let service = view.board.services.get(&target.service);
            let health = service.map_or(Health::Unknown, |it| it.health_of(target.endpoint));
            let bell = Arc::<Doorbell>::default();
            let task = Task {
                target: target.clone(),
                check: check.clone(),
                checked: Checked { health, against: 0 },
                slots: self.slots.clone(),
                tls: self.tls.clone(),
                news: self.news.clone(),
                bell: bell.clone(),
                life: Life::default(),
            };
            let running = Running {
                check: check.clone(),
                task: tokio::spawn(task.run()).abort_handle(),
                bell,
                suspecting: Suspecting::default(),
            };
            self.running.insert(target, running);
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.task.abort();
        }
    }
}

/// The backends that `config` wants checked, each once, whichever listeners and colors have it.
fn targets(config: &Config) -> BTreeMap<Target, &CheckConfig> {
    let of_service = |service: &'_ ServiceConfig| {
        let endpoints: BTreeSet<SocketAddr> = service.endpoints().collect();
        let name = service.name.clone();
        endpoints.into_iter().map(move |endpoint| Target {
            service: name.clone(),
            endpoint,
        })
    };
    let services = config.services.iter();
    let checked = services.filter_map(|service| Some((service, service.check.as_ref()?)));
    checked
        .flat_map(|(service, check)| of_service(service).map(move |target| (target, check)))
        .collect()
}
