//! Whether the node forwards at all, for the families that the VIPs have.

use super::{
    Report, list,
    network::Network,
    report::Problem,
    sysctl::{Sysctl, of_interface, set_command},
};
use crate::config::Config;

pub(super) fn check(config: &Config, network: &Network, sysctl: &Sysctl, report: &mut Report) {
    let interfaces = network.existing(&config.agent.interfaces);
    let listeners = || {
        config
            .services
            .iter()
            .flat_map(|service| &service.listeners)
    };
    if listeners().any(|listener| listener.vip.is_ipv4()) {
        report.settle("ip_forward", forwarding_v4(&interfaces, sysctl));
        report.settle("rp_filter", strict_rp_filter(&interfaces, sysctl));
    }
    if listeners().any(|listener| listener.vip.is_ipv6()) {
        report.settle("ip6_forward", forwarding_v6(&interfaces, sysctl));
        report.settle("ip6_disabled", disabled_v6(&interfaces, sysctl));
    }
}

const SILENCE: &str =
    "the program's route lookups fail, and the stack drops what it is passed, without a trace";

/// The kernel asks only the interface that a packet came in by.
fn forwarding_v4(interfaces: &[&str], sysctl: &Sysctl) -> Vec<Problem> {
    let off = with_value(interfaces, "ipv4", "forwarding", 0, sysctl);
    if off.is_empty() {
        return Vec::new();
    }
    if sysctl.number("net/ipv4/ip_forward") == Some(0) {
        let what = format!(
            "net.ipv4.ip_forward is 0, and IPv4 forwarding is off at {}: {SILENCE}",
            list(&off)
        );
        return vec![Problem::fatal(what, "sysctl -w net.ipv4.ip_forward=1")];
    }
    // With ip_forward on already, writing it again would change no interface.
    vec![forwarding_off_at(&off, "ipv4", "IPv4")]
}

/// The program's lookups ask the interface, the stack asks the node.
fn forwarding_v6(interfaces: &[&str], sysctl: &Sysctl) -> Vec<Problem> {
    match sysctl.number("net/ipv6/conf/all/forwarding") {
        None => {
            let what = "there are IPv6 VIPs, but net.ipv6.conf.all.forwarding cannot be read; the kernel seems to run without IPv6";
            let mend =
                "boot without ipv6.disable=1, or take the IPv6 listeners out of the configuration";
            vec![Problem::fatal(what, mend)]
        }
        Some(0) => {
            let what = format!("net.ipv6.conf.all.forwarding is 0: {SILENCE}");
            let mend = "sysctl -w net.ipv6.conf.all.forwarding=1  # where the node learns its routes from router advertisements, set accept_ra=2 first";
            vec![Problem::fatal(what, mend)]
        }
        Some(_) => {
            let off = with_value(interfaces, "ipv6", "forwarding", 0, sysctl);
            if off.is_empty() {
                Vec::new()
            } else {
                vec![forwarding_off_at(&off, "ipv6", "IPv6")]
            }
        }
    }
}

fn forwarding_off_at(interfaces: &[String], family: &str, title: &str) -> Problem {
    let what = format!(
        "{title} forwarding is off at {}: for packets that come in there {SILENCE}",
        list(interfaces)
    );
    Problem::fatal(what, set_all(interfaces, family, "forwarding", 1))
}

fn disabled_v6(interfaces: &[&str], sysctl: &Sysctl) -> Vec<Problem> {
    let disabled = with_value(interfaces, "ipv6", "disable_ipv6", 1, sysctl);
    if disabled.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "IPv6 is switched off at {}: what the program passes to the stack is dropped, neighbours are never found",
        list(&disabled)
    );
    vec![Problem::warning(
        what,
        set_all(&disabled, "ipv6", "disable_ipv6", 0),
    )]
}

/// The larger of the node's and the interface's value counts; 1 is strict, 2 is loose.
fn strict_rp_filter(interfaces: &[&str], sysctl: &Sysctl) -> Vec<Problem> {
    let node = sysctl.number("net/ipv4/conf/all/rp_filter").unwrap_or(0);
    let is_strict = |name: &&str| {
        let own = sysctl
            .number(&of_interface("ipv4", name, "rp_filter"))
            .unwrap_or(0);
        node.max(own) == 1
    };
    let strict: Vec<String> = interfaces
        .iter()
        .copied()
        .filter(is_strict)
        .map(str::to_owned)
        .collect();
    if strict.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "rp_filter is strict at {}: packets passed to the stack are dropped where the way back differs, as it does for replies rewritten to a VIP of this node",
        list(&strict)
    );
    vec![Problem::warning(
        what,
        set_all(&strict, "ipv4", "rp_filter", 2),
    )]
}

fn with_value(
    interfaces: &[&str],
    family: &str,
    setting: &str,
    value: u32,
    sysctl: &Sysctl,
) -> Vec<String> {
    let has_value =
        |name: &&&str| sysctl.number(&of_interface(family, name, setting)) == Some(value);
    interfaces
        .iter()
        .filter(has_value)
        .map(|name| (*name).to_owned())
        .collect()
}

pub(super) fn set_all(interfaces: &[String], family: &str, setting: &str, value: u32) -> String {
    let keys: Vec<_> = interfaces
        .iter()
        .map(|name| of_interface(family, name, setting))
        .collect();
    set_command(&keys, value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What one check says with these settings for the interfaces `a` and `b`.
    fn outcome(
        check: fn(&[&str], &Sysctl) -> Vec<Problem>,
        settings: &[(&str, u32)],
    ) -> Vec<(bool, String)> {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (key, value) in settings {
            let file = root.path().join(key);
            fs::create_dir_all(file.parent().expect("a key has a directory")).expect("created");
            fs::write(file, format!("{value}\n")).expect("written");
        }
        let mut report = Report::default();
        report.settle("x", check(&["a", "b"], &Sysctl::at(root.path())));
        let fatal = report.is_fatal();
        report
            .findings
            .into_iter()
            .map(|finding| (fatal, finding.mend))
            .collect()
    }

    fn expect(outcome: &[(bool, String)], expected: &[(bool, &str)]) {
        let outcome: Vec<_> = outcome
            .iter()
            .map(|(fatal, mend)| (*fatal, mend.as_str()))
            .collect();
        assert_eq!(outcome, expected);
    }

    #[test]
    fn forwarding_is_mended_for_the_node_or_else_for_the_interface() {
        let at = |node, a, b| {
            [
                ("net/ipv4/ip_forward", node),
                ("net/ipv4/conf/a/forwarding", a),
                ("net/ipv4/conf/b/forwarding", b),
            ]
        };
        expect(&outcome(forwarding_v4, &at(1, 1, 1)), &[]);
        expect(&outcome(forwarding_v4, &at(0, 1, 1)), &[]);
        expect(
            &outcome(forwarding_v4, &at(0, 0, 1)),
            &[(true, "sysctl -w net.ipv4.ip_forward=1")],
        );
        expect(
            &outcome(forwarding_v4, &at(1, 0, 1)),
            &[(true, "sysctl -w net.ipv4.conf.a.forwarding=1")],
        );
    }

    #[test]
    fn the_larger_rp_filter_counts_and_loose_is_enough() {
        let at = |node, a, b| {
            [
                ("net/ipv4/conf/all/rp_filter", node),
                ("net/ipv4/conf/a/rp_filter", a),
                ("net/ipv4/conf/b/rp_filter", b),
            ]
        };
        expect(&outcome(strict_rp_filter, &at(0, 0, 0)), &[]);
        expect(&outcome(strict_rp_filter, &at(2, 1, 1)), &[]);
        expect(
            &outcome(strict_rp_filter, &at(1, 2, 0)),
            &[(false, "sysctl -w net.ipv4.conf.b.rp_filter=2")],
        );
        expect(
            &outcome(strict_rp_filter, &at(0, 1, 1)),
            &[(
                false,
                "sysctl -w net.ipv4.conf.a.rp_filter=2 net.ipv4.conf.b.rp_filter=2",
            )],
        );
    }

    #[test]
    fn a_kernel_without_ipv6_is_fatal_for_ipv6_vips() {
        let outcome = outcome(forwarding_v6, &[]);
        assert!(matches!(&outcome[..], [(true, _)]), "{outcome:?}");
    }
}
