//! Active checks: a task for each backend of a service that has `[service.check]` asks it again and again,
//! and at once when the program reports something of it, and tells the core when its health has changed.

mod probe;
mod suspicion;
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
    probe::{Failure, Sign, probe},
    suspicion::{Doorbell, Suspecting, Suspicion},
    tls::Tls,
};
use super::{core::Command, view::View};
use crate::{
    config::{CheckConfig, Config, ServiceConfig},
    datapath::{LiveReports, Reported, Reports},
    failover::{CheckTerms, Checked, Health},
};

/// Checks that run at once; each has a descriptor. Further ones wait, and so come later than configured.
const MAX_AT_ONCE: usize = 256;
/// Checks after which health is told again, though it has not changed.
const TOLD_EVERY: u32 = 25;
/// Reports that are taken together.
const REPORTS_AT_ONCE: usize = 256;
/// From the end of a check that a report has asked for to the next such: who has himself refused on purpose
/// makes no more checks than that.
const BETWEEN_SUSPICIONS: Duration = Duration::from_millis(50);
/// A backend that is silent for so long is taken for dead: a lost SYN is repeated after a second (RFC 6298), and
/// a backend that is overrun for a moment goes on serving the connections that it has.
const DEAD_SILENCE: Duration = Duration::from_millis(1_200);
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
    pub(super) began_at: std::time::Instant,
    /// What the checks have found.
    pub(super) evidence: String,
    /// When it refused the connection that led to this.
    pub(super) refused_at: Option<std::time::Instant>,
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
                silent_since: None,
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

/// The checks of one backend.
struct Task {
    target: Target,
    check: CheckConfig,
    checked: Checked,
    slots: Arc<Semaphore>,
    tls: Arc<Tls>,
    news: mpsc::Sender<HealthNews>,
    bell: Arc<Doorbell>,
    /// When the first of the newest checks in a row began that got no answer at all.
    silent_since: Option<Instant>,
}

impl Task {
    async fn run(mut self) {
        let period = Duration::from(self.check.interval);
        // Checks of different backends are spread over the interval, and do not meet again.
        let mut next = Instant::now() + period.mul_f64(fastrand::f64());
        let mut untold = 0;
        // What was adopted is told as soon as it is this agent's own finding.
        let mut told_after = self.check.fall.max(self.check.rise);
        let mut suspected_until = Instant::now();
        let mut was_dead = false;
        loop {
            let mut suspicion = self.wait(next, suspected_until).await;
            if suspicion.is_none() {
                next = next.max(Instant::now()) + period.mul_f64(0.95 + fastrand::f64() / 10.0);
            }
            // A check that has begun before knows nothing of what is seen meanwhile.
            let mut began_at = Instant::now();
            let result = loop {
                let Some(result) = self.ask(suspicion.as_ref()).await else {
                    suspicion = self.bell.answer(true);
                    began_at = Instant::now();
                    continue;
                };
                break result;
            };
            let (fall, rise) = (self.check.fall, self.check.rise);
            let change = match (&suspicion, &result) {
                (Some(_), Err(_)) => self.checked.fail(),
                _ => self
                    .checked
                    .observe(result.is_ok(), CheckTerms { fall, rise }),
            };
            if suspicion.is_some() {
                suspected_until = Instant::now() + BETWEEN_SUSPICIONS;
            }
            untold += 1;
            let is_dead = self.note_sign(&result, began_at);
            let dies = is_dead && !was_dead;
            was_dead = is_dead;
            // What the core knows may be from before an apply.
            let is_news = change.is_some() || dies || suspicion.is_some();
            if !is_news && untold < told_after {
                continue;
            }
            untold = 0;
            told_after = TOLD_EVERY;
            let news = HealthNews {
                service: self.target.service.clone(),
                endpoint: self.target.endpoint,
                health: self.checked.health,
                is_dead,
                began_at: began_at.into_std(),
                evidence: evidence(self.checked.health, &result, fall, suspicion.as_ref()),
                refused_at: suspicion.and_then(|it| it.refused_at),
            };
            if self.news.send(news).await.is_err() {
                return;
            }
        }
    }

    /// Notes what a check that began at `began_at` tells of whether the backend lives; `true`: it is dead.
    fn note_sign(&mut self, result: &Result<(), Failure>, began_at: Instant) -> bool {
        let sign = result.as_ref().err().map(|failure| failure.sign);
        if sign != Some(Sign::Silent) {
            self.silent_since = None;
            return sign == Some(Sign::Refuses);
        }
        self.silent_since.get_or_insert(began_at).elapsed() >= DEAD_SILENCE
    }

    /// Waits for the next check in turn, or for something that asks for one before: what, if it does. Who
    /// does not serve is not suspected.
    async fn wait(&self, next: Instant, suspected_until: Instant) -> Option<Suspicion> {
        loop {
            let is_time = Instant::now() >= suspected_until;
            let suspicion = self.bell.answer(is_time);
            if suspicion.is_some() && self.checked.health != Health::Unhealthy {
                return suspicion;
            }
            tokio::select! {
                () = sleep_until(next) => return None,
                () = self.bell.rung() => {}
                () = sleep_until(suspected_until), if self.bell.has_visitor() => {}
            }
        }
    }

    /// Asks the backend; `None`: it was suspected while it was asked in turn, and is to be asked again.
    async fn ask(&self, suspicion: Option<&Suspicion>) -> Option<Result<(), Failure>> {
        if let Some(certain) = suspicion.filter(|it| it.is_certain()) {
            return Some(Err(Failure {
                found: certain.to_string(),
                sign: Sign::Alive,
            }));
        }
        let ask = async {
            // Never closed; and a check that is not counted is one too.
            let _slot = self.slots.acquire().await;
            probe(&self.check, &self.tls, self.target.endpoint).await
        };
        let is_out = self.checked.health == Health::Unhealthy;
        tokio::select! {
            result = ask => Some(result),
            () = self.bell.rung(), if suspicion.is_none() && !is_out => None,
        }
    }
}

fn evidence(
    health: Health,
    newest: &Result<(), Failure>,
    fall: u32,
    suspicion: Option<&Suspicion>,
) -> String {
    match (health, newest, suspicion) {
        (Health::Unhealthy, Err(failure), Some(certain)) if certain.is_certain() => {
            failure.found.clone()
        }
        (Health::Unhealthy, Err(failure), Some(suspicion)) => {
            format!("{suspicion}, and a check right after: {}", failure.found)
        }
        (Health::Unhealthy, Err(failure), None) => {
            format!("{fall} checks in a row have failed: {}", failure.found)
        }
        (Health::Unhealthy, Ok(()), _) => format!("{fall} checks in a row have failed"),
        (Health::Healthy | Health::Unknown, ..) => "it passes its checks".to_owned(),
    }
}
