//! What has to be true of the node before the agent attaches anything.
//!
//! Most of what is looked for here shows as silence otherwise: packets vanish, and no counter of
//! the switcher moves. Each finding therefore says what it leads to, and what mends it.

mod backends;
mod certificates;
mod ethtool;
mod forwarding;
mod interfaces;
mod network;
mod offloads;
mod report;
mod sysctl;
mod system;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::report::{Finding, NotChecked, Report, Severity};
use self::{network::Network, report::Problem, sysctl::Sysctl};
use crate::config::Config;

/// Looks at the node from the calling thread, in that thread's network namespace; blocks for some
/// milliseconds. `is_ours` tells the agent's own XDP programs from others by their id.
#[must_use]
pub fn run(config: &Config, is_ours: &dyn Fn(u32) -> bool) -> Report {
    let mut report = Report::default();
    system::check(config, &mut report);
    certificates::check(config, &mut report);
    match Network::open() {
        Ok(mut network) => check_network(config, is_ours, &mut network, &mut report),
        Err(error) => report.settle("netlink", vec![no_netlink(&error)]),
    }
    report
}

fn check_network(
    config: &Config,
    is_ours: &dyn Fn(u32) -> bool,
    network: &mut Network,
    report: &mut Report,
) {
    let sysctl = Sysctl::of_this_thread();
    interfaces::check(config, is_ours, network, report);
    forwarding::check(config, network, &sysctl, report);
    backends::check(config, network, &sysctl, report);
}

fn no_netlink(error: &std::io::Error) -> Problem {
    Problem::fatal(
        format!(
            "asking the kernel for its network interfaces failed: {error}; nothing about the network can be checked"
        ),
        "ip link show  # it asks the same; mend what it reports",
    )
}

/// `names` in words, cut short so that a finding stays readable.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let (shown, rest) = names.split_at(names.len().min(SHOWN));
    let shown = shown.join(", ");
    match rest.len() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `word` as one word of a shell command: interface names may hold almost any character.
fn shell_word(word: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '=');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// How each interface that carries an XDP program carries it, by name: `native` or `generic`.
#[must_use]
pub fn attached_modes() -> BTreeMap<String, &'static str> {
    let Ok(network) = Network::open() else {
        return BTreeMap::new();
    };
    network
        .links()
        .iter()
        .filter_map(|link| {
            let program = link.xdp.first()?;
            let mode = match program.keyword {
                "xdpgeneric" => "generic",
                "xdpoffload" => "offload",
                _ => "native",
            };
            Some((link.name.clone(), mode))
        })
        .collect()
}
