//! Every kind of bad file, and the words it is refused with.

use std::path::Path;

use super::{CheckConfig, CheckKind, Config, ConfigError};
use crate::duration::Span;

/// A good file; the rows below break one thing each.
pub(super) const GOOD: &str = r#"[agent]
interfaces = ["eth0", "eth1"]
socket = "/run/switcher/switcher.sock"

[[service]]
name = "web"
initial_active = "blue"

[service.idle]
udp = "60s"

[[service.listener]]
name = "http"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
blue = [{ address = "10.0.0.1", port = 8080, weight = 2 }, { address = "10.0.0.2", port = 8080 }]
green = [{ address = "10.0.1.1", port = 8080 }]

[[service.listener]]
name = "http6"
vip = "2001:db8::10"
port = 80
protocol = "tcp"
blue = [{ address = "2001:db8:1::1", port = 8080 }]
green = []

[[service]]
name = "dns"
initial_active = "green"

[[service.listener]]
name = "udp"
vip = "192.0.2.10"
port = 53
protocol = "udp"
green = [{ address = "10.0.1.3", port = 53 }]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("switcher.toml"), text)
}

/// [`GOOD`] with one piece of text replaced; `\n` stands for a line break.
#[track_caller]
fn good_with(replace: &str, by: &str) -> String {
    let [replace, by] = [replace, by].map(|text| text.replace("\\n", "\n"));
    assert!(
        GOOD.contains(&replace),
        "the row replaces nothing: {replace}"
    );
    GOOD.replacen(&replace, &by, 1)
}

/// Each row of `table`: what is wrong | text of the good file | what stands there instead |
/// parts of the message, joined by `&&`.
#[track_caller]
fn check(table: &str) {
    for row in table.trim().lines() {
        let cells: Vec<_> = row.split(" | ").map(str::trim).collect();
        let [what, replace, by, expected] = cells[..] else {
            panic!("a row has four cells: {row}");
        };
        let message = match parse(&good_with(replace, by)) {
            Ok(_) => panic!("{what}: the file was accepted"),
            Err(error) => error.to_string(),
        };
        for part in expected.split(" && ") {
            assert!(
                message.contains(part),
                "{what}: expected `{part}` in: {message}"
            );
        }
    }
}

#[test]
fn a_good_file_is_accepted_and_defaults_are_filled_in() {
    let config = parse(GOOD).expect("the file is good");
    assert_eq!(config.services.len(), 2);
    assert_eq!(config.services[1].min_healthy, 1);
    assert!(config.services[1].second_chance);
    assert_eq!(config.services[0].listeners[0].blue[1].weight, 1);
    assert_eq!(config.services[0].idle.established.as_millis(), 7_500_000);
}

#[test]
fn errors_of_the_parser_name_file_line_and_key() {
    check(
        r#"
an unknown key of a service | initial_active = "blue" | color = "blue" | switcher.toml && line 7 && color
an unknown key of a backend | weight = 2 | wait = 2 | line 17 && wait
a color that does not exist | initial_active = "green" | initial_active = "red" | line 30 && red
a vip that is no address | "192.0.2.10" | "192.0.2" | line 14 && vip
a duration without a unit | "60s" | "60" | line 10 && 500ms, 30s
a port that does not fit | port = 53\n | port = 70000\n | line 35
a quote that is not closed | name = "dns" | name = "dns | line 29
a service without a name | name = "dns"\n |  | line 28 && name
a key that is written twice | port = 53\n | port = 53\nport = 54\n | line 36 && port
"#,
    );
}

#[test]
fn what_the_agent_section_can_have_wrong() {
    check(
        r#"
no interface | ["eth0", "eth1"] | [] | line 2: agent: interfaces is empty
an interface twice | "eth1" | "eth0" | line 2: agent: interface "eth0" is named twice
an empty interface name | "eth1" | "" | line 2: agent: interface "" is an empty name
a too long interface name | "eth1" | "a23456789012345b" | has 16 bytes; expected at most 15
a slash in an interface name | "eth1" | "../x" | interface "../x" cannot be an interface
a relative socket | "/run/switcher/ | "run/ | line 3: agent: socket is run/switcher.sock; expected an absolute
a relative pin_dir | socket =  | pin_dir = "x"\nsocket =  | line 3: agent: pin_dir is x; expected
a relative state_dir | socket =  | state_dir = "x"\nsocket =  | line 3: agent: state_dir is x; expected
a socket path that the system cannot bind | /run/switcher/ | /run/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789/ | line 3: agent: socket has 119 bytes; expected at most 107
a limit of zero | \n\n[[service]] | \n[agent.limits]\nflows = 0\n[[service]] | line 5: agent, limits: flows is 0; expected 1 to 67108864
more flows than any node holds | \n\n[[service]] | \nlimits.flows = 67108865\n[[service]] | line 4: agent, limits: flows is 67108865; expected 1 to 67108864
services beyond 16-bit ids | \n\n[[service]] | \nlimits.services = 65536\n[[service]] | services is 65536; expected 1 to 65535
listeners beyond 16-bit ids | \n\n[[service]] | \nlimits.listeners = 65536\n[[service]] | listeners is 65536
too many backends allowed | \n\n[[service]] | \nlimits.backends = 1000001\n[[service]] | expected 1 to 1000000
no room for Maglev tables | \n\n[[service]] | \nlimits.maglev_slots = 0\n[[service]] | maglev_slots is 0
no room for fragments | \n\n[[service]] | \nlimits.fragments = 0\n[[service]] | fragments is 0
no room for unanswered flows | \n\n[[service]] | \nlimits.unanswered = 0\n[[service]] | unanswered is 0
"#,
    );
}

#[test]
fn what_services_can_have_wrong() {
    check(
        r#"
more services than the limit | \n\n[[service]] | \nlimits.services = 1\n[[service]] | line 4: agent: the file has 2 services; expected at most 1
more listeners than the limit | \n\n[[service]] | \nlimits.listeners = 2\n[[service]] | the file has 3 listeners; expected at most 2
more backends than the limit | \n\n[[service]] | \nlimits.backends = 4\n[[service]] | the file has 5 backends; expected at most 4
two services of one name | "dns" | "web" | line 29: service web: another service has that name already on line 6
two listeners of one name | "http6" | "http" | line 21: service web, listener http: another listener has that name already on line 13
an empty name | "dns" | "" | line 29: service number 2: the name is empty
a space in a name | "dns" | "d ns" | line 29: service d ns: the name contains ' '
a line break in a name | "dns" | "d\u000Ans" | line 29: service d\nns: the name contains '\n'
a name that looks like an option | "dns" | "--all" | line 29: service --all: the name does not begin
a name that is a step in a path | "http" | ".." | line 13: service web, listener ..: the name does not begin
a name that does not fit a map value | "udp"\nvip | "a123456789012345678901234567890123456789012345678901234567890123"\nvip | line 33:  && the name has 64 bytes; expected at most 63
min_healthy of zero | initial_active = "blue" | min_healthy = 0 | line 7: service web: min_healthy is 0
a drain of two days | initial_active = "blue" | drain_timeout = "48h" | line 7: service web: drain_timeout is 172800s; expected 0s to 86400s
a UDP drain without silence | initial_active = "blue" | drain_udp_idle = "0s" | line 7: service web: drain_udp_idle is 0s; expected 1ms to
an idle time of zero | udp = "60s" | udp = "0s" | line 10: service web, idle: udp is 0s; expected 1ms to 604800s
an idle time of a month | udp = "60s" | closing = "720h" | line 10: service web, idle: closing is 2592000s
"#,
    );
}

#[test]
fn what_failover_can_have_wrong() {
    let of_failover = |lines: &str, check: &str| {
        parse(&format!(
            "[agent]\ninterfaces = ['a']\n[[service]]\nname = 'x'\n[service.failover]\n{lines}\n{check}\n\
             [[service.listener]]\nname = 'l'\nvip = '192.0.2.1'\nport = 80\nprotocol = 'tcp'\n\
             blue = [{{ address = '10.0.0.1', port = 80 }}]"
        ))
    };
    let default = of_failover("", "[service.check]").expect("defaults");
    let terms = default.services[0].failover.map(|it| it.terms());
    assert_eq!(terms, Some(crate::failover::Terms::default()));
    for lines in [
        "enabled = false",
        "hold_down = '0s'\nmanual_freeze = '0s'",
        "hold_down = '24h'\nflips_per_hour = 60\nautomatic_failback = true\nat_failover = 'drain'",
    ] {
        assert!(of_failover(lines, "[service.check]").is_ok(), "{lines}");
    }
    for (lines, expected) in [
        (
            "hold_down = '25h'",
            "line 6: service x, failover: hold_down is 90000s; expected 0s to 86400s",
        ),
        (
            "manual_freeze = '25h'",
            "line 6: service x, failover: manual_freeze is",
        ),
        (
            "flips_per_hour = 0",
            "line 6: service x, failover: flips_per_hour is 0; expected 1 to 60",
        ),
        ("flips_per_hour = 61", "expected 1 to 60"),
        ("at_failover = 'keep'", "line 6"),
        ("holddown = '1s'", "line 6"),
    ] {
        let found = of_failover(lines, "[service.check]").expect_err(lines);
        let found = found.to_string();
        assert!(found.contains(expected), "{lines}: {found}");
    }
    let unchecked = of_failover("", "").expect_err("nobody looks").to_string();
    let expected = "line 5: service x, failover: there is no [service.check]";
    assert!(unchecked.contains(expected), "{unchecked}");
}

#[test]
fn what_checks_can_have_wrong() {
    let of_check = |lines: &str, protocol: &str| {
        let text = format!(
            "[agent]\ninterfaces = ['a']\n[[service]]\nname = 'x'\n[service.check]\n{lines}\n\
             [[service.listener]]\nname = 'l'\nvip = '192.0.2.1'\nport = 80\nprotocol = '{protocol}'\n\
             blue = [{{ address = '10.0.0.1', port = 80 }}]\n"
        );
        parse(&text).map_err(|error| error.to_string())
    };
    for (lines, protocol) in [
        ("", "tcp"),
        ("port = 8080", "udp"),
        (
            "kind = 'http'\npath = '/a?b'\nhost = 'h:80'\nexpect_status = 204",
            "tcp",
        ),
        (
            "kind = 'https'\npath = '/a'\nhost = '[2001:db8::1]:80'\nexpect_status = 204",
            "tcp",
        ),
        ("kind = 'https'\nhost = 'a.b:80'\nverify = false", "tcp"),
        ("interval = '1s'\ntimeout = '2s'\nfall = 1\nrise = 1", "tcp"),
    ] {
        assert!(of_check(lines, protocol).is_ok(), "{lines}");
    }
    for (lines, protocol, expected) in [
        (
            "interval = '1ms'",
            "tcp",
            "line 6: service x, check: interval is 1ms; expected 10ms to",
        ),
        (
            "timeout = '2m'",
            "tcp",
            "timeout is 120s; expected 10ms to 60s",
        ),
        ("fall = 0", "tcp", "fall is 0; expected 1 to 100"),
        ("rise = 101", "tcp", "rise is 101; expected 1 to 100"),
        ("port = 0", "tcp", "port is 0; expected 1 to 65535"),
        ("", "udp", "port is missing; expected the TCP port"),
        ("path = '/'", "tcp", "path is for kind = \"http\""),
        (
            "kind = 'http'\npath = 'x'",
            "tcp",
            "path is \"x\"; expected",
        ),
        (
            "kind = 'http'\npath = '/ x'",
            "tcp",
            "path is \"/ x\"; expected",
        ),
        (
            "kind = 'http'\nhost = ''",
            "tcp",
            "host is \"\"; expected a name",
        ),
        (
            "kind = 'http'\nexpect_status = 99",
            "tcp",
            "expect_status is 99; expected 100 to 599",
        ),
        (
            "kind = 'http'\nca_file = '/ca.pem'",
            "tcp",
            "ca_file is for kind = \"https\"",
        ),
        ("verify = true", "tcp", "verify is for kind = \"https\""),
        (
            "kind = 'https'\nhost = '-a-'",
            "tcp",
            "host is \"-a-\"; expected a DNS name or an address",
        ),
        (
            "kind = 'https'\nca_file = 'ca.pem'",
            "tcp",
            "line 7: service x, check: ca_file is ca.pem; expected an absolute path",
        ),
        (
            "kind = 'https'\nca_file = '/ca.pem'\nverify = false",
            "tcp",
            "ca_file is of no use with verify = false",
        ),
        ("kind = 'ping'", "tcp", "unknown variant `ping`"),
        ("every = '1s'", "tcp", "unknown field `every`"),
    ] {
        let found = of_check(lines, protocol).expect_err(lines);
        assert!(found.contains(expected), "{lines}: {found}");
    }
}

#[test]
fn a_check_that_verifies_no_certificate_says_so() {
    let check = CheckConfig {
        kind: CheckKind::Https,
        host: Some("web.example".to_owned()),
        verify: Some(false),
        ..CheckConfig::default()
    };
    let shown = check.to_string();
    assert!(
        shown.starts_with("https / of web.example, certificates not verified, every 200ms"),
        "{shown}"
    );
    let verified = CheckConfig {
        verify: None,
        ..check
    };
    assert!(!verified.to_string().contains("not verified"));
}

#[test]
fn what_hooks_can_have_wrong() {
    let of_hook = |lines: &str| {
        let text = format!("[agent]\ninterfaces = ['a']\n[[agent.hook]]\n{lines}\n");
        parse(&text).map_err(|error| error.to_string())
    };
    let fine = "on = ['failover', 'alarm', 'ejection', 'recovery', 'drain_end']\ncommand = ['/bin/mail', 'x']";
    let hooks = of_hook(fine).expect(fine).agent.hooks;
    assert_eq!(hooks[0].timeout, Span::from_secs(10));
    let command = "command = ['/bin/mail']";
    for (lines, expected) in [
        (
            format!("on = []\n{command}"),
            "line 4: agent: on of a hook is empty",
        ),
        (
            format!("on = ['alarm', 'alarm']\n{command}"),
            "names an event twice",
        ),
        (
            format!("on = ['boot']\n{command}"),
            "unknown variant `boot`",
        ),
        (
            "on = ['alarm']\ncommand = []".to_owned(),
            "command of a hook is empty",
        ),
        (
            "on = ['alarm']\ncommand = ['mail']".to_owned(),
            "line 5: agent: command of a hook begins with \"mail\"; expected an absolute path",
        ),
        (
            "on = ['alarm']\ncommand = ['/bin/mail', 'a\\u0000b']".replace('\'', "\""),
            "has a zero byte",
        ),
        (
            format!("on = ['alarm']\n{command}\ntimeout = '2m'"),
            "timeout is 120s; expected 100ms to 60s",
        ),
        (
            format!("on = ['alarm']\n{command}\nshell = true"),
            "unknown field `shell`",
        ),
    ] {
        let found = of_hook(&lines).expect_err(&lines);
        assert!(found.contains(expected), "{lines}: {found}");
    }
}

#[test]
fn a_service_without_a_listener_is_refused() {
    let error = parse("[agent]\ninterfaces = ['a']\n\n[[service]]\nname = 'x'\n")
        .expect_err("nothing to listen on");
    assert!(
        error
            .to_string()
            .contains("line 4: service x: it has no listener"),
        "{error}"
    );
}

#[test]
fn what_vips_can_have_wrong() {
    check(
        r#"
the unspecified address | "192.0.2.10" | "0.0.0.0" | line 14: service web, listener http: vip 0.0.0.0 is the unspecified
the unspecified IPv6 address | "2001:db8::10" | "::" | line 22: service web, listener http6: vip :: is the unspecified
a multicast address | "192.0.2.10" | "224.0.0.1" | vip 224.0.0.1 is a multicast
an IPv6 multicast address | "2001:db8::10" | "ff02::1" | vip ff02::1 is a multicast
the broadcast address | "192.0.2.10" | "255.255.255.255" | is the broadcast
a loopback address | "192.0.2.10" | "127.0.0.2" | is a loopback
the IPv6 loopback address | "2001:db8::10" | "::1" | is a loopback
an IPv4 address in IPv6 form | "2001:db8::10" | "::ffff:192.0.2.1" | is an IPv4 address in IPv6 form
a link-local address | "2001:db8::10" | "fe80::1" | is a link-local
port zero | port = 80\n | port = 0\n | line 15: service web, listener http: port is 0
two listeners of one vip, port and protocol, in two services | port = 53\nprotocol = "udp" | port = 80\nprotocol = "tcp" | line 32: service dns, listener udp: vip 192.0.2.10, port 80 and protocol tcp are those of service web, listener http too
"#,
    );
}

#[test]
fn what_backends_can_have_wrong() {
    check(
        r#"
a backend of the other family | "10.0.0.2" | "2001:db8::2" | line 17: service web, listener http, blue backend [2001:db8::2]:8080: the address is IPv6, the vip 192.0.2.10 is IPv4
a backend twice in a color | "10.0.0.2" | "10.0.0.1" | blue backend 10.0.0.1:8080: it is listed twice for blue
weight zero | weight = 2 | weight = 0 | line 17: service web, listener http, blue backend 10.0.0.1:8080: weight is 0; expected 1 to 1000
too large a weight | weight = 2 | weight = 1001 | weight is 1001; expected 1 to 1000
port zero | "10.0.1.3", port = 53 | "10.0.1.3", port = 0 | line 37: service dns, listener udp, green backend 10.0.1.3:0: port is 0
a backend that is a vip | "10.0.0.2" | "192.0.2.10" | line 17:  && the address is the vip of a listener
a backend on loopback | "10.0.0.2" | "127.0.0.1" | address is a loopback
an initially active color without backends | initial_active = "blue" | initial_active = "green" | line 26: service web, listener http6: green has no backend but is initial_active
the same where the key is not written | initial_active = "green" | initial_active = "blue" | line 32: service dns, listener udp: blue has no backend
a preview listener without any backend | green = [{ address = "10.0.1.3", port = 53 }] | preview = true | line 32: service dns, listener udp: neither color has a backend
"#,
    );
}

#[test]
fn what_looks_alike_but_is_allowed() {
    for (what, replace, by) in [
        (
            "the same vip and port with the other protocol",
            "port = 53\n",
            "port = 80\n",
        ),
        (
            "the same backend in both colors",
            "\"10.0.1.1\"",
            "\"10.0.0.1\"",
        ),
        (
            "two backends of one address",
            "\"10.0.0.2\", port = 8080",
            "\"10.0.0.1\", port = 8081",
        ),
        (
            "a drain of no time",
            "initial_active = \"blue\"",
            "drain_timeout = \"0s\"",
        ),
        (
            "the same listener name in two services",
            "\"udp\"\nvip",
            "\"http\"\nvip",
        ),
        (
            "a preview listener with backends of the standby only",
            "protocol = \"udp\"",
            "protocol = \"udp\"\npreview = true",
        ),
    ] {
        if let Err(error) = parse(&good_with(replace, by)) {
            panic!("{what}: {error}");
        }
    }
}

#[test]
fn everything_wrong_is_reported_at_once_in_the_order_of_the_lines() {
    let text = GOOD
        .replacen("\"10.0.1.3\"", "\"10.0.1.3\", weight = 0", 1)
        .replacen("port = 80\n", "port = 0\n", 1)
        .replacen("[\"eth0\", \"eth1\"]", "[]", 1);
    let Err(ConfigError::Invalid { findings, .. }) = parse(&text) else {
        panic!("three things are wrong");
    };
    let lines: Vec<_> = findings
        .iter()
        .filter_map(|finding| finding.split(':').next())
        .collect();
    assert_eq!(lines, ["line 2", "line 15", "line 37"], "{findings:#?}");
}

#[test]
fn a_file_that_is_missing_is_named_with_the_option_that_mends_it() {
    let error = Config::load(Path::new("/nonexistent/switcher.toml")).expect_err("no such file");
    let message = error.to_string();
    assert!(
        message.contains("/nonexistent/switcher.toml") && message.contains("--config"),
        "{message}"
    );
}
