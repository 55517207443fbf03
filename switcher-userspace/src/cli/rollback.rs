//! `switcher rollback` and `switcher confirm`

use clap::Args;

use super::{
    Console,
    answer::Answer,
    change::{DrainTermsArgs, TermsArgs, Words, body, send, send_and_wait},
};
use crate::{
    api::{
        client::Client,
        requests::{ConfirmRequest, RollbackRequest},
    },
    duration::Span,
};

/// Arguments of `switcher rollback`.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Services whose newest flip or promotion is undone, all at once
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    /// Also to a color without enough eligible backends
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    drain: DrainTermsArgs,

    #[command(flatten)]
    terms: TermsArgs,
}

/// Arguments of `switcher confirm`.
#[derive(Debug, Args)]
pub(super) struct ConfirmArgs {
    /// Services of flips that wait for their confirmation; a flip is confirmed in all its services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    #[command(flatten)]
    terms: TermsArgs,
}

pub(super) async fn roll_back(
    args: &RollbackArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Answer {
    let words = Words {
        done: "rolled back",
        would: "roll back",
    };
    let body = body!(RollbackRequest {
        args.services, args.terms,
        drain_timeout_ms: args.drain.drain_timeout.map(Span::as_millis),
        at_deadline: args.drain.at_deadline,
        force: args.force,
    });
    send_and_wait(&body, words, args.drain.wait, client, console).await
}

pub(super) async fn confirm(args: &ConfirmArgs, client: &Client) -> Answer {
    let words = Words {
        done: "confirmed",
        would: "confirm",
    };
    let body = body!(ConfirmRequest { args.services, args.terms });
    send(&body, words, client).await
}
