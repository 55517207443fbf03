//! End to end: real clients and servers through the real agent and program, in the lab.

mod adoption;
mod bad_config;
mod bad_node;
mod bad_pins;
mod commands;
mod detach;
mod disk;
mod drains;
mod echo;
mod errors;
mod explain;
mod extras;
mod flip;
mod flows;
mod interface;
mod lifecycle;
mod mixed;
mod path_mtu;
mod probe;
mod reconfigured;
mod redirects;
mod refusal;
mod rights;
mod scale;
mod topologies;

use anyhow::Result;
use switcher_tests::{
    lab::Lab,
    node::{LabService, Node},
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
