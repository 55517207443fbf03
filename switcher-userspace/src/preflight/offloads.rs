//! Offloads that keep the program from seeing packets as they were on the wire.

use std::io;

use super::{
    Report,
    ethtool::{Ethtool, MERGING, TX_CHECKSUM, VLAN_STRIPPING},
    list,
    network::Network,
    report::Problem,
    shell_word,
};
use crate::{config::AttachMode, netlink::link::Link};

/// Looks at the offloads of the interfaces `links`, which the program is to be attached to.
pub(super) fn check(links: &[&Link], mode: AttachMode, network: &Network, report: &mut Report) {
    let mut ethtool = match Ethtool::open() {
        Ok(ethtool) => ethtool,
        Err(error) => return skip("offloads", &error, report),
    };
    let mut settle = |check, problems: io::Result<Vec<Problem>>| match problems {
        Ok(problems) => report.settle(check, problems),
        Err(error) => skip(check, &error, report),
    };
    settle("offloads", merging(links, &mut ethtool));
    settle("vlan_stripping", stripping(links, network, &mut ethtool));
    // In generic mode the program knows such packets, and hands them to the stack.
    if mode != AttachMode::Generic {
        let senders = unfinished_senders(links, network, &mut ethtool);
        settle("tx_checksum", senders);
    }
}

fn skip(check: &'static str, error: &io::Error, report: &mut Report) {
    report.skip(
        check,
        format!("asking for the features of the interfaces: {error}"),
    );
}

fn merging(links: &[&Link], ethtool: &mut Ethtool) -> io::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for Link { name, .. } in links {
        for offload in ethtool.active(name, &MERGING)? {
            let what = format!(
                "{offload} is on at interface {name}; packets are merged before the program sees them, and the driver may refuse native mode"
            );
            problems.push(Problem::warning(what, switch_off(name, offload)));
        }
    }
    Ok(problems)
}

fn stripping(
    links: &[&Link],
    network: &Network,
    ethtool: &mut Ethtool,
) -> io::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for link in links {
        let devices = vlan_devices(link, network.links());
        if !devices.is_empty() && !ethtool.active(&link.name, &[VLAN_STRIPPING])?.is_empty() {
            problems.push(stripped(&link.name, &devices));
        }
    }
    Ok(problems)
}

/// The VLAN devices directly above `link`.
fn vlan_devices(link: &Link, links: &[Link]) -> Vec<String> {
    let is_above = |it: &&Link| it.vlan.is_some_and(|vlan| vlan.parent == Some(link.index));
    let above = links.iter().filter(is_above);
    above.map(|it| it.name.clone()).collect()
}

fn stripped(name: &str, devices: &[String]) -> Problem {
    let what = format!(
        "interface {name} takes VLAN tags off packets before the program sees them ({VLAN_STRIPPING}), and there are VLAN devices above it: {}; the program takes their packets for untagged ones, and answers them without a tag",
        list(devices)
    );
    Problem::warning(what, switch_off(name, VLAN_STRIPPING))
}

/// A veth device hands over what its other end sends as it is; nothing between them makes up for what
/// that end has left to hardware.
fn unfinished_senders(
    links: &[&Link],
    network: &Network,
    ethtool: &mut Ethtool,
) -> io::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for link in links.iter().filter(|link| link.kind == "veth") {
        let Some(peer) = link.peer.and_then(|index| network.link(index)) else {
            continue;
        };
        if !ethtool.active(&peer.name, &[TX_CHECKSUM])?.is_empty() {
            problems.push(unfinished(&peer.name, &link.name));
        }
    }
    Ok(problems)
}

fn unfinished(peer: &str, name: &str) -> Problem {
    let what = format!(
        "interface {peer}, the other end of {name}, leaves checksums to hardware that is not there ({TX_CHECKSUM}); in native mode what it sends arrives with wrong checksums and is discarded by its receiver"
    );
    Problem::warning(what, switch_off(peer, TX_CHECKSUM))
}

fn switch_off(name: &str, offload: &str) -> String {
    format!("ethtool -K {} {offload} off", shell_word(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::link::Vlan;

    #[test]
    fn vlan_devices_are_those_directly_above_an_interface() {
        let link = |index, name: &str, parent| Link {
            index,
            name: name.to_owned(),
            vlan: Some(Vlan {
                parent,
                id: 7,
                is_802_1q: true,
            }),
            ..Link::default()
        };
        let eth0 = Link {
            index: 2,
            ..Link::default()
        };
        let links = [
            eth0.clone(),
            link(3, "eth0.7", Some(2)),
            link(4, "eth1.7", Some(9)),
            link(5, "eth0.7.8", Some(3)),
            link(6, "elsewhere", None),
        ];
        assert_eq!(vlan_devices(&eth0, &links), ["eth0.7"]);
    }

    #[test]
    fn a_finding_names_the_command_that_mends_it() {
        for (problem, words, mend) in [
            (
                stripped("eth0", &["eth0.7".to_owned()]),
                "eth0.7",
                "ethtool -K eth0 rx-vlan-hw-parse off",
            ),
            (
                unfinished("far 0", "sw0"),
                "the other end of sw0",
                "ethtool -K 'far 0' tx-checksum-ip-generic off",
            ),
        ] {
            let mut report = Report::default();
            report.settle("offloads", vec![problem]);
            let finding = &report.findings[0];
            assert!(finding.what.contains(words), "{finding}");
            assert_eq!(finding.mend, mend);
        }
    }
}
