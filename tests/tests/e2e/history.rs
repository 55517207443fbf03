//! The history and the stream of events of the real agent.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{node::Node, skip_unless_lab};

use crate::mixed::LIMIT;

/// `switcher history`, the newest first.
pub(crate) fn history(node: &Node<'_>, arguments: &[&str]) -> Result<Vec<Value>> {
    let (reply, code) = node.json(&[&["history"], arguments].concat())?;
    ensure!(code == 0, "{reply}");
    Ok(reply["entries"].as_array().cloned().unwrap_or_default())
}

pub(crate) fn what(entries: &[Value]) -> Vec<&str> {
    entries
        .iter()
        .filter_map(|it| it["what"].as_str())
        .collect()
}

/// The agent's events, from now on.
pub(crate) struct Events(BufReader<UnixStream>);

impl Events {
    pub(crate) fn open(node: &Node<'_>) -> Result<Self> {
        let mut stream = UnixStream::connect(node.socket())?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"GET /v1/events HTTP/1.0\r\nhost: x\r\n\r\n")?;
        let mut events = Self(BufReader::new(stream));
        while events.line()? != ": listening" {}
        Ok(events)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).context("no event")?;
        ensure!(read > 0, "the stream has ended");
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(data) = self.line()?.strip_prefix("data: ") {
                return Ok(serde_json::from_str(data)?);
            }
        }
    }

    /// The next event that tells `what`; those before it are passed over.
    pub(crate) fn next_of(&mut self, what: &str) -> Result<Value> {
        let mut passed = Vec::new();
        loop {
            let event = self
                .next()
                .with_context(|| format!("waiting for {what}, after {passed:?}"))?;
            if event["what"] == what {
                return Ok(event);
            }
            passed.push(event.to_string());
        }
    }
}

#[test]
fn every_change_is_in_the_history_and_told_as_it_becomes_durable() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let mut events = Events::open(&node)?;
    let flip = [
        "flip",
        "web",
        "stream",
        "--to",
        "green",
        "--reason",
        "release 7",
    ];
    let (_, code) = node.json(&flip)?;
    ensure!(code == 0);
    let told = events.next()?;
    ensure!(
        told["what"] == "flip" && told["reason"] == "release 7" && told["by"]["uid"] == 0,
        "{told}"
    );
    ensure!(
        told["from_generation"] == 0 && told["generation"] == 1 && told["active"]["web"] == "green",
        "{told}"
    );
    // Refused, already so, and only looked at: no change.
    node.json(&["flip", "web", "--to", "green", "--expect-active", "blue"])?;
    node.json(&["flip", "web", "--to", "blue", "--if-generation", "7"])?;
    node.json(&["flip", "web", "--to", "blue", "--dry-run"])?;
    let drains = [events.next()?, events.next()?];
    for ended in &drains {
        ensure!(
            ended["what"] == "drain_ended"
                && ended["by"].is_null()
                && ended["drain"]["ended"] == "drained",
            "{ended}"
        );
    }
    node.json(&["rollback", "web"])?;
    ensure!(events.next()?["what"] == "rollback");
    node.kill_agent()?;
    node.start_agent()?;
    let all = history(&node, &[])?;
    let kinds = what(&all);
    ensure!(
        kinds.ends_with(&["rollback", "drain_ended", "drain_ended", "flip"]),
        "{kinds:?}"
    );
    let numbers: Vec<u64> = all.iter().filter_map(|it| it["number"].as_u64()).collect();
    ensure!(
        numbers.iter().rev().copied().eq(1..=numbers.len() as u64),
        "{numbers:?}"
    );
    let of_stream = history(&node, &["stream"])?;
    ensure!(what(&of_stream) == ["drain_ended", "flip"], "{of_stream:?}");
    ensure!(history(&node, &["--limit", "1"])?.len() == 1);
    let (unknown, code) = node.json(&["history", "nothing"])?;
    ensure!(code == 7, "{unknown}");
    let text = String::from_utf8(node.cli(&["history"])?.stdout)?;
    ensure!(
        text.contains("release 7") && text.contains("rollback"),
        "{text}"
    );
    Ok(())
}

#[test]
fn what_the_agent_does_by_itself_is_told_with_the_reason() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let mut events = Events::open(&node)?;
    node.flip(&["web"], Color::Green)?;
    ensure!(events.next()?["what"] == "flip");
    node.json(&["drain", "web", "--wait"])?;
    ensure!(events.next()?["what"] == "drain_ended");
    let within = ["flip", "web", "--to", "blue", "--confirm-within", "200ms"];
    node.json(&within)?;
    ensure!(events.next()?["what"] == "flip");
    let mut unconfirmed = events.next()?;
    // The drain of green may have ended before.
    if unconfirmed["what"] == "drain_ended" {
        unconfirmed = events.next()?;
    }
    ensure!(
        unconfirmed["what"] == "unconfirmed"
            && unconfirmed["by"].is_null()
            && unconfirmed["active"]["web"] == "green"
            && unconfirmed["error"].is_null(),
        "{unconfirmed}"
    );
    node.json(&["pause", "stream", "--max", "100ms"])?;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "pause_ended") {
        let event = events.next()?;
        kinds.push(event["what"].as_str().unwrap_or_default().to_owned());
    }
    ensure!(kinds.iter().any(|kind| kind == "pause"), "{kinds:?}");
    Ok(())
}
