//! `switcher preview`

use std::net::SocketAddr;

use clap::Args;

use super::{answer::Answer, status, table::Table};
use crate::api::{
    client::Client,
    preview::{PreviewListener, PreviewQuery, PreviewReply},
};

/// Arguments of `switcher preview`.
#[derive(Debug, Args)]
#[command(
    after_help = "A preview listener always leads to the standby, and to the other color from a flip on. Without one \
                  there is nothing to preview (code 3): where it listens is configuration, `preview = true`. \
                  Whether the standby would pass the gate of a flip does not change the exit code: `passes_gate`."
)]
pub(super) struct PreviewArgs {
    /// The service
    service: String,
}

pub(super) async fn run(args: &PreviewArgs, client: &Client) -> Answer {
    let question = PreviewQuery {
        service: args.service.clone(),
    };
    match client.preview(&question).await {
        Ok(reply) => Answer::new(&reply, describe(&reply)),
        Err(error) => error.into(),
    }
}

fn describe(reply: &PreviewReply) -> String {
    let (service, standby) = (&reply.service, reply.standby.name());
    let gate = match &reply.obstacle {
        None => format!("{standby} would pass the gate of a flip\n"),
        Some(obstacle) => format!(
            "a flip would be refused: listener {} has {} eligible backends on {standby}, {} are needed\n\
             next step: bring the backends of {standby} up, configure them, or `switcher flip {service} --to {standby} \
             --force`\n",
            obstacle.listener, obstacle.eligible, obstacle.min_healthy
        ),
    };
    [
        format!(
            "{service}: {standby} is the standby, generation {}, {} preview flows\n",
            reply.generation, reply.preview_flows
        ),
        rows("PREVIEW", &reply.previews),
        rows("LISTENER", &reply.listeners),
        gate,
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect::<Vec<_>>()
    .join("\n")
}

fn rows(kind: &str, listeners: &[PreviewListener]) -> String {
    let mut table = Table::new([kind, "ADDRESS", "BACKEND", "WEIGHT", "STATE", "ELIGIBLE"]);
    for listener in listeners {
        let endpoint = SocketAddr::new(listener.vip, listener.port);
        let address = format!("{endpoint}/{}", listener.protocol.name());
        let row = |backend: String, weight: String, state: String, eligible: &str| {
            let name = listener.name.clone();
            [
                name,
                address.clone(),
                backend,
                weight,
                state,
                eligible.to_owned(),
            ]
        };
        if listener.backends.is_empty() {
            let dash = || "-".to_owned();
            table.row(row("none".to_owned(), dash(), dash(), "-"));
        }
        for backend in &listener.backends {
            let status = &backend.status;
            table.row(row(
                SocketAddr::new(status.address, status.port).to_string(),
                status.weight.to_string(),
                status::state(status),
                if backend.eligible { "yes" } else { "no" },
            ));
        }
    }
    table.render()
}
