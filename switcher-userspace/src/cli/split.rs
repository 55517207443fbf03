//! `switcher split`, `switcher promote` and `switcher abort`

use clap::Args;

use super::{
    Console,
    answer::Answer,
    change::{DrainTermsArgs, TermsArgs, Words, body, send, send_and_wait},
};
use crate::{
    api::{
        client::Client,
        requests::{AbortRequest, PromoteRequest, SplitRequest},
    },
    duration::Span,
};

/// Arguments of `switcher split`.
#[derive(Debug, Args)]
pub(super) struct SplitArgs {
    /// Services whose clients are shared between the colors, all at once
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    /// Share of the clients, by their addresses, whose fresh flows go to the standby
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    standby: u8,

    #[command(flatten)]
    terms: TermsArgs,
}

/// Arguments of `switcher promote`.
#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// Services whose standby has a share of the clients and becomes active, all at once
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    /// Also a standby without enough eligible backends
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    drain: DrainTermsArgs,

    #[command(flatten)]
    terms: TermsArgs,
}

/// Arguments of `switcher abort`.
#[derive(Debug, Args)]
pub(super) struct AbortArgs {
    /// Services whose standby gets no fresh flows any more and drains, all at once
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    #[command(flatten)]
    drain: DrainTermsArgs,

    #[command(flatten)]
    terms: TermsArgs,
}

pub(super) async fn split(args: &SplitArgs, client: &Client) -> Answer {
    let words = Words {
        done: "split",
        would: "split",
    };
    let body = body!(SplitRequest {
        args.services, args.terms,
        standby_percent: args.standby,
    });
    send(&body, words, client).await
}

pub(super) async fn promote(
    args: &PromoteArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Answer {
    let words = Words {
        done: "promoted",
        would: "promote",
    };
    let body = body!(PromoteRequest {
        args.services, args.terms,
        drain_timeout_ms: args.drain.drain_timeout.map(Span::as_millis),
        at_deadline: args.drain.at_deadline,
        force: args.force,
    });
    send_and_wait(&body, words, args.drain.wait, client, console).await
}

pub(super) async fn abort(args: &AbortArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let words = Words {
        done: "aborted",
        would: "abort",
    };
    let body = body!(AbortRequest {
        args.services, args.terms,
        drain_timeout_ms: args.drain.drain_timeout.map(Span::as_millis),
        at_deadline: args.drain.at_deadline,
    });
    send_and_wait(&body, words, args.drain.wait, client, console).await
}
