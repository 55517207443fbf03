//! `switcher drain`

use clap::Args;
use serde::Serialize;

use super::{Console, answer::Answer, progress, wait};
use crate::{
    api::{
        client::Client,
        types::{ApiError, DrainStatus},
    },
    duration::Span,
};

/// Arguments of `switcher drain`.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The service
    service: String,

    /// Wait until the drain has ended
    #[arg(long)]
    wait: bool,

    /// Longest time to wait; the drain goes on after it
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Span>,
}

#[derive(Serialize)]
struct Shown {
    service: String,
    drain: Option<DrainStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

pub(super) async fn run(args: &DrainArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let (drain, error) = if args.wait {
        let services = std::slice::from_ref(&args.service);
        let mut waited = wait::for_drains(client, services, args.timeout, console).await;
        (waited.drains.pop().flatten(), waited.error)
    } else {
        match client.drain(&args.service).await {
            Ok(drain) => (drain, None),
            Err(error) => return error.into(),
        }
    };
    let text = match (&drain, &error) {
        // Nothing is known of the drain; the error says why.
        (None, Some(_)) => String::new(),
        (drain, _) => progress::line(&args.service, drain.as_ref()),
    };
    let shown = Shown {
        service: args.service.clone(),
        drain,
        error,
    };
    Answer::new(&shown, text).failed(shown.error)
}
