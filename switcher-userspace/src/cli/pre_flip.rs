//! `switcher flip --pause --pre-flip COMMAND`: nothing begins while COMMAND runs, such as the copy of data
//! to the color that becomes active.
//!
//! Each step is a verb of its own. So whatever happens to this process, the agent ends the pause.

use std::time::Instant;

use clap::Args;

use super::{Console, hook::Hook};
use crate::{
    api::{
        check::{DEFAULT_PAUSE_MS, MAX_PAUSE_MS},
        client::Client,
        requests::{FlipRequest, PauseRequest, ResumeRequest},
        types::{ApiError, ChangeFailure, ChangeReply, ErrorCode},
    },
    duration::Span,
};

/// What happens before the flip.
#[derive(Debug, Args)]
pub(super) struct PreFlipArgs {
    /// Hold fresh connections from before COMMAND until after the flip
    #[arg(long, requires = "pre_flip")]
    pause: bool,

    /// Runs while fresh connections are held; a failure keeps the old color
    #[arg(
        long,
        value_name = "COMMAND",
        value_parser = Hook::parse,
        requires_all = ["pause", "to"]
    )]
    pre_flip: Option<Hook>,

    /// Longest time to hold them, at most 30s; COMMAND is ended then [default: 5s]
    #[arg(long, value_name = "TIME", requires = "pause")]
    pause_max: Option<Span>,

    /// Hold all packets, in both directions, also those of connections that are there
    #[arg(long, requires = "pause")]
    pause_hard: bool,
}

impl PreFlipArgs {
    /// What is to run before the flip, if anything is.
    pub(super) fn command(&self) -> Option<&Hook> {
        self.pre_flip.as_ref()
    }

    fn pause_max_ms(&self) -> u64 {
        self.pause_max.map_or(DEFAULT_PAUSE_MS, Span::as_millis)
    }
}

/// A flip with what happened before it.
pub(super) struct Held {
    pub(super) flip: Result<ChangeReply, ChangeFailure>,
    /// How long fresh connections were held; `None`: they were not.
    pub(super) held_ms: Option<u64>,
}

impl From<Result<ChangeReply, ChangeFailure>> for Held {
    fn from(flip: Result<ChangeReply, ChangeFailure>) -> Self {
        Self {
            flip,
            held_ms: None,
        }
    }
}

/// Pauses, runs `command`, flips, and resumes in any case.
pub(super) async fn flip(
    args: &PreFlipArgs,
    command: &Hook,
    request: FlipRequest,
    client: &Client,
    console: &mut Console<'_>,
) -> Held {
    // Nobody waits for a flip that would be refused, or that is already so.
    let trial = FlipRequest {
        dry_run: true,
        ..request.clone()
    };
    match client.change(&trial).await {
        Ok(reply) if request.dry_run => return Ok(reply).into(),
        Ok(reply) if reply.would_change == Some(false) => {
            return client.change(&request).await.into();
        }
        Ok(_) => {}
        Err(failure) => return Err(failure).into(),
    }
    if let Err(error) = refuse_other_pauses(&request.services, client).await {
        return Err(error.into()).into();
    }
    let began = Instant::now();
    let paused = match pause(args, &request, client).await {
        Ok(paused) => paused,
        Err(failure) => return Err(failure).into(),
    };
    console.note("paused; pre-flip ...");
    let flip = run_and_flip(args, command, &request, &paused, client).await;
    let resumed = resume(&request, client).await;
    let held_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Held {
        flip: both(flip, resumed),
        held_ms: Some(held_ms),
    }
}

/// A pause that somebody else asked for is not this command's to end.
async fn refuse_other_pauses(services: &[String], client: &Client) -> Result<(), ApiError> {
    let status = client.status().await?;
    let mut named = status
        .services
        .iter()
        .filter(|it| services.contains(&it.name));
    match named.find(|service| !service.pauses.is_empty()) {
        None => Ok(()),
        Some(service) => Err(ApiError::new(
            ErrorCode::Refused,
            format!(
                "cannot pause {} before the flip: it is paused already",
                service.name
            ),
            "wait for its end with `switcher wait SERVICE --until resumed`, or `switcher resume` it",
        )),
    }
}

async fn pause(
    args: &PreFlipArgs,
    request: &FlipRequest,
    client: &Client,
) -> Result<ChangeReply, ChangeFailure> {
    let request = PauseRequest {
        services: request.services.clone(),
        expect_active: request.expect_active,
        if_generation: request.if_generation,
        reason: request.reason.clone(),
        max_ms: Some(args.pause_max_ms()),
        hard: args.pause_hard,
        ..PauseRequest::default()
    };
    client.change(&request).await
}

/// Flips after `command`, if nobody has changed anything meanwhile, and the pause still holds.
async fn run_and_flip(
    args: &PreFlipArgs,
    command: &Hook,
    request: &FlipRequest,
    paused: &ChangeReply,
    client: &Client,
) -> Result<ChangeReply, ChangeFailure> {
    let color = request.to.map_or("", |color| color.name()).to_owned();
    let variables = [
        ("SWITCHER_SERVICE", request.services.join(" ")),
        ("SWITCHER_COLOR", color),
    ];
    let limit = Span::from_millis(args.pause_max_ms().min(MAX_PAUSE_MS));
    command.run("pre-flip", &variables, limit.into()).await?;
    let request = FlipRequest {
        if_generation: Some(paused.generation),
        while_paused: true,
        ..request.clone()
    };
    client.change(&request).await
}

async fn resume(request: &FlipRequest, client: &Client) -> Result<ChangeReply, ChangeFailure> {
    let request = ResumeRequest {
        services: request.services.clone(),
        reason: request.reason.clone(),
        ..ResumeRequest::default()
    };
    client.change(&request).await
}

/// The flip's answer, with the state after the resume.
fn both(
    flip: Result<ChangeReply, ChangeFailure>,
    resumed: Result<ChangeReply, ChangeFailure>,
) -> Result<ChangeReply, ChangeFailure> {
    match (flip, resumed) {
        (Ok(flip), Ok(resumed)) => Ok(ChangeReply {
            generation: resumed.generation,
            ..flip
        }),
        // The codes of refusals promise that nothing has changed.
        (Ok(flip), Err(failed)) => Ok(ChangeReply {
            error: Some(ApiError::new(
                ErrorCode::Internal,
                format!("flipped, but not resumed: {}", failed.error.message),
                "fresh connections are held until the pause ends by itself, at most 30 s; `switcher resume` ends it",
            )),
            ..flip
        }),
        (Err(failed), Ok(resumed)) => Err(ChangeFailure {
            generation: Some(resumed.generation),
            active: resumed.active,
            ..failed
        }),
        (Err(failed), Err(held)) => Err(ChangeFailure {
            error: ApiError::new(
                // What promises that nothing has changed would not be true: the pause stands.
                ErrorCode::Internal,
                format!(
                    "{}; nor could it be resumed: {}",
                    failed.error.message, held.error.message
                ),
                "the pause ends by itself, at most after 30 s; look at `switcher status`",
            ),
            ..failed
        }),
    }
}
