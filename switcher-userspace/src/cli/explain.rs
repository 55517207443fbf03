//! `switcher explain`

use std::{fmt::Write as _, net::SocketAddr};

use clap::Args;
use switcher_common::service::Protocol;

use super::{answer::Answer, arguments::protocol};
use crate::api::{
    client::Client,
    explain::{
        ExplainQuestion, ExplainedFlow, ExplainedListener, ExplainedSelection, ExplainedWay,
        Explanation, Outcome, Why,
    },
};

/// Arguments of `switcher explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The packet's protocol
    #[arg(value_parser = protocol())]
    protocol: Protocol,

    /// The packet's source; an IPv6 address in brackets
    #[arg(value_name = "CLIENT:PORT")]
    client: SocketAddr,

    /// The packet's destination
    #[arg(value_name = "VIP:PORT")]
    vip: SocketAddr,
}

pub(super) async fn run(args: &ExplainArgs, client: &Client) -> Answer {
    let question = ExplainQuestion {
        protocol: args.protocol,
        client: args.client,
        vip: args.vip,
    };
    match client.explain(&question).await {
        Ok(explanation) => Answer::new(&explanation, describe(&explanation)),
        Err(error) => error.into(),
    }
}

fn describe(explanation: &Explanation) -> String {
    let Explanation {
        protocol,
        client,
        vip,
        listener,
        is_vip,
        flow,
        begins,
        mid_stream,
    } = explanation;
    let mut text = format!("{} {client} > {vip}\n", protocol.name());
    let begins_with = match protocol {
        Protocol::Tcp => "a new SYN",
        Protocol::Udp => "a datagram",
    };
    let lines = [
        Some(("listener", describe_listener(listener.as_ref(), *is_vip))),
        Some(("flow", describe_flow(flow.as_ref()))),
        Some((begins_with, describe_way(begins))),
        mid_stream
            .as_ref()
            .map(|way| ("mid-stream", describe_way(way))),
    ];
    for (what, said) in lines.into_iter().flatten() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{what:<11} {said}");
    }
    text
}

fn describe_listener(listener: Option<&ExplainedListener>, is_vip: bool) -> String {
    let Some(listener) = listener else {
        let why = if is_vip {
            "none has this port and protocol; the address is a VIP"
        } else {
            "none; the address is no VIP"
        };
        return why.to_owned();
    };
    let removed = "(configured no more)";
    format!(
        "{} of {}{}, {} is active, {} is the base color, generation {}",
        listener.name.as_deref().unwrap_or(removed),
        listener.service.as_deref().unwrap_or(removed),
        if listener.preview { " (preview)" } else { "" },
        listener.active.name(),
        listener.base.name(),
        listener.generation,
    )
}

fn describe_flow(flow: Option<&ExplainedFlow>) -> String {
    let Some(flow) = flow else {
        return "none".to_owned();
    };
    let mut text = format!(
        "{}, pinned to {} {}, in the table of {} flows, age {}, silent for {}",
        flow.state,
        flow.color.name(),
        flow.backend,
        flow.table,
        seconds(flow.age_ms),
        seconds(flow.silent_ms),
    );
    for (holds, said) in [
        (flow.direction == "reverse", "these are its replies"),
        (flow.preview, "of a preview"),
        (flow.unpinned, "recorded in mid-stream"),
        (flow.cut, "cut"),
        (!flow.both_directions, "its other direction is missing"),
    ] {
        if holds {
            text.push_str(", ");
            text.push_str(said);
        }
    }
    text
}

fn describe_way(way: &ExplainedWay) -> String {
    let endpoint = |endpoint: Option<SocketAddr>| {
        endpoint.map_or_else(|| "nowhere".to_owned(), |it| it.to_string())
    };
    let color = way.color.map_or("no color", |color| color.name());
    let reason = way.reason.as_deref().unwrap_or("unknown");
    let mut text = match way.outcome {
        Outcome::Pass => format!("passed to the stack untouched: {reason}"),
        Outcome::Answer => format!("answered, not sent on: {reason} ({color})"),
        Outcome::Drop => match way.color {
            Some(color) => format!("dropped: {reason} ({})", color.name()),
            None => format!("dropped: {reason}"),
        },
        Outcome::Forward => {
            let why = match way.why {
                Some(Why::Pinned) => format!("pinned to {color}"),
                Some(Why::Active) => format!("{color} is active"),
                Some(Why::Base) => format!("{color} is the base color"),
                Some(Why::Preview) => format!("{color} is the standby"),
                Some(Why::Repinned) => format!(
                    "a reply of {color} without a flow, pinned again if it is not for this node \
                     and comes in by the interface that leads to its source"
                ),
                None => color.to_owned(),
            };
            format!(
                "goes out as {} > {}: {why}",
                endpoint(way.from),
                endpoint(way.to)
            )
        }
    };
    if let Some(selection) = &way.selection {
        text.push_str(&describe_selection(selection));
    }
    text
}

fn describe_selection(selection: &ExplainedSelection) -> String {
    let mut text = format!(
        ", hash {}, slot {} of {}",
        selection.hash, selection.slot, selection.slots
    );
    for tried in &selection.tried {
        let backend = tried.backend;
        // Writing to a String does not fail.
        let _ = match (tried.free, tried.ejected) {
            (true, false) => Ok(()),
            (true, true) => write!(text, ", at last {backend} although it is ejected"),
            (false, true) => write!(text, ", not {backend}, which is ejected"),
            (false, false) => write!(
                text,
                ", not {backend}, which is the client, or whose replies would be another flow's"
            ),
        };
    }
    text
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}
