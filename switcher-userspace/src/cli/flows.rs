//! `switcher flows`

use std::{fmt::Write as _, num::NonZeroU32, ops::ControlFlow};

use clap::Args;
use switcher_common::service::Color;

use super::{
    Console,
    answer::Answer,
    arguments::color,
    follow::{in_json, show},
    table::Table,
};
use crate::api::{
    client::Client,
    flows::{DEFAULT_FLOWS, FlowStatus, FlowsLine, FlowsRequest},
    types::ApiError,
};

/// Flows that are shown at once: a list of a million takes the memory of these. Columns are lined up, and
/// the header is shown again, for so many.
const PAGE: usize = 1_000;

/// Arguments of `switcher flows`.
#[derive(Debug, Args)]
#[command(
    after_help = "Bytes are counted by service and color (`switcher status`), not by flow. The list is not a \
                  picture of one moment: flows that begin or end meanwhile may be missing, or be there twice. \
                  With --json: `flows`, their `count`, and `complete`, false when there are more than --limit."
)]
pub(super) struct FlowsArgs {
    /// The service
    service: String,

    /// Only flows of this color
    #[arg(long, value_name = "COLOR", value_parser = color())]
    color: Option<Color>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FLOWS)]
    limit: NonZeroU32,
}

pub(super) async fn run(
    args: &FlowsArgs,
    json: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Answer {
    let request = FlowsRequest {
        color: args.color,
        limit: Some(args.limit),
    };
    let mut list = match client.flows(&args.service, &request).await {
        Ok(list) => list,
        Err(error) => return error.into(),
    };
    let mut shown = Shown {
        json,
        count: 0,
        page: Vec::new(),
    };
    let ended = loop {
        let more = match list.next().await {
            Ok(FlowsLine::Flow(flow)) => shown.add(*flow, console),
            Ok(FlowsLine::End { complete, .. }) => break shown.end(complete, None, console),
            Ok(FlowsLine::Failed { error }) | Err(error) => {
                let ended = shown.end(false, Some(&error), console);
                break ended.and(Err(error));
            }
        };
        match more {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // What there is to say to scripts is said.
    Answer::silent().failed(ended.err())
}

/// A list as it is shown: a table for people, one object for scripts, both piece by piece.
struct Shown {
    json: bool,
    /// Flows that were shown.
    count: u64,
    /// Flows that are shown next.
    page: Vec<FlowStatus>,
}

impl Shown {
    /// Takes one more; breaks when nobody reads.
    fn add(
        &mut self,
        flow: FlowStatus,
        console: &mut Console<'_>,
    ) -> Result<ControlFlow<()>, ApiError> {
        self.page.push(flow);
        if self.page.len() < PAGE {
            return Ok(ControlFlow::Continue(()));
        }
        let text = self.next()?;
        show(console, &text)
    }

    /// Shows what is left, and how the list ended.
    fn end(
        &mut self,
        complete: bool,
        error: Option<&ApiError>,
        console: &mut Console<'_>,
    ) -> Result<(), ApiError> {
        let mut text = self.next()?;
        let count = self.count;
        if self.json {
            // Writing to a String does not fail.
            let _ = write!(text, "],\"count\":{count},\"complete\":{complete}");
            if let Some(error) = error {
                let _ = write!(text, ",\"error\":{}", in_json(error)?);
            }
            text.push('}');
        }
        if !text.is_empty() && show(console, &text)?.is_break() {
            return Ok(());
        }
        if !self.json && error.is_none() {
            if count == 0 {
                console.note("no flows");
            }
            if !complete {
                console.note(&format!(
                    "there are more than these {count}; --limit says how many are listed"
                ));
            }
        }
        Ok(())
    }

    /// The page that is complete; for scripts with the object's beginning, if it is the first.
    fn next(&mut self) -> Result<String, ApiError> {
        let page = std::mem::take(&mut self.page);
        let is_first = self.count == 0;
        self.count += page.len() as u64;
        if !self.json {
            return Ok(rows(&page).trim_end().to_owned());
        }
        let flows: Vec<String> = page.iter().map(in_json).collect::<Result<_, _>>()?;
        let before = match (is_first, flows.is_empty()) {
            (true, _) => "{\"flows\":[",
            (false, true) => "",
            (false, false) => ",",
        };
        Ok(format!("{before}{}", flows.join(",")))
    }
}

fn rows(flows: &[FlowStatus]) -> String {
    let mut table = Table::new([
        "CLIENT", "VIP", "LISTENER", "COLOR", "BACKEND", "STATE", "TABLE", "AGE", "SILENT",
    ]);
    for flow in flows {
        table.row([
            format!("{} {}", flow.protocol.name(), flow.client),
            flow.vip.to_string(),
            flow.listener.clone().unwrap_or_else(|| "-".to_owned()),
            flow.color.name().to_owned(),
            flow.backend.to_string(),
            state(flow),
            tables(flow),
            time(flow.age_ms),
            time(flow.silent_ms),
        ]);
    }
    table.render()
}

/// Its state, and what is special about it.
fn state(flow: &FlowStatus) -> String {
    let mut text = flow.state.clone();
    for (holds, word) in [
        (flow.cut && flow.state != "cut", ", cut"),
        (flow.preview, ", preview"),
        (flow.unpinned, ", unpinned"),
    ] {
        if holds {
            text.push_str(word);
        }
    }
    text
}

/// The table of both its entries, or of each.
fn tables(flow: &FlowStatus) -> String {
    let name = |table: &Option<String>| table.clone().unwrap_or_else(|| "missing".to_owned());
    let (forward, reverse) = (name(&flow.forward_table), name(&flow.reverse_table));
    if forward == reverse {
        forward
    } else {
        format!("{forward}, replies {reverse}")
    }
}

/// `3.2 s`, `4 m 5 s`, `3 h 4 m`: no more than matters.
fn time(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}.{} s", ms % 1_000 / 100),
        (0, _) => format!("{minutes} m {} s", seconds % 60),
        _ => format!("{hours} h {} m", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_that_matter() {
        for (ms, text) in [
            (0, "0.0 s"),
            (59_999, "59.9 s"),
            (60_000, "1 m 0 s"),
            (3_599_999, "59 m 59 s"),
            (90_061_000, "25 h 1 m"),
        ] {
            assert_eq!(time(ms), text);
        }
    }
}
