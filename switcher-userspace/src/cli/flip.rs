//! `switcher flip`

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use switcher_common::service::Color;

use super::{
    Console,
    answer::Answer,
    arguments::{at_deadline, color},
    progress, wait,
};
use crate::{
    api::{
        client::Client,
        types::{
            ApiError, ChangeFailure, ChangeReply, DrainStatus, ErrorCode, FlipRequest, StatusReply,
        },
    },
    duration::Span,
    switching::AtDeadline,
};

/// Arguments of `switcher flip`.
#[derive(Debug, Args)]
pub(super) struct FlipArgs {
    /// Services that are flipped at once
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    /// The new active color; without it, the standby
    #[arg(long, value_name = "COLOR", value_parser = color())]
    to: Option<Color>,

    /// Only if this color is active
    #[arg(long, value_name = "COLOR", value_parser = color())]
    expect_active: Option<Color>,

    /// Only if this is the generation of each service
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,

    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Longest drain of the old color [default: as configured]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<Span>,

    /// What happens then to the flows that are left [default: as configured]
    #[arg(long, value_name = "POLICY", value_parser = at_deadline())]
    at_deadline: Option<AtDeadline>,

    /// Wait until the old color's drain has ended
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

#[derive(Serialize)]
struct Flipped {
    #[serde(flatten)]
    change: ChangeReply,
    /// With `--wait`: how each service's drain ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    drains: Option<BTreeMap<String, Option<DrainStatus>>>,
}

pub(super) async fn run(args: &FlipArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    match flip(args, client, console).await {
        Ok(change) => {
            let mut text = describe(&change);
            let mut flipped = Flipped {
                change,
                drains: None,
            };
            if args.wait {
                console.note(&format!(
                    "{}; waiting for the drain to end",
                    headline(&flipped.change)
                ));
                text += &wait_for_drains(args, client, console, &mut flipped).await;
            }
            let error = flipped.change.error.clone();
            Answer::new(&flipped, text).failed(error)
        }
        Err(failure) => failure.into(),
    }
}

async fn flip(
    args: &FlipArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<ChangeReply, ChangeFailure> {
    let mut request = FlipRequest {
        services: args.services.clone(),
        to: args.to,
        expect_active: args.expect_active,
        if_generation: args.if_generation,
        dry_run: args.dry_run,
        reason: args.reason.clone(),
        drain_timeout_ms: args.drain_timeout.map(Span::as_millis),
        at_deadline: args.at_deadline,
    };
    if request.to.is_none() && request.expect_active.is_none() && request.if_generation.is_none() {
        if !console.interactive {
            return Err(no_condition().into());
        }
        let status = client.status().await?;
        request.expect_active = Some(confirm(&request.services, &status, console)?);
    }
    client.flip(&request).await
}

async fn wait_for_drains(
    args: &FlipArgs,
    client: &Client,
    console: &mut Console<'_>,
    flipped: &mut Flipped,
) -> String {
    let waited = wait::for_drains(client, &args.services, None, console).await;
    let services = args.services.iter().cloned();
    let drains: BTreeMap<_, _> = services.zip(waited.drains).collect();
    let known = drains.iter().filter(|(_, drain)| drain.is_some());
    let lines: Vec<String> = known
        .map(|(service, drain)| format!("\n{}", progress::line(service, drain.as_ref())))
        .collect();
    flipped.drains = Some(drains);
    flipped.change.error = waited.error;
    lines.concat()
}

fn no_condition() -> ApiError {
    ApiError::new(
        ErrorCode::Usage,
        "a flip without --to needs --expect-active, --if-generation or somebody at a terminal who \
         confirms it, because a repeated one would flip back",
        "name the new color with --to, or the state that the flip starts from",
    )
}

/// Shows what would change and asks; the active color that the flip must find.
fn confirm(
    services: &[String],
    status: &StatusReply,
    console: &mut Console<'_>,
) -> Result<Color, ApiError> {
    let mut shown = None;
    for name in services {
        let service = status
            .services
            .iter()
            .find(|service| service.name == *name)
            .ok_or_else(|| no_such_service(name))?;
        let active = service.active;
        if *shown.get_or_insert(active) != active {
            return Err(mixed());
        }
        console.note(&format!(
            "{name}: {} → {}",
            active.name(),
            active.other().name()
        ));
    }
    match shown {
        Some(active) if console.confirm("Flip?") => Ok(active),
        _ => Err(ApiError::new(
            ErrorCode::Refused,
            "the flip was not confirmed; nothing changed",
            "answer y, or name the new color with --to",
        )),
    }
}

fn no_such_service(name: &str) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is no service `{name}`"),
        "see the services with `switcher status`",
    )
}

/// One condition covers all services of a flip; without one, the flip might not start from what
/// was shown.
fn mixed() -> ApiError {
    ApiError::new(
        ErrorCode::Usage,
        "the services have different active colors, so a flip of all without --to has no single \
         state to start from",
        "name the new color with --to",
    )
}

fn headline(change: &ChangeReply) -> &'static str {
    match (change.changed, change.would_change) {
        (true, _) => "flipped",
        (false, Some(true)) => "dry run: this would flip, nothing was changed",
        (false, Some(false)) => "dry run: already so, nothing to change",
        (false, None) => "already so, nothing changed",
    }
}

fn describe(change: &ChangeReply) -> String {
    let mut lines = vec![headline(change).to_owned()];
    let active = change.active.iter();
    lines.extend(active.map(|(service, color)| format!("{service}: {} is active", color.name())));
    lines.push(format!(
        "generation {}{}",
        change.generation,
        timing(change)
    ));
    lines.join("\n")
}

fn timing(change: &ChangeReply) -> String {
    let part = |what: &str, us: Option<u64>| {
        us.map(|us| format!(", {what} after {}.{} ms", us / 1_000, us % 1_000 / 100))
            .unwrap_or_default()
    };
    let visible = part("visible", change.visible_us);
    visible + &part("on every CPU", change.barrier_us)
}
