//! `switcher history`

use std::{net::SocketAddr, num::NonZeroUsize};

use clap::Args;

use super::{answer::Answer, receipt, table::Table};
use crate::api::{
    client::Client,
    history::{HistoryEntry, HistoryQuery, HistoryReply},
    types::RemovedListenerStatus,
};

/// Arguments of `switcher history`.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Only what concerns this service
    service: Option<String>,

    /// At most so many, the newest ones
    #[arg(long, value_name = "N", default_value = "50")]
    limit: NonZeroUsize,
}

pub(super) async fn run(args: &HistoryArgs, client: &Client) -> Answer {
    let question = HistoryQuery {
        service: args.service.clone(),
        limit: Some(args.limit),
    };
    match client.history(&question).await {
        Ok(reply) => Answer::new(&reply, describe(&reply)),
        Err(error) => error.into(),
    }
}

fn describe(reply: &HistoryReply) -> String {
    if reply.entries.is_empty() {
        return "nothing has changed yet".to_owned();
    }
    let mut table = Table::new(["AT", "WHAT", "SERVICES", "GENERATION", "BY", "RESULT"]);
    for entry in &reply.entries {
        table.row([
            entry.at.clone(),
            entry.what.name().to_owned(),
            services(entry),
            entry.generation.to_string(),
            by(entry),
            result(entry),
        ]);
    }
    table.render()
}

fn services(entry: &HistoryEntry) -> String {
    let named = entry
        .services
        .iter()
        .map(|name| match entry.active.get(name) {
            Some(active) => format!("{name}: {}", active.name()),
            None => name.clone(),
        });
    named.collect::<Vec<_>>().join(", ")
}

fn by(entry: &HistoryEntry) -> String {
    entry
        .by
        .map_or_else(|| "the agent".to_owned(), |who| format!("uid {}", who.uid))
}

fn result(entry: &HistoryEntry) -> String {
    let drained = entry.drain.as_ref().map(receipt::flows);
    let error = entry.error.as_ref().map(|error| error.message.clone());
    let removed = entry.removed.iter().map(removed).collect::<Vec<_>>();
    let removed = (!removed.is_empty()).then(|| removed.join(", "));
    let parts = [entry.reason.clone(), drained, removed, error];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn removed(listener: &RemovedListenerStatus) -> String {
    let place = SocketAddr::new(listener.vip, listener.port);
    let left = match listener.in_flight {
        Some(flows) if flows > 0 => {
            format!(", {flows} flows left ({})", listener.at_deadline.name())
        }
        _ => String::new(),
    };
    format!("{place}/{}{left}", listener.protocol.name())
}
