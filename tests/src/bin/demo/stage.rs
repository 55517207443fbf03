//! Sets everything up, lets the show run, takes everything down, and judges.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use switcher_tests::{
    lab::{Lab, cancel},
    node::Node,
    traffic::{Backends, link_drops, tcp_retrans_segs},
};
use tokio_util::sync::CancellationToken;

use crate::{
    display::Display,
    judge::Evidence,
    load::Loads,
    plan::{Plan, Service},
    report::Report,
    show::{Ended, Show},
};

/// Lines of the agent's log that a failure shows.
const LOG_LINES: usize = 30;

/// The whole demo.
pub(crate) async fn run(plan: Plan) -> Result<Report> {
    let cancel = cancel::on_signal()?;
    let began = Instant::now();
    let mut display = Display::new(began);
    display.event("building a lab of network namespaces: 2 clients, a node, blue and green");
    let lab = Lab::builder().build().context("cannot build the lab")?;
    display.event("starting web and echo servers on blue and green, and the agent on the node");
    let _backends = Backends::start(&lab)?;
    let services = Service::ALL.map(Service::in_lab);
    let mut node = Node::start(&lab, &services).context("cannot start the switcher")?;
    if cancel.is_cancelled() {
        bail!("interrupted before the load began; everything is removed");
    }
    let evidence = perform(plan, &lab, &node, &mut display, &cancel).await?;
    let mut problems = Vec::new();
    if let Some(error) = &evidence.error {
        problems.push(error.clone());
    }
    let seen = evidence.interrupted || !problems.is_empty();
    if let Err(error) = node.stop_agent()
        && !seen
    {
        problems.push(format!("{error:#}"));
    }
    let mut report = Report::new(plan, &evidence, problems);
    report.seconds = began.elapsed().as_secs_f64();
    if !report.ok && !report.interrupted {
        show_log(&node);
    }
    Ok(report)
}

/// Runs load and flips. An error here is what the demo found, not the end of the judgement.
async fn perform(
    plan: Plan,
    lab: &Lab,
    node: &Node<'_>,
    display: &mut Display,
    cancel: &CancellationToken,
) -> Result<Evidence> {
    let (before, drops_before) = (retransmitted(lab)?, lost_on_links(lab)?);
    let started = Instant::now();
    let mut loads = Loads::start(lab).await;
    let mut show = Show::new(plan, node, &mut loads, display);
    let ended = tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(Ended::Interrupted),
        ended = show.run() => ended,
    };
    let flips = show.into_flips();
    display.close();
    display.event("stopping the load");
    let stopped = Instant::now();
    let records = loads.finish();
    // Ctrl-C on a terminal reaches the commands that run at that moment too.
    let interrupted = cancel.is_cancelled() || matches!(ended, Ok(Ended::Interrupted));
    let error = ended.err().filter(|_| !interrupted);
    Ok(Evidence {
        records,
        flips,
        started,
        stopped,
        retransmitted: retransmitted(lab)? - before,
        link_drops: lost_on_links(lab)? - drops_before,
        verdicts: verdicts(node),
        interrupted,
        error: error.map(|error| format!("{error:#}")),
    })
}

/// TCP segments that clients and backends had to send again.
fn retransmitted(lab: &Lab) -> Result<u64> {
    let hosts = [lab.client(), lab.client2(), lab.blue(), lab.green()];
    hosts.into_iter().map(tcp_retrans_segs).sum()
}

/// Packets that the lab's own links dropped.
fn lost_on_links(lab: &Lab) -> Result<u64> {
    let hosts = [
        lab.node(),
        lab.client(),
        lab.client2(),
        lab.blue(),
        lab.green(),
    ];
    hosts.into_iter().map(link_drops).sum()
}

/// What the program did with packets, by reason; empty where the agent no longer answers.
fn verdicts(node: &Node<'_>) -> BTreeMap<String, u64> {
    let status = node.status().unwrap_or_default();
    let verdicts = status["verdicts"].as_array().cloned().unwrap_or_default();
    let pair = |it: &Value| {
        let name = format!("{}:{}", it["verdict"].as_str()?, it["reason"].as_str()?);
        Some((name, it["packets"].as_u64()?))
    };
    verdicts.iter().filter_map(pair).collect()
}

fn show_log(node: &Node<'_>) {
    let log = node.log();
    let mut tail = VecDeque::new();
    for line in log.lines() {
        if tail.len() == LOG_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    eprintln!("the end of the agent's log:");
    for line in tail {
        eprintln!("  {line}");
    }
}
