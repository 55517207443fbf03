//! `switcher explain` against real connections.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_tests::{
    lab::Lab,
    node::{Node, configuration},
    skip_unless_lab,
};

use crate::probe::{Kind, Probe};

fn explain(node: &Node<'_>, kind: Kind, from: SocketAddr, to: SocketAddr) -> Result<Value> {
    let (from, to) = (from.to_string(), to.to_string());
    let (object, code) = node.json(&["explain", kind.protocol.name(), &from, &to])?;
    ensure!(code == 0, "explain ended with {code}: {object}");
    Ok(object)
}

/// A connection that went where `explain` had said.
struct Kept<'lab> {
    kind: Kind,
    from: SocketAddr,
    backend: SocketAddr,
    probe: Probe<'lab>,
}

/// Asks where a connection from `port` will go, and begins it.
fn begin<'lab>(
    node: &Node<'_>,
    lab: &'lab Lab,
    kind: Kind,
    port: u16,
    color: Color,
) -> Result<Kept<'lab>> {
    let (from, to) = (kind.client(lab, port), kind.target(lab));
    let before = explain(node, kind, from, to)?;
    let way = &before["begins"];
    ensure!(
        way["outcome"] == "forward"
            && way["why"] == "active"
            && way["color"] == color.name()
            && before["flow"].is_null()
            && before["listener"]["service"] == kind.service(),
        "{kind:?} from {from}: {before}"
    );
    let mut probe = Probe::open(lab, kind, from)?;
    let backend = probe.backend()?;
    ensure!(
        way["to"] == json!(backend),
        "{kind:?} from {from} went to {backend}: {before}"
    );
    let kept = Kept {
        kind,
        from,
        backend,
        probe,
    };
    is_pinned(node, lab, &kept, color)?;
    Ok(kept)
}

/// Whatever is active now: packets of the connection stay, also a SYN that somebody forges.
fn is_pinned(node: &Node<'_>, lab: &Lab, kept: &Kept<'_>, color: Color) -> Result<()> {
    let said = explain(node, kept.kind, kept.from, kept.kind.target(lab))?;
    let flow = &said["flow"];
    ensure!(
        flow["table"] == "established"
            && flow["state"] == "established"
            && flow["color"] == color.name()
            && flow["backend"] == json!(kept.backend)
            && flow["both_directions"] == true,
        "{said}"
    );
    let ways = [&said["begins"], &said["mid_stream"]];
    for way in ways.into_iter().filter(|way| !way.is_null()) {
        ensure!(
            way["why"] == "pinned" && way["to"] == json!(kept.backend),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn connections_go_where_explain_says_before_and_after_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    // The kept flows are silent while others are begun: on a slow machine longer than a second.
    let services = crate::services();
    let patient = configuration(&lab, &services)
        .replace("drain_udp_idle = \"1s\"", "drain_udp_idle = \"30s\"");
    let mut node = Node::configured(&lab, &patient)?;
    node.start_agent()?;
    let mut kept = Vec::new();
    for kind in Kind::all() {
        for port in 2_000..2_008 {
            kept.push(begin(&node, &lab, kind, port, Color::Blue)?);
        }
    }
    node.flip(&["stream", "datagram"], Color::Green)?;
    for connection in &mut kept {
        is_pinned(&node, &lab, connection, Color::Blue)?;
        let backend = connection.probe.backend()?;
        ensure!(backend == connection.backend, "it moved to {backend}");
    }
    for kind in Kind::all() {
        for port in 2_100..2_108 {
            begin(&node, &lab, kind, port, Color::Green)?;
        }
        // The base color is the old one while blue drains.
        let stray = explain(&node, kind, kind.client(&lab, 2_200), kind.target(&lab))?;
        let base = &stray["mid_stream"];
        ensure!(
            base.is_null() || (base["why"] == "base" && base["color"] == "blue"),
            "{stray}"
        );
    }
    Ok(())
}

#[test]
fn what_is_not_ours_is_explained_as_well() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = crate::start(&lab)?;
    for kind in Kind::all() {
        let from = kind.client(&lab, 2_000);
        let mut to = kind.target(&lab);
        to.set_port(81);
        let said = explain(&node, kind, from, to)?;
        ensure!(
            said["is_vip"] == true && said["listener"].is_null(),
            "{said}"
        );
        ensure!(
            said["begins"]["outcome"] == "pass" && said["begins"]["reason"] == "not_ours",
            "{said}"
        );
        let said = explain(&node, kind, from, kind.client(&lab, 80))?;
        ensure!(said["is_vip"] == false, "{said}");
    }
    Ok(())
}
