//! The checks against real network namespaces; they need root.

mod node;

use nix::mount::umount;

use self::node::{is_found_and_mended, set_tx_checksum, sh, with_node};
use super::{Finding, Report, Severity};

#[test]
fn a_node_in_good_order_has_no_findings() {
    with_node("good order", |node| {
        let report = node.run();
        assert_eq!(report.findings, [], "{report}");
        for check in [
            "rights",
            "kernel",
            "bpffs",
            "interface_exists",
            "interface_up",
            "mtu",
            "other_xdp",
            "offloads",
            "vlan_stripping",
            "tx_checksum",
            "ip_forward",
            "rp_filter",
            "ip6_forward",
            "ip6_disabled",
            "accept_local",
            "backend_limit",
            "backend_local",
            "backend_route",
            "backend_device",
            "backend_neighbour",
        ] {
            assert!(
                report.passed.contains(&check),
                "{check} did not pass: {report}"
            );
        }
    });
}

#[test]
fn forwarding_off_is_found_and_mended() {
    is_found_and_mended(
        "sysctl -qw net.ipv4.ip_forward=0",
        "ip_forward",
        Severity::Fatal,
    );
}

#[test]
fn forwarding_off_at_one_interface_is_found_and_mended() {
    is_found_and_mended(
        "sysctl -qw net.ipv4.conf.sw1.forwarding=0",
        "ip_forward",
        Severity::Fatal,
    );
}

#[test]
fn ipv6_forwarding_off_is_found_and_mended() {
    is_found_and_mended(
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "ip6_forward",
        Severity::Fatal,
    );
}

#[test]
fn ipv6_forwarding_off_at_one_interface_is_found_and_mended() {
    is_found_and_mended(
        "sysctl -qw net.ipv6.conf.sw0.forwarding=0",
        "ip6_forward",
        Severity::Fatal,
    );
}

#[test]
fn ipv6_switched_off_at_an_interface_is_found_and_mended() {
    is_found_and_mended(
        "sysctl -qw net.ipv6.conf.sw0.disable_ipv6=1",
        "ip6_disabled",
        Severity::Warning,
    );
}

#[test]
fn a_strict_rp_filter_is_found_and_mended() {
    is_found_and_mended(
        "sysctl -qw net.ipv4.conf.all.rp_filter=1",
        "rp_filter",
        Severity::Warning,
    );
}

#[test]
fn replies_that_the_stack_takes_for_forged_are_found_and_mended() {
    is_found_and_mended(
        "sysctl -qw net.ipv4.conf.sw1.accept_local=0",
        "accept_local",
        Severity::Warning,
    );
}

#[test]
fn accept_local_does_not_matter_where_the_vip_is_no_address_of_the_node() {
    with_node("routed vip", |node| {
        sh("sysctl -qw net.ipv4.conf.sw1.accept_local=0; ip addr del 192.0.2.10/32 dev lo");
        node.expect_clean();
    });
}

#[test]
fn redirects_on_a_node_with_one_interface_are_found_and_mended() {
    with_node("send_redirects", |mut node| {
        node.interfaces = r#"["sw1"]"#;
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("send_redirects", Severity::Warning)
        );
        sh(&finding.mend);
        node.expect_clean();
    });
}

#[test]
fn an_interface_that_is_down_is_found_and_mended() {
    is_found_and_mended(
        "ip link set dev sw0 down",
        "interface_up",
        Severity::Warning,
    );
}

#[test]
fn a_large_mtu_of_the_other_end_is_found_and_mended() {
    with_node("mtu", |node| {
        sh("ip link set far0 mtu 9000; ip link set sw0 mtu 9000");
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("mtu", Severity::Warning)
        );
        sh(&finding.mend);
        sh(&node.only_finding().mend.replace("sw0", "far0"));
        node.expect_clean();
    });
}

#[test]
fn a_missing_interface_is_fatal() {
    with_node("interface_exists", |mut node| {
        node.interfaces = r#"["sw0", "sw1", "nosuch0"]"#;
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("interface_exists", Severity::Fatal)
        );
        assert!(finding.what.contains("nosuch0"), "{finding}");
    });
}

#[test]
fn a_backend_on_the_node_itself_is_fatal() {
    with_node("backend_local", |mut node| {
        node.backend = "10.9.1.1";
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("backend_local", Severity::Fatal)
        );
        assert!(finding.what.contains("10.9.1.1 (web/http)"), "{finding}");
    });
}

#[test]
fn a_backend_without_a_route_is_a_warning() {
    with_node("backend_route", |mut node| {
        node.backend = "198.51.100.7";
        for blocked in [
            "true",
            "ip route add blackhole 198.51.100.7",
            "ip route replace prohibit 198.51.100.7",
        ] {
            sh(blocked);
            let finding = node.only_finding();
            assert_eq!(
                (finding.check, finding.severity),
                ("backend_route", Severity::Warning),
                "{blocked}"
            );
            assert!(
                finding.what.contains("198.51.100.7 (web/http)"),
                "{finding}"
            );
        }
        sh("ip route replace 198.51.100.7 via 10.9.1.254 dev sw1");
        node.expect_clean();
    });
}

#[test]
fn a_backend_behind_an_interface_without_the_program_is_a_warning() {
    with_node("backend_device", |mut node| {
        node.interfaces = r#"["sw0"]"#;
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("backend_device", Severity::Warning)
        );
        assert!(
            finding
                .what
                .contains("10.9.1.2 (web/http), 2001:db8:1::2 (web/http6)"),
            "{finding}"
        );
        assert!(finding.mend.contains("\"sw1\""), "{finding}");
    });
}

#[test]
fn a_next_hop_that_does_not_answer_is_a_warning() {
    with_node("backend_neighbour", |mut node| {
        node.backend = "198.51.100.7";
        sh("ip route add 198.51.100.7 via 10.9.1.254 dev sw1");
        sh("ip neigh add 10.9.1.254 dev sw1 nud failed");
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("backend_neighbour", Severity::Warning)
        );
        assert!(
            finding
                .what
                .contains("10.9.1.254 on interface sw1 is FAILED"),
            "{finding}"
        );
        sh("ip neigh replace 10.9.1.254 lladdr 02:00:00:00:00:01 dev sw1 nud permanent");
        node.expect_clean();
    });
}

#[test]
fn a_sender_at_the_other_end_that_leaves_checksums_to_hardware_is_a_warning_in_native_mode() {
    with_node("tx_checksum", |mut node| {
        set_tx_checksum("far1", true).expect("switched on");
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("tx_checksum", Severity::Warning)
        );
        assert!(finding.what.contains("the other end of sw1"), "{finding}");
        node.mode = "generic";
        node.expect_clean();
    });
}

#[test]
fn a_pin_dir_that_is_on_no_bpffs_is_found_and_mended() {
    with_node("bpffs", |node| {
        umount(node.pin_dir.path()).expect("unmounted");
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            ("bpffs", Severity::Fatal)
        );
        sh(&finding.mend);
        node.expect_clean();
        sh(&format!(
            "umount {}/switcher",
            node.pin_dir.path().display()
        ));
    });
}

#[test]
fn a_report_is_readable_as_text_and_as_json() {
    let report = Report {
        findings: vec![Finding {
            severity: Severity::Fatal,
            check: "ip_forward",
            what: "it is off".to_owned(),
            mend: "sysctl -w x=1".to_owned(),
        }],
        passed: vec!["kernel", "btf"],
        not_checked: Vec::new(),
    };
    assert_eq!(
        report.to_string(),
        "fatal   ip_forward: it is off\n        mend: sysctl -w x=1\npassed  kernel, btf"
    );
    assert_eq!(
        serde_json::to_string(&report).expect("it is plain data"),
        r#"{"findings":[{"severity":"fatal","check":"ip_forward","what":"it is off","mend":"sysctl -w x=1"}],"passed":["kernel","btf"],"not_checked":[]}"#
    );
}
