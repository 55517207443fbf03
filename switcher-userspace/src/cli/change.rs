//! What all changing verbs share: their conditions, sending, and how the answer reads.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use switcher_common::service::Color;

use super::{
    Console,
    answer::Answer,
    arguments::{at_deadline, color},
    until::Condition,
    wait,
};
use crate::{
    api::{
        client::Client,
        requests::Body,
        types::{ChangeFailure, ChangeReply, DrainStatus},
    },
    duration::Span,
    switching::AtDeadline,
};

/// Conditions of a change, and what is said about it.
#[derive(Clone, Debug, Args)]
pub(super) struct TermsArgs {
    /// Only if this color is active
    #[arg(long, value_name = "COLOR", value_parser = color())]
    pub(super) expect_active: Option<Color>,

    /// Only if this is the generation of each service
    #[arg(long, value_name = "N")]
    pub(super) if_generation: Option<u64>,

    /// Check everything, change nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

/// How a drain that a change begins goes, and whether it is waited for.
#[derive(Clone, Debug, Args)]
pub(super) struct DrainTermsArgs {
    /// Longest drain of the color that gets no fresh flows any more [default: as configured]
    #[arg(long, value_name = "TIME")]
    pub(super) drain_timeout: Option<Span>,

    /// What happens then to the flows that are left [default: as configured]
    #[arg(long, value_name = "POLICY", value_parser = at_deadline())]
    pub(super) at_deadline: Option<AtDeadline>,

    /// Wait until the drain has ended
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) wait: bool,
}

/// The fields that all bodies have, from the command line.
macro_rules! body {
    ($name:ident { $services:expr, $terms:expr $(, $field:ident: $value:expr)* $(,)? }) => {
        $name {
            services: $services.to_vec(),
            expect_active: $terms.expect_active,
            if_generation: $terms.if_generation,
            dry_run: $terms.dry_run,
            reason: $terms.reason.clone(),
            $($field: $value,)*
        }
    };
}
pub(super) use body;

/// How a verb's answers read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// What was done.
    pub(super) done: &'static str,
    /// What would be done.
    pub(super) would: &'static str,
}

#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    change: ChangeReply,
    /// How long fresh connections were held for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    /// With `--wait`: how each service's drain ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    drains: Option<BTreeMap<String, Option<DrainStatus>>>,
}

/// Sends a change, and tells its answer.
pub(super) async fn send<B: Body>(body: &B, words: Words, client: &Client) -> Answer {
    told(client.change(body).await, words)
}

/// Sends a change, waits for the drains that it has begun if asked to, and tells both.
pub(super) async fn send_and_wait<B: Body>(
    body: &B,
    words: Words,
    wait: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Answer {
    let outcome = Outcome {
        change: client.change(body).await,
        held_ms: None,
    };
    let services = body.terms().services;
    outcome.told(&services, words, wait, client, console).await
}

fn told(change: Result<ChangeReply, ChangeFailure>, words: Words) -> Answer {
    match change {
        Ok(change) => Answer::new(&change, describe(&change, words)),
        Err(failure) => failure.into(),
    }
}

/// What came of a change that may begin drains.
pub(super) struct Outcome {
    pub(super) change: Result<ChangeReply, ChangeFailure>,
    /// How long fresh connections were held for it; `None`: they were not.
    pub(super) held_ms: Option<u64>,
}

impl Outcome {
    /// Tells it, with `wait` when the drains of `services` have ended.
    pub(super) async fn told(
        self,
        services: &[String],
        words: Words,
        wait: bool,
        client: &Client,
        console: &mut Console<'_>,
    ) -> Answer {
        let mut change = match self.change {
            Ok(change) => change,
            Err(failure) => return failure.into(),
        };
        let mut lines = vec![describe(&change, words)];
        lines.extend(
            self.held_ms
                .map(|ms| format!("fresh connections held for {ms} ms")),
        );
        let mut drains = None;
        if wait {
            let headline = headline(&change, words);
            console.note(&format!("{headline}; waiting for the drain to end"));
            let waited = wait::until(client, services, &[Condition::Drained], None, console).await;
            lines.extend(wait::lines(&waited, services));
            let each = services.iter();
            let each = each.map(|service| (service.clone(), waited.drain(service)));
            drains = Some(each.collect());
            change.error = change.error.or(waited.error);
        }
        let error = change.error.clone();
        let changed = Changed {
            change,
            held_ms: self.held_ms,
            drains,
        };
        Answer::new(&changed, lines.join("\n")).failed(error)
    }
}

fn headline(change: &ChangeReply, words: Words) -> String {
    match (change.changed, change.would_change) {
        (true, _) => words.done.to_owned(),
        (false, Some(true)) => {
            format!("dry run: this would {}, nothing was changed", words.would)
        }
        (false, Some(false)) => "dry run: already so, nothing to change".to_owned(),
        (false, None) => "already so, nothing changed".to_owned(),
    }
}

pub(super) fn describe(change: &ChangeReply, words: Words) -> String {
    let mut lines = vec![headline(change, words)];
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
