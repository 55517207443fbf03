//! `switcher drain`

use clap::Args;
use serde::Serialize;

use super::{
    Console,
    answer::Answer,
    arguments::at_deadline,
    change::{TermsArgs, Words, body, send_and_wait},
    receipt,
    until::Condition,
    wait,
};
use crate::{
    api::{
        client::Client,
        requests::{ExtendDrainRequest, FinishDrainRequest},
        types::{ApiError, DrainStatus},
    },
    duration::Span,
    switching::AtDeadline,
};

/// Arguments of `switcher drain`.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The service
    service: String,

    /// Move the running drain's deadline away by this time
    #[arg(long, value_name = "TIME", conflicts_with = "finish_now")]
    extend: Option<Span>,

    /// End the running drain: what happens to the flows that are left
    #[arg(long, value_name = "POLICY", value_parser = at_deadline())]
    finish_now: Option<AtDeadline>,

    /// Wait until the drain has ended
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,

    /// Longest time to wait; the drain goes on after it
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Span>,

    #[command(flatten)]
    terms: TermsArgs,
}

#[derive(Serialize)]
struct Shown {
    service: String,
    drain: Option<DrainStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

pub(super) async fn run(args: &DrainArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let services = [args.service.clone()];
    if let Some(by) = args.extend {
        let words = Words {
            done: "extended",
            would: "extend the drain",
        };
        let body = body!(ExtendDrainRequest {
            services, args.terms,
            by_ms: by.as_millis(),
        });
        return send_and_wait(&body, words, args.wait, client, console).await;
    }
    if let Some(at_deadline) = args.finish_now {
        let words = Words {
            done: "finishing now",
            would: "finish the drain",
        };
        let body = body!(FinishDrainRequest {
            services, args.terms,
            at_deadline: at_deadline,
        });
        return send_and_wait(&body, words, args.wait, client, console).await;
    }
    show(args, client, console).await
}

async fn show(args: &DrainArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let (drain, error) = if args.wait {
        let services = std::slice::from_ref(&args.service);
        let drained = [Condition::Drained];
        let waited = wait::until(client, services, &drained, args.timeout, console).await;
        (waited.drain(&args.service), waited.error)
    } else {
        match client.drain(&args.service).await {
            Ok(drain) => (drain, None),
            Err(error) => return error.into(),
        }
    };
    let text = match (&drain, &error) {
        // Nothing is known of the drain; the error says why.
        (None, Some(_)) => String::new(),
        (drain, _) => receipt::text(&args.service, drain.as_ref()),
    };
    let shown = Shown {
        service: args.service.clone(),
        drain,
        error,
    };
    Answer::new(&shown, text).failed(shown.error)
}
