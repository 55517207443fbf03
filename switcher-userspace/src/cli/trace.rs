//! `switcher trace`

use std::{net::IpAddr, num::NonZeroU64};

use clap::Args;

use super::{
    Console,
    answer::Answer,
    follow::{Ends, in_json, show},
};
use crate::api::{
    client::Client,
    trace::{Decision, DecisionFlow, TraceLine, TraceRequest},
    types::ApiError,
};

/// Arguments of `switcher trace`.
#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// Only packets from and to this address, those that are not ours too
    #[arg(long, value_name = "ADDR")]
    client: Option<IpAddr>,

    /// Only packets of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,

    /// End after this many packets
    #[arg(long, value_name = "N")]
    count: Option<NonZeroU64>,
}

pub(super) async fn run(
    args: &TraceArgs,
    json: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Answer {
    match follow(args, json, client, console).await {
        Ok(()) => Answer::silent(),
        Err(error) => error.into(),
    }
}

/// Shows packets until there were enough, the reader has left, or somebody ends it.
async fn follow(
    args: &TraceArgs,
    json: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), ApiError> {
    let mut ends = Ends::catch()?;
    let request = TraceRequest {
        client: args.client,
        service: args.service.clone(),
    };
    let mut trace = client.trace(&request).await?;
    let mut left = args.count.map_or(u64::MAX, NonZeroU64::get);
    let mut is_new = true;
    while left > 0 {
        let line = tokio::select! {
            line = trace.next() => line?,
            () = ends.requested() => break,
        };
        let text = match &line {
            TraceLine::Tracing => {
                if std::mem::take(&mut is_new) {
                    console.note("tracing; Ctrl-C ends it");
                }
                continue;
            }
            TraceLine::Decision(_) | TraceLine::Lost { .. } if json => in_json(&line)?,
            TraceLine::Decision(decision) => describe(decision),
            TraceLine::Lost { decisions } => format!("{decisions} lost"),
        };
        left -= u64::from(matches!(line, TraceLine::Decision(_)));
        if show(console, &text)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// One line: time, interface, stage, verdict, reason, from → to, and whose it is.
fn describe(decision: &Decision) -> String {
    let Decision {
        stage,
        verdict,
        reason,
        protocol,
        from,
        to,
        bytes,
        ..
    } = decision;
    // The day is known to whoever reads along.
    let time = decision.seen_at.split('T').next_back().unwrap_or_default();
    let interface = decision.interface.as_deref().unwrap_or("-");
    let flags = match decision.tcp_flags.as_deref() {
        None | Some("") => String::new(),
        Some(flags) => format!(" {flags}"),
    };
    let sent = match (&decision.sent_from, &decision.sent_to) {
        (Some(from), Some(to)) => format!(" => {from} > {to}"),
        _ => String::new(),
    };
    let mut line = format!(
        "{time} {interface} {stage} {verdict} {reason}: {protocol}{flags} {from} > {to}{sent}, {bytes} bytes"
    );
    let color = decision.color.map(|color| color.name().to_owned());
    let flow = decision.flow.as_ref().map(describe_flow);
    let parts = [decision.service.clone(), color, flow];
    let notes = decision.notes.iter().map(|note| format!("({note})"));
    for part in parts.into_iter().flatten().chain(notes) {
        line.push_str(", ");
        line.push_str(&part);
    }
    line
}

fn describe_flow(flow: &DecisionFlow) -> String {
    let mut text = format!("{} flow of {}", flow.state, flow.backend);
    for (holds, word) in [
        (flow.is_new, " new"),
        (flow.preview, " preview"),
        (flow.unpinned, " unpinned"),
    ] {
        if holds {
            text.push_str(word);
        }
    }
    text
}
