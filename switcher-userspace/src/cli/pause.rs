//! `switcher pause` and `switcher resume`

use clap::Args;

use super::{
    answer::Answer,
    change::{TermsArgs, Words, body, send},
};
use crate::{
    api::{
        client::Client,
        requests::{PauseRequest, ResumeRequest},
        types::{ApiError, ChangeFailure, ErrorCode},
    },
    duration::Span,
};

/// Arguments of `switcher pause`.
#[derive(Debug, Args)]
#[command(
    after_help = "Fresh connections wait: their first packets are dropped, and clients send them again. \
                  A client that has waited for 3 s may wait about as long again after the pause, \
                  since it retries at growing intervals. Connections that are there go on."
)]
pub(super) struct PauseArgs {
    /// The service, or one listener of it
    #[arg(value_name = "SERVICE[/LISTENER]")]
    target: String,

    /// When it ends by itself, at most 30s [default: 5s]
    #[arg(long, value_name = "TIME")]
    max: Option<Span>,

    /// Drop every packet, in both directions
    #[arg(long)]
    hard: bool,

    #[command(flatten)]
    terms: TermsArgs,
}

/// Arguments of `switcher resume`.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The service, or one listener of it
    #[arg(value_name = "SERVICE[/LISTENER]")]
    target: String,

    #[command(flatten)]
    terms: TermsArgs,
}

pub(super) async fn pause(args: &PauseArgs, client: &Client) -> Answer {
    let words = Words {
        done: "paused",
        would: "pause",
    };
    let (services, listener) = match parts(&args.target) {
        Ok(parts) => parts,
        Err(error) => return ChangeFailure::from(error).into(),
    };
    let body = body!(PauseRequest {
        services, args.terms,
        listener: listener,
        max_ms: args.max.map(Span::as_millis),
        hard: args.hard,
    });
    send(&body, words, client).await
}

pub(super) async fn resume(args: &ResumeArgs, client: &Client) -> Answer {
    let words = Words {
        done: "resumed",
        would: "resume",
    };
    let (services, listener) = match parts(&args.target) {
        Ok(parts) => parts,
        Err(error) => return ChangeFailure::from(error).into(),
    };
    let body = body!(ResumeRequest {
        services, args.terms,
        listener: listener,
    });
    send(&body, words, client).await
}

/// The service and the listener of `SERVICE[/LISTENER]`.
fn parts(target: &str) -> Result<([String; 1], Option<String>), ApiError> {
    match target.split_once('/') {
        None => Ok(([target.to_owned()], None)),
        Some((service, listener)) if !listener.is_empty() => {
            Ok(([service.to_owned()], Some(listener.to_owned())))
        }
        Some(_) => Err(ApiError::new(
            ErrorCode::Usage,
            format!("`{target}` names no listener behind the slash"),
            "write SERVICE, or SERVICE/LISTENER",
        )),
    }
}
