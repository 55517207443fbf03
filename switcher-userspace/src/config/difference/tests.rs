//! Each kind of change of a configuration, as it is told.

use std::path::Path;

use super::*;
use crate::config::CheckConfig;
use crate::config::tests::GOOD;

fn parse(text: &str) -> Config {
    Config::parse(Path::new("switcher.toml"), text).expect("a good file")
}

/// What differs when `replace` in [`GOOD`] becomes `by`.
#[track_caller]
fn after(replace: &str, by: &str) -> Difference {
    assert!(GOOD.contains(replace), "nothing is replaced: {replace}");
    Difference::between(&parse(GOOD), &parse(&GOOD.replacen(replace, by, 1)))
}

/// The only service of a difference.
#[track_caller]
fn only(difference: &Difference) -> &ServiceDifference {
    assert_eq!(difference.services.len(), 1, "{difference:?}");
    &difference.services[0]
}

/// The only listener of a difference.
#[track_caller]
fn only_listener(difference: &Difference) -> &ListenerDifference {
    let service = only(difference);
    assert_eq!(service.change, Kind::Changed);
    assert_eq!(service.listeners.len(), 1, "{service:?}");
    &service.listeners[0]
}

/// `dns`, as a part of the file.
fn dns() -> &'static str {
    &GOOD[GOOD.find("[[service]]\nname = \"dns\"").expect("dns")..]
}

#[test]
fn the_same_configuration_differs_in_nothing() {
    assert!(Difference::between(&parse(GOOD), &parse(GOOD)).is_empty());
    let other_order = after(
        "interfaces = [\"eth0\", \"eth1\"]",
        "interfaces = [\"eth1\", \"eth0\"]",
    );
    assert!(other_order.is_empty());
}

#[test]
fn another_order_of_backends_or_listeners_is_no_difference() {
    let swapped = after(
        r#"[{ address = "10.0.0.1", port = 8080, weight = 2 }, { address = "10.0.0.2", port = 8080 }]"#,
        r#"[{ address = "10.0.0.2", port = 8080 }, { address = "10.0.0.1", port = 8080, weight = 2 }]"#,
    );
    assert!(swapped.is_empty(), "{swapped:?}");
    let mut config = parse(GOOD);
    let mut listeners = config.services[0].listeners.to_vec();
    listeners.reverse();
    config.services[0].listeners = listeners.into();
    config.services.reverse();
    assert!(Difference::between(&parse(GOOD), &config).is_empty());
}

#[test]
fn a_service_that_comes_or_goes_has_all_its_parts() {
    let without = parse(GOOD.split(dns()).next().expect("the rest"));
    for (difference, change) in [
        (Difference::between(&without, &parse(GOOD)), Kind::Added),
        (Difference::between(&parse(GOOD), &without), Kind::Removed),
    ] {
        let dns = only(&difference);
        assert_eq!((dns.name.as_str(), dns.change), ("dns", change));
        assert!(dns.options.is_empty());
        let listener = &dns.listeners[0];
        assert_eq!((listener.name.as_str(), listener.change), ("udp", change));
        let backend = &listener.backends[0];
        assert_eq!(
            (backend.color, backend.port, backend.weight, backend.change),
            (Color::Green, 53, 1, change)
        );
    }
}

#[test]
fn a_weight_is_told_with_the_one_before() {
    let difference = after("weight = 2", "weight = 5");
    let backends = &only_listener(&difference).backends;
    assert_eq!(backends.len(), 1);
    assert_eq!(
        (
            backends[0].change,
            backends[0].weight_before,
            backends[0].weight
        ),
        (Kind::Changed, Some(2), 5)
    );
}

#[test]
fn a_backend_with_another_port_or_color_is_another_one() {
    let moved = after(
        r#"green = [{ address = "10.0.1.1", port = 8080 }]"#,
        r#"green = [{ address = "10.0.1.1", port = 8081 }]"#,
    );
    let backends = &only_listener(&moved).backends;
    let changes: Vec<_> = backends.iter().map(|it| (it.change, it.port)).collect();
    assert_eq!(changes, [(Kind::Added, 8081), (Kind::Removed, 8080)]);
    let recolored = after(
        "green = [{ address = \"10.0.1.1\", port = 8080 }]",
        "green = [{ address = \"10.0.0.1\", port = 8080 }]",
    );
    assert_eq!(only_listener(&recolored).backends.len(), 2);
}

#[test]
fn a_listener_elsewhere_is_told_with_its_place_before() {
    let difference = after(
        "port = 80\nprotocol = \"tcp\"",
        "port = 81\nprotocol = \"tcp\"",
    );
    let listener = only_listener(&difference);
    assert_eq!((listener.change, listener.place.port), (Kind::Changed, 81));
    assert_eq!(listener.before.map(|before| before.port), Some(80));
    assert!(listener.backends.is_empty());
}

#[test]
fn options_are_told_with_old_and_new_values() {
    for (replace, by, told) in [
        (
            "initial_active = \"blue\"",
            "initial_active = \"blue\"\nmin_healthy = 2",
            ServiceOptions {
                min_healthy: changed(1, 2),
                ..ServiceOptions::default()
            },
        ),
        (
            "initial_active = \"blue\"",
            "second_chance = false",
            ServiceOptions {
                second_chance: changed(true, false),
                ..ServiceOptions::default()
            },
        ),
        (
            "initial_active = \"blue\"",
            "drain_timeout = \"1m\"\nat_deadline = \"reset\"",
            ServiceOptions {
                drain_timeout_ms: changed(30_000, 60_000),
                at_deadline: changed(AtDeadline::Keep, AtDeadline::Reset),
                ..ServiceOptions::default()
            },
        ),
        (
            "[service.idle]",
            "[service.check]\n[service.failover]\nflips_per_hour = 2\n[service.idle]",
            ServiceOptions {
                check: changed(None, Some(CheckConfig::default().to_string())),
                failover: changed(
                    None,
                    Some("on, hold-down 30s, 2 an hour, manual freeze 60s, cut".to_owned()),
                ),
                ..ServiceOptions::default()
            },
        ),
        (
            "udp = \"60s\"",
            "udp = \"61s\"\nclosing = \"11s\"",
            ServiceOptions {
                idle_udp_ms: changed(60_000, 61_000),
                idle_closing_ms: changed(10_000, 11_000),
                ..ServiceOptions::default()
            },
        ),
    ] {
        let difference = after(replace, by);
        let web = only(&difference);
        assert_eq!((&web.options, web.listeners.len()), (&told, 0));
    }
}

#[test]
fn of_the_agent_only_the_rate_may_differ_and_all_else_is_named() {
    let limited = |limits: &str| {
        let by = format!("socket = \"/run/switcher/switcher.sock\"\n[agent.limits]\n{limits}");
        parse(&GOOD.replacen("socket = \"/run/switcher/switcher.sock\"", &by, 1))
    };
    let running = parse(GOOD);
    let rate = limited("inserts_per_second = 7\n");
    assert_eq!(running.fixed_keys(&rate), []);
    let difference = Difference::between(&running, &rate);
    assert_eq!(difference.inserts_per_second, changed(125_000, 7));
    for (text, key, from, to) in [
        ("flows = 5\n", "limits.flows", "1048576", "5"),
        ("interfaces = 5\n", "limits.interfaces", "4096", "5"),
    ] {
        let keys = running.fixed_keys(&limited(text));
        assert_eq!(keys.len(), 1, "{keys:?}");
        let found = (keys[0].key, keys[0].from.as_str(), keys[0].to.as_str());
        assert_eq!(found, (key, from, to));
    }
    let agent = |replace: &str, by: &str| parse(&GOOD.replacen(replace, by, 1));
    for (config, key) in [
        (agent("\"eth1\"", "\"eth2\""), "interfaces"),
        (agent("socket = ", "mode = \"native\"\nsocket = "), "mode"),
        (agent("/run/switcher/", "/run/"), "socket"),
        (agent("socket = ", "pin_dir = \"/a\"\nsocket = "), "pin_dir"),
        (
            agent("socket = ", "state_dir = \"/a\"\nsocket = "),
            "state_dir",
        ),
    ] {
        let keys = running.fixed_keys(&config);
        let keys: Vec<&str> = keys.iter().map(|it| it.key).collect();
        assert_eq!(keys, [key]);
    }
}
