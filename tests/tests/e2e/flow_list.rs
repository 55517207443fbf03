//! `switcher flows` against real connections.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_tests::{lab::Lab, node::Node, skip_unless_lab};

use crate::probe::{Kind, Probe};

/// `switcher flows`, which must succeed: its flows, and whether these are all.
fn flows(node: &Node<'_>, arguments: &[&str]) -> Result<(Vec<Value>, bool)> {
    let (list, code) = node.json(&[&["flows"], arguments].concat())?;
    ensure!(code == 0, "{code}: {list}");
    let flows = list["flows"].as_array().context("no list")?.clone();
    ensure!(list["count"] == flows.len(), "{list}");
    let complete = list["complete"].as_bool().context("no end")?;
    Ok((flows, complete))
}

fn clients(flows: &[Value]) -> BTreeSet<String> {
    let client = |flow: &Value| flow["client"].as_str().unwrap_or_default().to_owned();
    flows.iter().map(client).collect()
}

/// Begins connections of `kind` from `ports`, and asks each for its backend.
fn begin(
    lab: &Lab,
    kind: Kind,
    ports: std::ops::Range<u16>,
) -> Result<Vec<(SocketAddr, SocketAddr, Probe<'_>)>> {
    ports
        .map(|port| {
            let from = kind.client(lab, port);
            let mut probe = Probe::open(lab, kind, from)?;
            Ok((from, probe.backend()?, probe))
        })
        .collect()
}

#[test]
fn each_flow_is_listed_once_with_its_backend_color_and_age() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    for kind in Kind::all() {
        let (listed, complete) = flows(&node, &[kind.service(), "--color", "green"])?;
        ensure!(listed.is_empty() && complete, "{listed:?}");
    }
    let mut kept = Vec::new();
    for kind in Kind::all() {
        kept.push((kind, Color::Blue, begin(&lab, kind, 2_000..2_004)?));
    }
    node.flip(&["stream", "datagram"], Color::Green)?;
    for kind in Kind::all() {
        kept.push((kind, Color::Green, begin(&lab, kind, 2_100..2_103)?));
    }
    for (kind, color, connections) in &kept {
        let (listed, complete) = flows(&node, &[kind.service(), "--color", color.name()])?;
        ensure!(complete, "cut short: {listed:?}");
        // Both families are the service's.
        ensure!(listed.len() == 2 * connections.len(), "{listed:?}");
        for (from, backend, _) in connections {
            let mut of_it = listed.iter().filter(|it| it["client"] == json!(from));
            let flow = of_it
                .next()
                .with_context(|| format!("{from} in {listed:?}"))?;
            ensure!(of_it.next().is_none(), "twice: {listed:?}");
            ensure!(
                flow["backend"] == json!(backend)
                    && flow["vip"] == json!(kind.target(&lab))
                    && flow["protocol"] == kind.protocol.name()
                    && flow["color"] == color.name()
                    && flow["listener"].is_string()
                    && flow["state"] == "established"
                    && flow["forward_table"] == "established"
                    && flow["reverse_table"] == "established"
                    && flow["preview"] == false
                    && flow["cut"] == false,
                "{flow}"
            );
            let ms = |field: &str| flow[field].as_u64().context("no time");
            ensure!(ms("silent_ms")? <= ms("age_ms")?, "{flow}");
            ensure!(ms("age_ms")? < 60_000, "{flow}");
        }
    }
    let (all, _) = flows(&node, &["stream"])?;
    ensure!(all.len() == 14 && clients(&all).len() == 14, "{all:?}");
    let (some, complete) = flows(&node, &["stream", "--limit", "5"])?;
    ensure!(some.len() == 5 && !complete, "{some:?}");
    ensure!(clients(&some).is_subset(&clients(&all)), "{some:?}");
    let (exact, complete) = flows(&node, &["stream", "--limit", "14"])?;
    ensure!(exact.len() == 14 && complete, "{exact:?}");
    let text = String::from_utf8(node.cli(&["flows", "stream"])?.stdout)?;
    ensure!(text.lines().count() == 15, "a header and 14 rows: {text}");
    drop(kept);
    Ok(())
}

#[test]
fn a_connection_that_was_closed_is_listed_as_closing_and_unanswered_ones_too() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let kinds: Vec<Kind> = Kind::all().collect();
    drop(begin(&lab, kinds[0], 2_000..2_001)?);
    let closing = |flows: &[Value]| flows.iter().filter(|it| it["state"] == "closing").count();
    node.wait_until("the connection is closed", |_| {
        flows(&node, &["stream"]).is_ok_and(|(flows, _)| closing(&flows) == 1)
    })?;
    drop(backends);
    // Nobody answers: a datagram begins a flow all the same.
    let udp = kinds[1];
    let from = udp.client(&lab, 2_001);
    let mut probe = Probe::open(&lab, udp, from)?;
    ensure!(probe.backend().is_err(), "a server answered");
    let (listed, _) = flows(&node, &["datagram"])?;
    ensure!(
        listed.len() == 1
            && listed[0]["state"] == "unanswered"
            && listed[0]["client"] == json!(from)
            && listed[0]["forward_table"] == "unanswered",
        "{listed:?}"
    );
    Ok(())
}
