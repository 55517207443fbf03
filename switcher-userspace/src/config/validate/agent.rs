//! `[agent]`: interfaces, paths, limits.

use std::{collections::BTreeSet, path::Path};

use super::{Findings, Place, hooks};
use crate::config::AgentConfig;

/// IFNAMSIZ without the closing zero.
const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// `sun_path` without the closing zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The largest limits: entries that still fit the memory of a large node, and ids that fit 16 bits.
mod max {
    pub(super) const FLOWS: u64 = 67_108_864;
    pub(super) const SERVICES: u64 = 65_535;
    pub(super) const LISTENERS: u64 = 65_535;
    pub(super) const BACKENDS: u64 = 1_000_000;
    pub(super) const MAGLEV_SLOTS: u64 = 268_435_456;
    pub(super) const INSERTS_PER_SECOND: u64 = 100_000_000;
    pub(super) const INTERFACES: u64 = 1_048_576;
}

pub(super) fn check(agent: &AgentConfig, findings: &mut Findings<'_>) {
    let place = Place::agent();
    check_interfaces(agent, &place, findings);
    check_paths(agent, &place, findings);
    check_limits(agent, &place, findings);
    hooks::check(&agent.hooks, &place, findings);
}

fn check_interfaces(agent: &AgentConfig, place: &Place, findings: &mut Findings<'_>) {
    let place = place.key("interfaces");
    if agent.interfaces.is_empty() {
        findings.add(
            &place,
            "interfaces is empty; expected at least one interface",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, name) in agent.interfaces.iter().enumerate() {
        let place = place.index(index);
        if let Some(wrong) = wrong_interface_name(name) {
            let what = format!("interface {name:?} {wrong}");
            findings.add(&place, what);
        }
        if !seen.insert(name) {
            let what = format!("interface {name:?} is named twice; expected once");
            findings.add(&place, what);
        }
    }
}

/// The kernel's own rules (`dev_valid_name`).
fn wrong_interface_name(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("is an empty name; expected the name of a network interface".to_owned())
    } else if name.len() > MAX_INTERFACE_NAME_BYTES {
        let len = name.len();
        Some(format!(
            "has {len} bytes; expected at most {MAX_INTERFACE_NAME_BYTES}"
        ))
    } else if name == "."
        || name == ".."
        || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
    {
        Some("cannot be an interface: expected a name without spaces, `/` and `:`".to_owned())
    } else {
        None
    }
}

fn check_paths(agent: &AgentConfig, place: &Place, findings: &mut Findings<'_>) {
    let paths: [(&'static str, &Path); 3] = [
        ("socket", &agent.socket),
        ("pin_dir", &agent.pin_dir),
        ("state_dir", &agent.state_dir),
    ];
    for (key, path) in paths {
        if !path.is_absolute() {
            let path = path.display();
            let what = format!(
                "{key} is {path}; expected an absolute path, as the agent may start in any directory"
            );
            findings.add(&place.key(key), what);
        }
    }
    let socket_bytes = agent.socket.as_os_str().len();
    if socket_bytes > MAX_SOCKET_PATH_BYTES {
        let what = format!(
            "socket has {socket_bytes} bytes; expected at most {MAX_SOCKET_PATH_BYTES}, the system's limit for a socket's path"
        );
        findings.add(&place.key("socket"), what);
    }
}

fn check_limits(agent: &AgentConfig, place: &Place, findings: &mut Findings<'_>) {
    let place = place.table("limits");
    let limits = &agent.limits;
    for (key, value, max) in [
        ("flows", limits.flows, max::FLOWS),
        ("unanswered", limits.unanswered, max::FLOWS),
        ("fragments", limits.fragments, max::FLOWS),
        ("services", limits.services, max::SERVICES),
        ("listeners", limits.listeners, max::LISTENERS),
        ("backends", limits.backends, max::BACKENDS),
        ("maglev_slots", limits.maglev_slots, max::MAGLEV_SLOTS),
        (
            "inserts_per_second",
            limits.inserts_per_second,
            max::INSERTS_PER_SECOND,
        ),
        ("interfaces", limits.interfaces, max::INTERFACES),
    ] {
        findings.expect_count(&place, key, u64::from(value), max);
    }
}
