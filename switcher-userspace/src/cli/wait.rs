//! Waiting for services: the one way of `wait`, `drain --wait` and every change with `--wait`.

use std::{future, time::Duration};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::Serialize;
use tokio::time::{Instant, Interval, interval, sleep_until};

use super::{
    Console,
    answer::Answer,
    progress::Progress,
    receipt,
    until::{Condition, Verdict},
};
use crate::{
    api::{
        client::{Client, StatusWatch},
        types::{ApiError, DrainStatus, ErrorCode, ServiceStatus, StatusReply},
    },
    duration::Span,
};

/// How often the live line's clock moves.
const TICK: Duration = Duration::from_millis(100);

/// Arguments of `switcher wait`.
#[derive(Debug, Args)]
#[command(
    after_help = "Conditions, all at once: active=blue or active=green; healthy=blue or healthy=green: every backend of it \
                  that is not drained passes its checks; drained: no drain runs, and the newest one \
                  left no flow (code 5 if it did); confirmed: the newest flip waits for no confirmation (code 4 if it \
                  was taken back); resumed: nothing is paused."
)]
pub(super) struct WaitArgs {
    /// Services that are waited for, all at once
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    /// What is waited for
    #[arg(
        long,
        required = true,
        value_name = "CONDITION",
        value_delimiter = ',',
        value_parser = condition()
    )]
    until: Vec<Condition>,

    /// Longest time to wait; 0s looks once
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
}

fn condition() -> impl TypedValueParser<Value = Condition> {
    PossibleValuesParser::new(Condition::ALL.map(|(name, _)| name)).map(|name| {
        let named = Condition::ALL.into_iter().find(|(it, _)| *it == name);
        // The parser lets only these names through.
        named.map_or(Condition::Drained, |(_, condition)| condition)
    })
}

#[derive(Serialize)]
struct Shown {
    until: Vec<&'static str>,
    services: Vec<ServiceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

pub(super) async fn run(args: &WaitArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let waited = until(client, &args.services, &args.until, args.timeout, console).await;
    let until = args.until.iter().map(|condition| condition.name());
    let shown = Shown {
        until: until.collect(),
        services: waited.services,
        error: waited.error,
    };
    let text = match &shown.error {
        Some(_) => String::new(),
        None => format!("{}: {}", args.services.join(", "), shown.until.join(", ")),
    };
    Answer::new(&shown, text).failed(shown.error)
}

/// How waiting ended.
pub(super) struct Waited {
    /// The services as they were last; none when nothing is known.
    pub(super) services: Vec<ServiceStatus>,
    /// Absent when all conditions hold.
    pub(super) error: Option<ApiError>,
}

impl Waited {
    /// The newest drain of `service`.
    pub(super) fn drain(&self, service: &str) -> Option<DrainStatus> {
        let mut services = self.services.iter();
        services.find(|it| it.name == service)?.drain.clone()
    }
}

/// Waits until all `conditions` hold for all `services` at once, at most `limit`.
pub(super) async fn until(
    client: &Client,
    services: &[String],
    conditions: &[Condition],
    limit: Option<Span>,
    console: &mut Console<'_>,
) -> Waited {
    let mut waiting = Waiting {
        names: services,
        conditions,
        services: Vec::new(),
        progress: Progress::new(console),
    };
    let ended = waiting.run(client, limit).await;
    waiting.progress.clear();
    Waited {
        services: waiting.services,
        error: ended.err(),
    }
}

struct Waiting<'a, 'b> {
    names: &'a [String],
    conditions: &'a [Condition],
    /// As told last.
    services: Vec<ServiceStatus>,
    progress: Progress<'a, 'b>,
}

impl Waiting<'_, '_> {
    async fn run(&mut self, client: &Client, limit: Option<Span>) -> Result<(), ApiError> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit.into()));
        let mut watch = client.watch_status(Some(self.names)).await?;
        // The first status comes at once, and counts however short the limit is.
        let mut news = watch.next().await?;
        let mut ticks = self.progress.live().then(|| interval(TICK));
        loop {
            self.heard(news)?;
            let Some(pending) = self.pending()? else {
                return Ok(());
            };
            news = self
                .next(&mut watch, deadline, &mut ticks, &pending)
                .await?
                .ok_or_else(|| too_long(&pending, limit))?;
        }
    }

    /// The next status; `None`: the deadline has passed.
    async fn next(
        &mut self,
        watch: &mut StatusWatch,
        deadline: Option<Instant>,
        ticks: &mut Option<Interval>,
        pending: &str,
    ) -> Result<Option<StatusReply>, ApiError> {
        loop {
            tokio::select! {
                biased;
                news = watch.next() => return news.map(Some),
                () = passed(deadline) => return Ok(None),
                () = tick(ticks) => {
                    let drains = self.services.iter().filter_map(|it| it.drain.as_ref());
                    self.progress.tick(drains, pending);
                }
            }
        }
    }

    fn heard(&mut self, news: StatusReply) -> Result<(), ApiError> {
        for name in self.names {
            let now = news.services.iter().find(|service| service.name == *name);
            let now = now.ok_or_else(|| gone(name))?;
            let before = self.services.iter().find(|service| service.name == *name);
            if let Some(drain) = now.drain.as_ref().filter(|_| self.is_about_drains()) {
                let before = before.and_then(|before| before.drain.as_ref());
                self.progress.changed(before, drain);
            }
        }
        self.services = news.services;
        Ok(())
    }

    fn is_about_drains(&self) -> bool {
        self.conditions.contains(&Condition::Drained)
    }

    /// What does not hold yet; `None`: all holds. An error when the rest of it never will, and nothing is
    /// to come that may.
    fn pending(&self) -> Result<Option<String>, ApiError> {
        let (mut pending, mut never) = (Vec::new(), Vec::new());
        for service in &self.services {
            let (mut not_yet, mut failed) = (Vec::new(), Vec::new());
            for condition in self.conditions {
                match condition.judge(service) {
                    Verdict::Holds => {}
                    Verdict::NotYet(why) => not_yet.push(why),
                    Verdict::Never(error) => failed.push(error),
                }
            }
            // For this service there is nothing more to wait for.
            if failed.is_empty() {
                pending.extend(not_yet);
            }
            never.extend(failed);
        }
        if !pending.is_empty() {
            return Ok(Some(pending.join("; ")));
        }
        let mut never = never.into_iter();
        match never.next() {
            None => Ok(None),
            Some(first) => Err(never.fold(first, |all, next| ApiError {
                message: format!("{}; {}", all.message, next.message),
                ..all
            })),
        }
    }
}

fn gone(service: &str) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is no service {service} any more"),
        "`switcher status` lists the services",
    )
}

fn too_long(pending: &str, limit: Option<Span>) -> ApiError {
    let within = limit.map(|limit| format!(" within {limit}"));
    ApiError::new(
        ErrorCode::Timeout,
        format!("{pending}{}", within.unwrap_or_default()),
        "what was begun goes on: wait again, or see it with `switcher status`",
    )
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => future::pending().await,
    }
}

/// What there is to say of each drain of `services` that is known.
pub(super) fn lines<'a>(
    waited: &'a Waited,
    services: &'a [String],
) -> impl Iterator<Item = String> {
    services.iter().filter_map(|service| {
        let drain = waited.drain(service)?;
        Some(receipt::text(service, Some(&drain)))
    })
}
