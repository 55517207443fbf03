//! `switcher flip`

use clap::Args;
use switcher_common::service::Color;

use super::{
    Console,
    answer::Answer,
    arguments::color,
    change::{DrainTermsArgs, Outcome, TermsArgs, Words, body},
    pre_flip::{self, PreFlipArgs},
};
use crate::{
    api::{
        client::Client,
        requests::FlipRequest,
        types::{ApiError, ChangeFailure, ErrorCode, StatusReply},
    },
    duration::Span,
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

    /// Take the flip back by itself unless `switcher confirm` comes within this time, at most 1h
    #[arg(long, value_name = "TIME")]
    confirm_within: Option<Span>,

    /// Also to a color without enough eligible backends
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    before: PreFlipArgs,

    #[command(flatten)]
    drain: DrainTermsArgs,

    #[command(flatten)]
    terms: TermsArgs,
}

pub(super) async fn run(args: &FlipArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let words = Words {
        done: "flipped",
        would: "flip",
    };
    let request = match request(args, client, console).await {
        Ok(request) => request,
        Err(error) => return ChangeFailure::from(error).into(),
    };
    let held = match args.before.command() {
        Some(command) => pre_flip::flip(&args.before, command, request, client, console).await,
        None => client.change(&request).await.into(),
    };
    let outcome = Outcome {
        change: held.flip,
        held_ms: held.held_ms,
    };
    outcome
        .told(&args.services, words, args.drain.wait, client, console)
        .await
}

/// The request; one that a repetition would undo is confirmed by somebody at a terminal.
async fn request(
    args: &FlipArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<FlipRequest, ApiError> {
    let mut request = body!(FlipRequest {
        args.services, args.terms,
        to: args.to,
        drain_timeout_ms: args.drain.drain_timeout.map(Span::as_millis),
        at_deadline: args.drain.at_deadline,
        confirm_within_ms: args.confirm_within.map(Span::as_millis),
        force: args.force,
        while_paused: false,
    });
    if request.to.is_none() && request.expect_active.is_none() && request.if_generation.is_none() {
        if !console.interactive {
            return Err(no_condition());
        }
        let status = client.status().await?;
        request.expect_active = Some(confirm(&request.services, &status, console)?);
    }
    Ok(request)
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
        format!("there is no service {name}"),
        "`switcher status` lists the services",
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
