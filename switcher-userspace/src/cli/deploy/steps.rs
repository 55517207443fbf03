//! The steps of a release: each is told as it begins, and kept with how it went.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use switcher_common::service::Color;
use tokio::time::sleep;

use super::{DeployArgs, standby::Standby};
use crate::{
    api::{
        client::Client,
        requests::{Body, ConfirmRequest, FlipRequest, RollbackRequest},
        types::{ApiError, ChangeReply, DrainStatus, ErrorCode, ServiceStatus},
    },
    cli::{Console, receipt, until::Condition, wait},
    duration::Span,
};

/// Beyond the time that `--after` may take, until a flip that nobody confirms is taken back.
const CONFIRM_MARGIN_MS: u64 = 10_000;
/// Longest time to confirm a flip: as the API allows.
const MAX_CONFIRM_MS: u64 = 60 * 60 * 1_000;

/// What a release came to.
#[derive(Serialize)]
pub(super) struct Deployed {
    service: String,
    /// Whether the active color is another one than before.
    changed: bool,
    /// The node's generation after the newest change.
    generation: Option<u64>,
    /// The active color as far as this command knows.
    active: BTreeMap<String, Color>,
    /// The steps that were taken.
    steps: Vec<Step>,
    /// How the newest drain ended.
    drain: Option<DrainStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ApiError>,
}

#[derive(Clone, Debug, Serialize)]
struct Step {
    name: &'static str,
    took_ms: u64,
    ok: bool,
}

impl Deployed {
    /// For people.
    pub(super) fn describe(&self) -> String {
        let mut lines: Vec<String> = (self.steps.iter())
            .map(|step| {
                let how = if step.ok { "ok" } else { "failed" };
                format!("{:<8} {how} after {} ms", step.name, step.took_ms)
            })
            .collect();
        if let Some(drain) = &self.drain {
            lines.push(receipt::text(&self.service, Some(drain)));
        }
        let active = self.active.iter();
        lines.extend(
            active.map(|(service, color)| format!("{service}: {} is active", color.name())),
        );
        lines.join("\n")
    }
}

/// A release on its way.
pub(super) struct Steps<'a, 'b, 'c> {
    pub(super) args: &'a DeployArgs,
    client: &'a Client,
    console: &'b mut Console<'c>,
    outcome: Deployed,
    /// The color that was active at the beginning.
    began_with: Option<Color>,
    /// The share of the clients, in percent, that the standby had, and does not have any more.
    pub(super) share_taken: Option<u8>,
}

impl<'a, 'b, 'c> Steps<'a, 'b, 'c> {
    pub(super) fn new(
        args: &'a DeployArgs,
        client: &'a Client,
        console: &'b mut Console<'c>,
    ) -> Self {
        let outcome = Deployed {
            service: args.service.clone(),
            changed: false,
            generation: None,
            active: BTreeMap::new(),
            steps: Vec::new(),
            drain: None,
            error: None,
        };
        Self {
            args,
            client,
            console,
            outcome,
            began_with: None,
            share_taken: None,
        }
    }

    /// What it came to.
    pub(super) fn end(self, mut error: Option<ApiError>) -> Deployed {
        let is_changed = self.outcome.changed || self.share_taken.is_some();
        if let Some(error) = error.as_mut().filter(|_| is_changed) {
            if error.code.promises_no_change() {
                error.code = ErrorCode::Internal;
            }
            if let Some(percent) = self.share_taken {
                let next =
                    format!("; the standby had {percent} % of the clients: --split {percent}");
                error.next_step.push_str(&next);
            }
        }
        Deployed {
            error,
            ..self.outcome
        }
    }

    /// Runs one step, and notes how it went.
    async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        self.console.note(&format!("{name} ..."));
        let began = Instant::now();
        let result = work.await;
        self.note(name, began.elapsed(), result.is_ok());
        result
    }

    fn note(&mut self, name: &'static str, took: Duration, ok: bool) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.outcome.steps.push(Step { name, took_ms, ok });
    }

    /// The service as it is, if `may_begin` finds nothing in the way.
    pub(super) async fn look(
        &mut self,
        may_begin: fn(&ServiceStatus) -> Result<(), ApiError>,
    ) -> Result<ServiceStatus, ApiError> {
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
        self.began_with.get_or_insert(found.active);
        Ok(found)
    }

    /// Updates the standby and tries it; nobody but the preview's clients sees it meanwhile.
    pub(super) async fn update(&mut self, standby: &Standby) -> Result<(), ApiError> {
        let args = self.args;
        let variables = standby.variables(&args.service);
        let update = crate::cli::hook::Hook::of_words(&args.update);
        let updated = update.run("update", &variables, args.update_timeout.into());
        self.step("update", updated).await?;
        let ready = standby.is_ready(args.ready_timeout.into());
        self.step("ready", ready).await?;
        self.healthy(standby).await?;
        if let Some(smoke) = &args.smoke {
            let tried = smoke.run("smoke", &variables, args.hook_timeout.into());
            self.step("smoke", tried).await?;
        }
        Ok(())
    }

    /// Waits until the checks, where there are any, have seen the updated backends, and pass.
    async fn healthy(&mut self, standby: &Standby) -> Result<(), ApiError> {
        let Some(settles) = standby.health_settles else {
            return Ok(());
        };
        let limit = self.args.ready_timeout;
        let services = std::slice::from_ref(&self.args.service);
        let began = Instant::now();
        // What is known before is from before the update.
        sleep(settles).await;
        let healthy = [Condition::Healthy(standby.color)];
        let waited = wait::until(self.client, services, &healthy, Some(limit), self.console).await;
        self.note("healthy", began.elapsed(), waited.error.is_none());
        match waited.error {
            None => Ok(()),
            // Nothing has changed, so this is no timeout of a change that stands.
            Some(error) => Err(ApiError::new(
                ErrorCode::Refused,
                format!("healthy: {}", error.message),
                "mend what the checks find (`switcher history` says what), then repeat the command",
            )),
        }
    }

    /// Makes the standby active, and looks at it; brings the old color back if that finds a fault.
    pub(super) async fn flip(&mut self, standby: &Standby) -> Result<(), ApiError> {
        let request = flip_request(self.args, standby.color);
        let reply = self.change("flip", &request).await?;
        if !reply.changed {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "flip: {} became active while its backends were updated",
                    standby.color.name()
                ),
                "somebody else has flipped: look at `switcher history`",
            ));
        }
        if let Some(after) = &self.args.after {
            let variables = standby.variables(&self.args.service);
            let looked = after.run("after", &variables, self.args.hook_timeout.into());
            if let Err(error) = self.step("after", looked).await {
                return Err(self.bring_back(error).await);
            }
        }
        self.confirm(reply.generation).await
    }

    /// Lets the flip of `generation` stand, or waits until somebody does.
    async fn confirm(&mut self, generation: u64) -> Result<(), ApiError> {
        let args = self.args;
        if args.confirm_within.is_none() {
            if args.after.is_some() {
                let request = ConfirmRequest {
                    services: vec![args.service.clone()],
                    if_generation: Some(generation),
                    reason: Some(args.reason()),
                    ..ConfirmRequest::default()
                };
                self.change("confirm", &request).await?;
            }
            return Ok(());
        }
        if !args.wait_confirmed && !args.rolling {
            return Ok(());
        }
        let waited = self.wait("confirm", Condition::Confirmed).await;
        let services = waited.services.iter();
        let active = services.map(|it| (it.name.clone(), it.active)).collect();
        self.take((None, active));
        waited.error.map_or(Ok(()), Err)
    }

    /// Undoes the flip because of `error`, which is returned with what became of that.
    async fn bring_back(&mut self, error: ApiError) -> ApiError {
        let request = RollbackRequest {
            services: vec![self.args.service.clone()],
            if_generation: self.outcome.generation,
            reason: Some(format!("deploy: {}", error.message)),
            ..RollbackRequest::default()
        };
        match self.change("rollback", &request).await {
            Ok(_) => {
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

    /// Asks the agent for a change, and keeps what it answers.
    pub(super) async fn change<B: Body>(
        &mut self,
        name: &'static str,
        request: &B,
    ) -> Result<ChangeReply, ApiError> {
        let client = self.client;
        let mut told = (None, BTreeMap::new());
        let change = async {
            let changed = client.change(request).await;
            told = match &changed {
                Ok(reply) => (Some(reply.generation), reply.active.clone()),
                Err(failure) => (failure.generation, failure.active.clone()),
            };
            changed.map_err(|failure| failure.error)
        };
        let changed = self.step(name, change).await;
        self.take(told);
        changed
    }

    /// Keeps a generation and active colors, as far as an answer tells them.
    fn take(&mut self, (generation, active): (Option<u64>, BTreeMap<String, Color>)) {
        self.outcome.generation = generation.or(self.outcome.generation);
        self.outcome.active.extend(active);
        let active = self.outcome.active.get(&self.args.service).copied();
        self.outcome.changed = active.is_some() && active != self.began_with;
    }

    /// Waits for the end of the drain. Flows that are left then are told, and no failure of the release.
    pub(super) async fn drain(&mut self) {
        let waited = self.wait("drain", Condition::Drained).await;
        self.outcome.drain = waited.drain(&self.args.service);
    }

    async fn wait(&mut self, name: &'static str, condition: Condition) -> wait::Waited {
        let services = std::slice::from_ref(&self.args.service);
        let began = Instant::now();
        let waited = wait::until(self.client, services, &[condition], None, self.console).await;
        self.note(name, began.elapsed(), waited.error.is_none());
        waited
    }
}

fn flip_request(args: &DeployArgs, to: Color) -> FlipRequest {
    // Whoever dies between the flip and the end of `--after` cannot bring the old color back.
    let until_looked = args.after.as_ref().map(|_| {
        let ms = args.hook_timeout.as_millis() + CONFIRM_MARGIN_MS;
        ms.min(MAX_CONFIRM_MS)
    });
    FlipRequest {
        services: vec![args.service.clone()],
        to: Some(to),
        expect_active: Some(to.other()),
        reason: Some(args.reason()),
        drain_timeout_ms: args.drain_timeout.map(Span::as_millis),
        at_deadline: args.at_deadline,
        confirm_within_ms: args.confirm_within.map(Span::as_millis).or(until_looked),
        ..FlipRequest::default()
    }
}
