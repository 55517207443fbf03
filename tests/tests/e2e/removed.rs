//! Services that an apply removes: their connections go on, fresh ones are dropped until the last has ended or
//! the drain timeout has passed, and then the place is free.

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration, service_in},
    skip_unless_lab,
    traffic::Load,
};

use crate::{
    applied::{applied, goes_on},
    mixed::LIMIT,
    reconfigured::{answered_connections, connections},
};

/// How a client's attempt to connect to `stream` ends.
fn attempt(lab: &Lab, family: Family, limit: Duration) -> Result<ErrorKind> {
    let target = LabService::stream(1).target(lab, family);
    let connected = (lab.client()).run(|| TcpStream::connect_timeout(&target, limit));
    match connected {
        Ok(_) => bail!("{family:?}: somebody has accepted"),
        Err(error) => Ok(error.kind()),
    }
}

/// SYNs are dropped: nobody answers. The counter tells it too, where there is an agent.
fn is_dropped(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        let heard = attempt(lab, family, Duration::from_millis(500))?;
        ensure!(heard == ErrorKind::TimedOut, "{family:?}: {heard}");
    }
    Ok(())
}

/// SYNs pass to the node's own stack, where nobody listens.
fn is_free(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        let heard = attempt(lab, family, LIMIT)?;
        ensure!(heard == ErrorKind::ConnectionRefused, "{family:?}: {heard}");
    }
    Ok(())
}

/// The usual services; the drains of `stream` by `terms`.
fn with_terms(lab: &Lab, terms: &str) -> String {
    let mut services = crate::services();
    for service in &mut services {
        if service.name == "stream" {
            terms.clone_into(&mut service.options);
        }
    }
    configuration(lab, &services)
}

fn without_stream(lab: &Lab) -> String {
    configuration(lab, &[LabService::web(0), LabService::datagram(2)])
}

/// A node with connections of both families through `stream`.
fn start<'a>(lab: &'a Lab, terms: &str) -> Result<(Node<'a>, [Load; 2])> {
    let mut node = Node::configured(lab, &with_terms(lab, terms))?;
    node.start_agent()?;
    let old = Family::ALL.map(|family| connections(lab, family));
    for load in &old {
        load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    }
    Ok((node, old))
}

/// In-flight flows of the removed listeners of `stream`, once all of them are counted.
fn counted(node: &Node<'_>, flows: u64) -> Result<Value> {
    let status = node.wait_until("the removed listeners' flows", |status| {
        let removed = status["removed"].as_array().map_or(&[][..], Vec::as_slice);
        let are_counted = removed.iter().all(|it| it["in_flight"] == flows);
        removed.len() == 2 && are_counted
    })?;
    Ok(status["removed"].clone())
}

fn are_forgotten(status: &Value) -> bool {
    status["removed"] == json!([])
}

fn removal_ended(node: &Node<'_>) -> Result<Value> {
    let (history, code) = node.json(&["history", "stream"])?;
    ensure!(code == 0, "{history}");
    let entries = history["entries"].as_array().into_iter().flatten();
    let mut ended = entries.filter(|it| it["what"] == "removal_ended");
    Ok(ended.next().context("no end in the history")?.clone())
}

#[test]
fn fresh_connections_to_a_removed_service_are_dropped_until_its_last_one_has_ended() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let (mut node, old) = start(&lab, "drain_timeout = \"1h\"")?;
    applied(&node, &without_stream(&lab), &[], 0)?;
    let removed = counted(&node, 30)?;
    for listener in removed.as_array().into_iter().flatten() {
        let is_told = listener["service"] == "stream" && listener["ended"].is_null();
        ensure!(is_told && listener["at_deadline"] == "keep", "{removed}");
    }
    let before = node.packets("listener_removed")?;
    is_dropped(&lab)?;
    ensure!(node.packets("listener_removed")? >= before + 2, "counted");
    let (flows, code) = node.json(&["flows", "stream"])?;
    let listed = flows["flows"].as_array().map(Vec::len);
    ensure!(code == 0 && listed == Some(60), "{code} {listed:?}");
    let (unknown, code) = node.json(&["flip", "stream", "--to", "green"])?;
    ensure!(code == 7, "{unknown}");

    // The program and its maps need no agent for that, and the next one knows of it.
    node.kill_agent()?;
    is_dropped(&lab)?;
    for load in &old {
        goes_on(load)?;
    }
    node.start_agent()?;
    counted(&node, 30)?;
    is_dropped(&lab)?;
    for load in old {
        goes_on(&load)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "existing flows: {:?}", stats.samples);
    }
    node.wait_until("the last one has ended", are_forgotten)?;
    is_free(&lab)?;
    let entry = removal_ended(&node)?;
    let of_history = entry["removed"].as_array().into_iter().flatten();
    ensure!(
        entry["by"].is_null() && of_history.clone().all(|it| it["ended"] == "drained"),
        "{entry}"
    );
    Ok(())
}

#[test]
fn a_removed_service_that_is_applied_again_serves_at_once_with_the_color_it_had() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let (node, old) = start(&lab, "drain_timeout = \"1h\"")?;
    node.flip(&["stream"], Color::Green)?;
    applied(&node, &without_stream(&lab), &[], 0)?;
    is_dropped(&lab)?;
    // What others are switched to meanwhile does not touch it.
    node.flip(&["web"], Color::Green)?;
    counted(&node, 30)?;
    let whole = with_terms(&lab, "drain_timeout = \"1h\"");
    let reply = applied(&node, &whole, &[], 0)?;
    ensure!(reply["active"]["stream"] == "green", "{reply}");
    ensure!(are_forgotten(&node.status()?));
    let stats = answered_connections(&lab)?;
    ensure!(stats.per_color.blue == 0, "{stats:?}");
    node.wait_until("its old connections are its own again", |status| {
        service_in(status, "stream")["in_flight"]["blue"] == 60
    })?;
    for load in old {
        goes_on(&load)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "existing flows: {:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn at_the_end_of_its_drain_timeout_a_removed_services_place_is_free_and_its_connections_live_on()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let (node, old) = start(&lab, "drain_timeout = \"2s\"")?;
    applied(&node, &without_stream(&lab), &[], 0)?;
    node.wait_until("its time is over", are_forgotten)?;
    is_free(&lab)?;
    let entry = removal_ended(&node)?;
    for listener in entry["removed"].as_array().into_iter().flatten() {
        let is_told = listener["ended"] == "deadline" && listener["in_flight"] == 30;
        ensure!(is_told, "{entry}");
    }
    for load in old {
        goes_on(&load)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "existing flows: {:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn connections_of_a_removed_service_are_reset_at_its_deadline_where_it_says_so() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let terms = "drain_timeout = \"2s\"\nat_deadline = \"reset\"";
    let (node, old) = start(&lab, terms)?;
    applied(&node, &without_stream(&lab), &[], 0)?;
    node.wait_until("its time is over", are_forgotten)?;
    for load in &old {
        load.wait_until(LIMIT, |stats| stats.broken == 30)?;
    }
    is_free(&lab)?;
    Ok(())
}
