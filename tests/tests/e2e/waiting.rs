//! `switcher wait` and `status --watch` against the real agent.

use std::io::{BufRead as _, BufReader};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab, LabChild},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Client, Load, LongLived},
};

use crate::mixed::LIMIT;

/// Runs the CLI, which must end with `code`; its object.
fn ends(node: &Node<'_>, line: &str, code: i32) -> Result<Value> {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let (object, found) = node.json(&arguments)?;
    ensure!(
        found == code,
        "`switcher {line}` ended with {found}, expected {code}: {object}"
    );
    Ok(object)
}

fn begin(node: &Node<'_>, line: &str) -> Result<LabChild> {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    node.start_cli(&arguments)
}

fn has_succeeded(node: &Node<'_>, waiting: LabChild) -> Result<Value> {
    let ended = node.end_of(waiting)?;
    ensure!(ended.code == 0, "{ended:?}");
    ended.object()
}

fn lasting(lab: &Lab) -> Result<Load> {
    let target = LabService::stream(1).target(lab, Family::V4);
    let load = Client::new(lab.client()).long_lived(target, LongLived::default());
    load.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    Ok(load)
}

#[test]
fn waiting_for_a_flip_and_its_drain_ends_with_the_last_old_connection() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    ends(&node, "wait stream web --until active=blue,drained", 0)?;
    let old = lasting(&lab)?;
    let flipped = begin(&node, "wait stream --until active=green --timeout 20s")?;
    let drained = begin(
        &node,
        "wait stream --until active=green,drained --timeout 20s",
    )?;
    node.flip(&["stream"], Color::Green)?;
    let seen = has_succeeded(&node, flipped)?;
    ensure!(seen["services"][0]["active"] == "green", "{seen}");
    let early = ends(&node, "wait stream --until drained --timeout 300ms", 5)?;
    ensure!(
        early["error"]["code"] == "timeout"
            && early["services"][0]["drain"]["ended"].is_null()
            && early["services"][0]["generation"] == 1,
        "{early}"
    );
    ensure!(old.finish().is_clean());
    let seen = has_succeeded(&node, drained)?;
    let drain = &seen["services"][0]["drain"];
    ensure!(
        drain["ended"] == "drained" && drain["flows_left"] == 0,
        "{seen}"
    );
    ends(&node, "wait nosuch --until drained", 7)?;
    Ok(())
}

#[test]
fn pauses_and_confirmations_are_waited_for_whoever_ends_them() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    ends(&node, "pause web --max 300ms", 0)?;
    // The program ends it, and the agent tells so.
    ends(&node, "wait web --until resumed --timeout 20s", 0)?;
    ends(&node, "pause web --max 30s", 0)?;
    let waiting = begin(&node, "wait web --until resumed --timeout 20s")?;
    ends(&node, "resume web", 0)?;
    has_succeeded(&node, waiting)?;
    ends(&node, "flip web --to green --confirm-within 1h", 0)?;
    ends(&node, "wait web --until confirmed --timeout 0s", 5)?;
    let waiting = begin(&node, "wait web --until confirmed --timeout 20s")?;
    ends(&node, "confirm web", 0)?;
    has_succeeded(&node, waiting)?;
    ends(&node, "flip web --to blue --confirm-within 300ms", 0)?;
    let back = ends(&node, "wait web --until confirmed --timeout 20s", 4)?;
    ensure!(
        back["services"][0]["active"] == "green"
            && back["services"][0]["newest_change"]["by"] == "reverted",
        "{back}"
    );
    Ok(())
}

#[test]
fn whoever_waits_hears_of_an_agent_that_ends() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let mut watching = Watching::begin(&node, "status --watch")?;
    watching.next()?;
    let waiting = begin(&node, "wait web --until active=green --timeout 20s")?;
    // Whether it has connected by then or not, it ends with 6.
    node.stop_agent()?;
    let ended = node.end_of(waiting)?;
    ensure!(ended.code == 6, "{ended:?}");
    ensure!(
        ended.object()?["error"]["next_step"].is_string(),
        "{ended:?}"
    );
    loop {
        let line = watching.next()?;
        if line["error"]["code"] == "unreachable" {
            return Ok(());
        }
        ensure!(line["error"].is_null(), "{line}");
    }
}

/// `switcher status --watch --json`, line by line.
struct Watching {
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    child: LabChild,
}

impl Watching {
    fn begin(node: &Node<'_>, line: &str) -> Result<Self> {
        let mut child = begin(node, line)?;
        let out = child.child().stdout.take().context("no pipe")?;
        let lines = BufReader::new(out).lines();
        Ok(Self { lines, child })
    }

    fn next(&mut self) -> Result<Value> {
        let line = self.lines.next().context("no further line")??;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }
}

#[test]
fn a_watched_status_tells_a_flip_and_the_end_of_its_drain() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let mut all = Watching::begin(&node, "status --watch")?;
    let mut one = Watching::begin(&node, "status stream --watch")?;
    let first = all.next()?;
    ensure!(
        first["services"].as_array().map(Vec::len) == Some(3) && first["generation"] == 0,
        "{first}"
    );
    let old = lasting(&lab)?;
    node.flip(&["stream"], Color::Green)?;
    let mut has_drained = false;
    let mut old = Some(old);
    while !has_drained {
        let status = one.next()?;
        ensure!(
            status["services"].as_array().map(Vec::len) == Some(1),
            "{status}"
        );
        let stream = service_in(&status, "stream");
        let drain = &stream["drain"];
        ensure!(
            drain.is_null() || stream["active"] == "green",
            "one without the other: {status}"
        );
        if drain["in_flight"] == 10
            && let Some(old) = old.take()
        {
            ensure!(old.finish().is_clean());
        }
        has_drained = drain["ended"] == "drained";
    }
    ensure!(old.is_none(), "it was seen while it ran");
    while service_in(&all.next()?, "stream")["drain"]["ended"] != "drained" {}
    // Ctrl-C is its proper end.
    one.child.terminate()?;
    let status = one.child.wait(LIMIT)?.context("it did not end")?;
    ensure!(status.success(), "{status}");
    Ok(())
}
