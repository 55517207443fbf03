//! `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON` suffice, whoever the agent's user is.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::thread::CapabilitySet;
use switcher_common::service::Color;
use switcher_tests::{
    lab::Lab,
    node::{LabService, NOBODY, Node, configuration},
    skip_unless_lab,
};

use crate::{
    mixed::Mixed,
    refusal::{Refused, Traces},
};

/// What the agent needs, and what it calls it.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
];

fn needed() -> CapabilitySet {
    NEEDED
        .into_iter()
        .map(|(capability, _)| capability)
        .collect()
}

/// An error unless the agent is an unprivileged process with no capability but those.
fn check_rights(node: &Node<'_>) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.agent_id()?))
        .context("reading the agent's rights")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let ids = [NOBODY; 4].map(|id| id.to_string()).join("\t");
    ensure!(field("Uid:") == ids, "{status}");
    let all = format!("{:016x}", needed().bits());
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        ensure!(field(set) == all, "{set} is not {all}: {status}");
    }
    Ok(())
}

#[test]
fn three_capabilities_suffice_for_start_flip_scan_adoption_and_apply() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut services = crate::services();
    let mut node = Node::configured(&lab, &configuration(&lab, &services))?;
    node.limit(needed())?;
    node.start_agent()?;
    check_rights(&node)?;
    let mixed = Mixed::start(&lab)?;
    node.flip(&["web"], Color::Green)?;
    mixed.goes_on()?;
    // Adopted by a process that has made none of it, with another service.
    services.push(LabService {
        name: "more",
        port: 81,
        ..LabService::web(0)
    });
    node.reconfigure(&configuration(&lab, &services))?;
    node.kill_agent()?;
    node.start_agent()?;
    check_rights(&node)?;
    let status = node.status()?;
    ensure!(status["agent"]["adopted"] == true, "{status}");
    ensure!(node.service("web")?["active"] == "green", "{status}");
    mixed.goes_on()?;
    node.flip(&["web"], Color::Blue)?;
    node.flip(&["more"], Color::Green)?;
    // A drain ends with a scan that found nothing.
    let (done, code) = node.json(&["drain", "more", "--wait", "--timeout", "10s"])?;
    ensure!(code == 0 && done["drain"]["ended"] == "drained", "{done}");
    mixed.goes_on()?;
    node.stop_agent()?;
    mixed.ends_clean()
}

#[test]
fn a_missing_capability_is_named_and_nothing_attached() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = Node::configured(&lab, &configuration(&lab, &[LabService::web(0)]))?;
    for (missing, name) in NEEDED {
        Refused::start(&lab, &node)
            .with_only(needed().difference(missing))
            .must_end(9, &[&format!("lacks {name};"), "as root"])?;
    }
    Refused::start(&lab, &node)
        .with_only(CapabilitySet::empty())
        .must_end(9, &["lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON;"])?;
    assert_eq!(Traces::of(&lab)?, Traces::none(&lab)?);
    Ok(())
}
