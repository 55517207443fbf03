//! Drains: how waiting for one ends, and what happens at the deadline (G10).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Client, Load, LongLived, UdpLongLived},
};

use crate::mixed::LIMIT;

const CONNECTIONS: usize = 10;

/// Long-lived connections on blue.
fn lasting(lab: &Lab, family: Family) -> Result<Load> {
    let target = LabService::stream(1).target(lab, family);
    let load = Client::new(lab.client()).long_lived(target, LongLived::default());
    load.wait_until(LIMIT, |stats| stats.fresh.len() == CONNECTIONS)?;
    Ok(load)
}

/// More answers, all from the backends of the old color.
fn still_on_blue(load: &Load) -> Result<()> {
    let before = load.snapshot().answered;
    load.wait_until(LIMIT, |stats| stats.answered > before + 50)?;
    let stats = load.snapshot();
    ensure!(
        stats.is_clean() && stats.per_color.green == 0,
        "{:?}",
        stats.samples
    );
    Ok(())
}

/// `switcher drain`, which must end with `code`; its object.
fn drain(node: &Node<'_>, arguments: &[&str], code: i32) -> Result<Value> {
    let (object, found) = node.json(&[&["drain"], arguments].concat())?;
    ensure!(
        found == code,
        "drain {arguments:?} ended with {found}, expected {code}: {object}"
    );
    Ok(object)
}

#[test]
fn waiting_for_a_drain_ends_when_its_last_flow_has_closed() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let (v4, v6) = (lasting(&lab, Family::V4)?, lasting(&lab, Family::V6)?);
    let idle = drain(&node, &["stream", "--wait", "--timeout", "1s"], 0)?;
    ensure!(
        idle["drain"].is_null(),
        "nothing drains before the first flip: {idle}"
    );
    node.flip(&["stream"], Color::Green)?;
    // The waiting has a limit; the drain does not care.
    let slow = drain(&node, &["stream", "--wait", "--timeout", "300ms"], 5)?;
    ensure!(slow["error"]["code"] == "timeout", "{slow}");
    let running = drain(&node, &["stream"], 0)?["drain"].clone();
    ensure!(
        running["ended"].is_null() && running["color"] == "blue",
        "{running}"
    );
    ensure!(running["in_flight"] == 2 * CONNECTIONS, "{running}");
    let waiting = node.start_cli(&["drain", "stream", "--wait", "--timeout", "20s"])?;
    still_on_blue(&v4)?;
    ensure!(v4.finish().is_clean(), "IPv4");
    node.wait_until("the IPv6 connections alone", |status| {
        status["services"][1]["drain"]["in_flight"] == CONNECTIONS
    })?;
    still_on_blue(&v6)?;
    ensure!(v6.finish().is_clean(), "IPv6");
    let ended = node.end_of(waiting)?;
    let done = ended.object()?["drain"].clone();
    ensure!(ended.code == 0 && done["ended"] == "drained", "{ended:?}");
    ensure!(done["flows_left"] == 0 && done["in_flight"] == 0, "{done}");
    ensure!(
        done["generation"] == 1 && done["ended_at"].is_string(),
        "{done}"
    );
    // It is over: base is the active color again, and waiting once more ends at once.
    ensure!(node.service("stream")?["base"] == "green", "{done}");
    drain(&node, &["stream", "--wait", "--timeout", "1s"], 0)?;
    Ok(())
}

#[test]
fn at_the_deadline_the_flows_that_are_left_are_told_and_live_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let load = lasting(&lab, Family::V4)?;
    let flip = [
        "flip",
        "stream",
        "--to",
        "green",
        "--drain-timeout",
        "500ms",
        "--wait",
    ];
    let (reply, code) = node.json(&flip)?;
    ensure!(code == 5 && reply["changed"] == true, "{reply}");
    let left = |drain: &Value| {
        ensure!(drain["ended"] == "deadline", "{drain}");
        ensure!(drain["flows_left"] == CONNECTIONS, "{drain}");
        let elapsed = drain["elapsed_ms"].as_u64().context("no time")?;
        ensure!((500..2_500).contains(&elapsed), "{drain}");
        Ok(())
    };
    left(&reply["drains"]["stream"])?;
    let waited = drain(&node, &["stream", "--wait"], 5)?;
    left(&waited["drain"])?;
    let message = waited["error"]["message"].to_string();
    ensure!(
        message.contains("deadline") && message.contains("10"),
        "{waited}"
    );
    still_on_blue(&load)?;
    ensure!(
        node.service("stream")?["in_flight"]["blue"] == CONNECTIONS,
        "they are counted"
    );
    ensure!(load.finish().is_clean(), "kept connections");
    Ok(())
}

#[test]
fn a_udp_flow_holds_a_drain_until_it_is_silent() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let loads = Family::ALL.map(|family| {
        let target = LabService::datagram(2).target(&lab, family);
        Client::new(lab.client()).udp_long_lived(target, UdpLongLived::default())
    });
    for load in &loads {
        load.wait_until(LIMIT, |stats| stats.fresh.len() == CONNECTIONS)?;
    }
    node.flip(&["datagram"], Color::Green)?;
    // Longer than the silence of one second that the service allows.
    drain(&node, &["datagram", "--wait", "--timeout", "1500ms"], 5)?;
    for load in loads {
        still_on_blue(&load)?;
        ensure!(load.finish().is_clean(), "datagrams");
    }
    let done = drain(&node, &["datagram", "--wait", "--timeout", "10s"], 0)?;
    ensure!(done["drain"]["ended"] == "drained", "{done}");
    let elapsed = Duration::from_millis(done["drain"]["elapsed_ms"].as_u64().unwrap_or(0));
    ensure!(
        elapsed < Duration::from_secs(15),
        "not by the silence, but the deadline: {done}"
    );
    Ok(())
}
