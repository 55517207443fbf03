//! Active checks: a task for each backend of a service that has `[service.check]` asks it again and again,
//! and tells the core when its health has changed.

mod probe;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use self::{
    probe::{Failure, probe},
    tls::Tls,
};
use super::{core::Command, view::View};
use crate::{
    config::{CheckConfig, Config, ServiceConfig},
    failover::{CheckTerms, Checked, Health},
};

/// Checks that run at once; each has a descriptor. Further ones wait, and so come later than configured.
const MAX_AT_ONCE: usize = 256;
/// Checks after which health is told again, though it has not changed.
const TOLD_EVERY: u32 = 25;
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
    /// What the checks have found.
    pub(super) evidence: String,
}

/// A backend that is checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    service: String,
    endpoint: SocketAddr,
}

/// The tasks, as the configuration wants them.
struct Checks {
    running: BTreeMap<Target, (CheckConfig, AbortHandle)>,
    slots: Arc<Semaphore>,
    tls: Arc<Tls>,
    news: mpsc::Sender<HealthNews>,
}

/// Checks what is configured, until the core has ended.
pub(super) async fn run(mut views: watch::Receiver<Arc<View>>, core: mpsc::Sender<Command>) {
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
        let mut all = Vec::new();
        tokio::select! {
            changed = views.changed() => if changed.is_err() { break },
            // Backends that fail together leave their tables together.
            _ = received.recv_many(&mut all, MAX_NEWS) => {
                if core.send(Command::Health(all)).await.is_err() {
                    break;
                }
            }
        }
    }
}

impl Checks {
    /// Ends the checks of what is configured no more or otherwise, and begins the others.
    fn follow(&mut self, view: &View) {
        let wanted = targets(&view.config);
        self.running.retain(|target, (check, task)| {
            let stays = wanted.get(target).is_some_and(|wanted| *wanted == check);
            if !stays {
                task.abort();
            }
            stays
        });
        for (target, check) in wanted {
            if self.running.contains_key(&target) {
                continue;
            }
            let service = view.board.services.get(&target.service);
            let health = service.map_or(Health::Unknown, |it| it.health_of(target.endpoint));
            let task = Task {
                target: target.clone(),
                check: check.clone(),
                checked: Checked { health, against: 0 },
                slots: self.slots.clone(),
                tls: self.tls.clone(),
                news: self.news.clone(),
            };
            let handle = tokio::spawn(task.run()).abort_handle();
            self.running.insert(target, (check.clone(), handle));
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
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

/// The checks of one backend.
struct Task {
    target: Target,
    check: CheckConfig,
    checked: Checked,
    slots: Arc<Semaphore>,
    tls: Arc<Tls>,
    news: mpsc::Sender<HealthNews>,
}

impl Task {
    async fn run(mut self) {
        let period = Duration::from(self.check.interval);
        // Checks of different backends are spread over the interval, and do not meet again.
        let mut next = Instant::now() + period.mul_f64(fastrand::f64());
        let mut untold = 0;
        // What was adopted is told as soon as it is this agent's own finding.
        let mut told_after = self.check.fall.max(self.check.rise);
        loop {
            sleep_until(next).await;
            next = next.max(Instant::now()) + period.mul_f64(0.95 + fastrand::f64() / 10.0);
            // Never closed.
            let Ok(slot) = self.slots.acquire().await else {
                return;
            };
            let result = probe(&self.check, &self.tls, self.target.endpoint).await;
            drop(slot);
            let (fall, rise) = (self.check.fall, self.check.rise);
            let terms = CheckTerms { fall, rise };
            untold += 1;
            // What the core knows may be from before an apply.
            if self.checked.observe(result.is_ok(), terms).is_none() && untold < told_after {
                continue;
            }
            untold = 0;
            told_after = TOLD_EVERY;
            let news = HealthNews {
                service: self.target.service.clone(),
                endpoint: self.target.endpoint,
                health: self.checked.health,
                is_dead: result.as_ref().is_err_and(|failure| failure.is_dead),
                evidence: evidence(self.checked.health, &result, fall),
            };
            if self.news.send(news).await.is_err() {
                return;
            }
        }
    }
}

fn evidence(health: Health, newest: &Result<(), Failure>, fall: u32) -> String {
    match (health, newest) {
        (Health::Unhealthy, Err(failure)) => {
            format!("{fall} checks in a row have failed: {}", failure.found)
        }
        (Health::Unhealthy, Ok(())) => format!("{fall} checks in a row have failed"),
        (Health::Healthy | Health::Unknown, _) => "it passes its checks".to_owned(),
    }
}
