//! End to end: real clients and servers through the real agent and program, in the lab.

mod adoption;
mod applied;
mod bad_config;
mod bad_node;
mod bad_pins;
mod barrier;
mod commands;
mod deploy;
mod detach;
mod disk;
mod drains;
mod drill;
mod echo;
mod ejection;
mod errors;
mod explain;
mod extras;
mod failover;
mod flip;
mod floods;
mod flow_list;
mod flows;
mod forge;
mod forged;
mod fragments;
mod full;
mod generic;
mod health;
mod history;
mod hooks;
mod hop_changes;
mod hops;
mod interface;
mod killed;
mod killed_deploy;
mod killed_failover;
mod lifecycle;
mod lost_pins;
mod many;
mod mixed;
mod passive;
mod path_mtu;
mod pins;
mod ports;
mod pre_flip;
mod preview;
mod probe;
mod racing;
mod receipt;
mod reconfigured;
mod redirects;
mod refusal;
mod removed;
mod renamed;
mod reset;
mod rights;
mod scale;
mod second_chance;
mod spoofed;
mod topologies;
mod trace;
mod upgrade;
mod verbs;
mod waiting;
mod walkthrough;

use anyhow::{Result, ensure};
use switcher_tests::{
    lab::Lab,
    node::{LabService, Node, configuration},
    traffic::Backends,
};

/// The services that most tests use.
fn services() -> Vec<LabService> {
    vec![
        LabService::web(0),
        LabService::stream(1),
        LabService::datagram(2),
    ]
}

/// A lab with servers on both colors.
fn lab() -> Result<(Lab, Backends)> {
    let lab = Lab::builder().build()?;
    let backends = Backends::start(&lab)?;
    Ok((lab, backends))
}

fn start(lab: &Lab) -> Result<Node<'_>> {
    Node::start(lab, &services())
}

/// A node whose tables, one for each family, have room for so many flows.
fn limited<'lab>(
    lab: &'lab Lab,
    services: &[LabService],
    flows: u32,
    unanswered: u32,
) -> Result<Node<'lab>> {
    let text = configuration(lab, services);
    let small = text
        .replace("\nflows = 65536\n", &format!("\nflows = {flows}\n"))
        .replace(
            "\nunanswered = 16384\n",
            &format!("\nunanswered = {unanswered}\n"),
        );
    ensure!(small != text, "no limits to change in: {text}");
    let mut node = Node::configured(lab, &small)?;
    node.start_agent()?;
    Ok(node)
}
