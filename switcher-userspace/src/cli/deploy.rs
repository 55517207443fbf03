//! `switcher deploy`: a whole release. The agent knows nothing of it: each step is a verb of its own, so
//! that whatever happens to this process, the old color stays until the flip, and the agent's own deadlines
//! hold after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use switcher_common::service::{Color, Protocol};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Console, answer::Answer, arguments::at_deadline, hook::Hook, progress, until::Condition, wait,
};
use crate::{
    api::{
        client::Client,
        requests::{FlipRequest, RollbackRequest},
        types::{ApiError, ChangeFailure, ChangeReply, DrainStatus, ErrorCode, ServiceStatus},
    },
    duration::Span,
    switching::AtDeadline,
};

/// How long one attempt to connect to a backend may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two attempts: nothing tells when a process begins to listen on another host.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `switcher deploy`.
#[derive(Debug, Args)]
#[command(
    after_help = "Commands run with your rights and without a shell. They see SWITCHER_SERVICE, \
                  SWITCHER_COLOR (the color that is updated), SWITCHER_BACKENDS (its ADDR:PORTs, separated by \
                  spaces) and SWITCHER_PREVIEW (ADDR:PORTs of preview listeners)."
)]
pub(super) struct DeployArgs {
    /// The service
    service: String,

    /// Updates the standby's backends
    #[arg(last = true, required = true, value_name = "COMMAND")]
    update: Vec<String>,

    /// Longest time that COMMAND may take
    #[arg(long, value_name = "TIME", default_value = "30m")]
    update_timeout: Span,

    /// Longest time until each backend of the standby accepts a TCP connection
    #[arg(long, value_name = "TIME", default_value = "60s")]
    ready_timeout: Span,

    /// Tries the standby before the flip, against the preview; a failure keeps the old color
    #[arg(long, value_name = "COMMAND", value_parser = Hook::parse)]
    smoke: Option<Hook>,

    /// Looks at the service after the flip; a failure brings the old color back
    #[arg(long, value_name = "COMMAND", value_parser = Hook::parse)]
    after: Option<Hook>,

    /// Longest time that each of these two may take
    #[arg(long, value_name = "TIME", default_value = "60s")]
    hook_timeout: Span,

    /// Take the flip back by itself unless `switcher confirm` comes within this time, at most 1h
    #[arg(long, value_name = "TIME")]
    confirm_within: Option<Span>,

    /// Longest drain of the old color [default: as configured]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<Span>,

    /// What happens then to the flows that are left [default: as configured]
    #[arg(long, value_name = "POLICY", value_parser = at_deadline())]
    at_deadline: Option<AtDeadline>,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// What a release came to.
#[derive(Serialize)]
struct Deployed {
    service: String,
    /// Whether the active color is another one than before.
    changed: bool,
    /// The node's generation, where a flip was tried.
    generation: Option<u64>,
    /// The active color as far as this command knows.
    active: BTreeMap<String, Color>,
    /// The steps that were taken.
    steps: Vec<Step>,
    /// How the old color's drain ended.
    drain: Option<DrainStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

#[derive(Clone, Debug, Serialize)]
struct Step {
    name: &'static str,
    took_ms: u64,
    ok: bool,
}

/// A release on its way.
struct Release<'a, 'b, 'c> {
    args: &'a DeployArgs,
    client: &'a Client,
    console: &'b mut Console<'c>,
    outcome: Deployed,
}

pub(super) async fn run(args: &DeployArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let mut release = Release {
        args,
        client,
        console,
        outcome: Deployed {
            service: args.service.clone(),
            changed: false,
            generation: None,
            active: BTreeMap::new(),
            steps: Vec::new(),
            drain: None,
            error: None,
        },
    };
    release.outcome.error = release.carry_out().await.err();
    let outcome = release.outcome;
    let error = outcome.error.clone();
    Answer::new(&outcome, describe(&outcome)).failed(error)
}

impl Release<'_, '_, '_> {
    async fn carry_out(&mut self) -> Result<(), ApiError> {
        let standby = self.look().await?;
        let variables = standby.variables(&self.args.service);
        let update = Hook::of_words(&self.args.update);
        let limit = self.args.update_timeout.into();
        let updated = update.run("update", &variables, limit);
        self.step("update", updated).await?;
        let ready = standby.is_ready(self.args.ready_timeout.into());
        self.step("ready", ready).await?;
        if let Some(smoke) = &self.args.smoke {
            let tried = smoke.run("smoke", &variables, self.args.hook_timeout.into());
            self.step("smoke", tried).await?;
        }
        let flipped = flip(self.args, self.client, standby.color);
        let reply = self.step("flip", flipped).await?;
        self.take(&reply);
        if let Some(after) = &self.args.after {
            let looked = after.run("after", &variables, self.args.hook_timeout.into());
            if let Err(error) = self.step("after", looked).await {
                return Err(self.bring_back(error).await);
            }
        }
        self.drain().await;
        Ok(())
    }

    /// Runs one step, and notes how it went.
    async fn step<T>(
        &mut self,
        step: &'static str,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        self.console.note(&format!("{step} ..."));
        let began = Instant::now();
        let result = work.await;
        self.outcome.steps.push(Step {
            name: step,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            ok: result.is_ok(),
        });
        result
    }

    /// The standby as it is, if a release can begin.
    async fn look(&mut self) -> Result<Standby, ApiError> {
        let (service, client) = (&self.args.service, self.client);
        let look = async move {
            let status = client.status().await?;
            let mut services = status.services.into_iter();
            let found = services.find(|it| it.name == *service).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::NotFound,
                    format!("there is no service {service}"),
                    "`switcher status` lists the services",
                )
            })?;
            may_begin(&found)?;
            Ok(found)
        };
        let found = self.step("look", look).await?;
        self.outcome.active.insert(service.clone(), found.active);
        Ok(Standby::of(&found))
    }

    fn take(&mut self, reply: &ChangeReply) {
        self.outcome.changed = reply.changed;
        self.outcome.generation = Some(reply.generation);
        self.outcome.active.clone_from(&reply.active);
    }

    /// Undoes the flip because of `error`, which is returned with what became of that.
    async fn bring_back(&mut self, error: ApiError) -> ApiError {
        let request = RollbackRequest {
            services: vec![self.args.service.clone()],
            if_generation: self.outcome.generation,
            reason: Some(format!("deploy: {}", error.message)),
            ..RollbackRequest::default()
        };
        let client = self.client;
        let back = async { client.change(&request).await.map_err(told) };
        match self.step("rollback", back).await {
            Ok(reply) => {
                self.take(&reply);
                self.outcome.changed = false;
                let message = format!("{}; the old color is active again", error.message);
                ApiError::new(error.code, message, error.next_step)
            }
            Err(failed) => ApiError::new(
                failed.code,
                format!(
                    "{}; and it could not be rolled back: {}",
                    error.message, failed.message
                ),
                "look at `switcher status`, then decide: `switcher rollback`, or go on",
            ),
        }
    }

    /// Waits for the old color's end. Flows that are left then are told, and no failure of the release.
    async fn drain(&mut self) {
        let services = std::slice::from_ref(&self.args.service);
        let began = Instant::now();
        let drained = [Condition::Drained];
        let waited = wait::until(self.client, services, &drained, None, self.console).await;
        self.outcome.drain = waited.drain(&self.args.service);
        self.outcome.steps.push(Step {
            name: "drain",
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            ok: waited.error.is_none(),
        });
    }
}

/// Refuses a service whose standby is in use.
fn may_begin(service: &ServiceStatus) -> Result<(), ApiError> {
    let (name, standby) = (&service.name, service.standby.name());
    let drains = service
        .drain
        .as_ref()
        .is_some_and(|drain| drain.ended.is_none());
    let refused =
        |why: String, next_step: &str| Err(ApiError::new(ErrorCode::Refused, why, next_step));
    if drains {
        return refused(
            format!(
                "look: {standby}, the standby of {name}, still has connections that are to end"
            ),
            "wait with `switcher drain SERVICE --wait`, or end it with --finish-now",
        );
    }
    if service.split_percent > 0 {
        return refused(
            format!(
                "look: {} % of the clients of {name} go to {standby}, the standby",
                service.split_percent
            ),
            "`switcher abort` or `switcher promote` first",
        );
    }
    if service.confirm_until_at.is_some() {
        return refused(
            format!("look: the newest flip of {name} waits for its confirmation"),
            "`switcher confirm` or `switcher rollback` first",
        );
    }
    Ok(())
}

/// The color that is updated.
struct Standby {
    color: Color,
    backends: BTreeSet<SocketAddr>,
    /// Those that listen on TCP.
    tcp: BTreeSet<SocketAddr>,
    previews: BTreeSet<SocketAddr>,
}

impl Standby {
    fn of(service: &ServiceStatus) -> Self {
        let color = service.standby;
        let mut standby = Self {
            color,
            backends: BTreeSet::new(),
            tcp: BTreeSet::new(),
            previews: BTreeSet::new(),
        };
        for listener in &service.listeners {
            if listener.preview {
                standby
                    .previews
                    .insert((listener.vip, listener.port).into());
            }
            for backend in listener.backends.get(color) {
                let endpoint = SocketAddr::from((backend.address, backend.port));
                standby.backends.insert(endpoint);
                if listener.protocol == Protocol::Tcp && !backend.drained {
                    standby.tcp.insert(endpoint);
                }
            }
        }
        standby
    }

    fn variables(&self, service: &str) -> [(&'static str, String); 4] {
        let list = |endpoints: &BTreeSet<SocketAddr>| {
            let each: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            each.join(" ")
        };
        [
            ("SWITCHER_SERVICE", service.to_owned()),
            ("SWITCHER_COLOR", self.color.name().to_owned()),
            ("SWITCHER_BACKENDS", list(&self.backends)),
            ("SWITCHER_PREVIEW", list(&self.previews)),
        ]
    }

    /// Waits until each TCP backend accepts a connection.
    async fn is_ready(&self, limit: Duration) -> Result<(), ApiError> {
        let mut missing = self.tcp.clone();
        let all = async {
            while !missing.is_empty() {
                for endpoint in missing.clone() {
                    let connected = timeout(CONNECT_LIMIT, TcpStream::connect(endpoint)).await;
                    if matches!(connected, Ok(Ok(_))) {
                        missing.remove(&endpoint);
                    }
                }
                if !missing.is_empty() {
                    sleep(CONNECT_PAUSE).await;
                }
            }
        };
        if timeout(limit, all).await.is_ok() {
            return Ok(());
        }
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        Err(ApiError::new(
            ErrorCode::Refused,
            format!(
                "ready: within {limit:?} no connection to {} of {}",
                missing.join(", "),
                self.color.name()
            ),
            "start what listens there, or take it out of the configuration, then repeat the command",
        ))
    }
}

async fn flip(args: &DeployArgs, client: &Client, to: Color) -> Result<ChangeReply, ApiError> {
    let request = FlipRequest {
        services: vec![args.service.clone()],
        to: Some(to),
        expect_active: Some(to.other()),
        reason: Some(args.reason.clone().unwrap_or_else(|| "deploy".to_owned())),
        drain_timeout_ms: args.drain_timeout.map(Span::as_millis),
        at_deadline: args.at_deadline,
        confirm_within_ms: args.confirm_within.map(Span::as_millis),
        ..FlipRequest::default()
    };
    let reply = client.change(&request).await.map_err(told)?;
    if reply.changed {
        return Ok(reply);
    }
    Err(ApiError::new(
        ErrorCode::Conflict,
        format!(
            "flip: {} became active while its backends were updated",
            to.name()
        ),
        "somebody else has flipped: look at `switcher history`",
    ))
}

/// A failed change as the error of a step.
fn told(failure: ChangeFailure) -> ApiError {
    failure.error
}

fn describe(outcome: &Deployed) -> String {
    let mut lines: Vec<String> = (outcome.steps.iter())
        .map(|step| {
            let how = if step.ok { "ok" } else { "failed" };
            format!("{:<8} {how} after {} ms", step.name, step.took_ms)
        })
        .collect();
    if let Some(drain) = &outcome.drain {
        lines.push(progress::line(&outcome.service, Some(drain)));
    }
    let active = outcome.active.iter();
    lines.extend(active.map(|(service, color)| format!("{service}: {} is active", color.name())));
    lines.join("\n")
}
