//! Active checks on the running data path: who fails them gets no fresh connections, and those alone.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use serde_json::Value;
use switcher_common::{cut::CutOrder, service::Color};
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Client, HttpNew, Identity, Load, LongLived},
};

use crate::{barrier::pinned, mixed::LIMIT, verbs::ends};

// Nobody is unhealthy because the machine is busy: only refusals count.
const TCP: &str = "[service.check]\ntimeout = \"10s\"";
const HTTP: &str =
    "[service.check]\ntimeout = \"10s\"\nkind = \"http\"\npath = \"/health\"\nexpect_status = 200";

fn start<'lab>(lab: &'lab Lab, check: &str) -> Result<Node<'lab>> {
    let web = LabService {
        options: check.to_owned(),
        ..LabService::web(0)
    };
    Node::start(lab, &[web, LabService::stream(1)])
}

/// Health of the backends of `web` in a color, by their numbers, in each of its listeners.
fn health(status: &Value, color: Color) -> Vec<Vec<String>> {
    let listeners = service_in(status, "web")["listeners"].as_array();
    let of_listener = |listener: &Value| {
        let backends = listener["backends"][color.name()].as_array();
        let health = backends.into_iter().flatten();
        health
            .map(|it| it["health"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    listeners.into_iter().flatten().map(of_listener).collect()
}

/// Whether the backends of a color are so in the listeners of both families.
fn are(status: &Value, color: Color, expected: [&str; 2]) -> bool {
    health(status, color) == [expected, expected]
}

fn wait_for(node: &Node<'_>, color: Color, expected: [&str; 2]) -> Result<Value> {
    let what = format!("{} being {expected:?}", color.name());
    node.wait_until(&what, |status| are(status, color, expected))
}

/// Waits until `load` has begun 50 connections from now on that were answered; by whom.
fn who_answers(load: &Load) -> Result<Vec<Identity>> {
    let since = Instant::now();
    let mut seen = Vec::new();
    load.wait_until(LIMIT, |stats| {
        let later = stats.fresh.iter().filter(|it| it.began > since);
        let identity = |it: &switcher_tests::traffic::Fresh| Identity {
            color: it.color,
            backend: it.backend,
        };
        seen = later.map(identity).collect();
        seen.len() > 50
    })?;
    Ok(seen)
}

/// Backends where no flow begins, whatever their tables say.
fn ejected(lab: &Lab) -> Result<usize> {
    let orders: Array<MapData, CutOrder> = Map::Array(pinned(lab, "CUTS")?).try_into()?;
    let mut ejected = 0;
    for order in orders.iter() {
        ejected += usize::from(order?.ejects());
    }
    Ok(ejected)
}

/// Waits until no slot leads to an ejected backend any more, as far as some clients see.
fn wait_for_tables(node: &Node<'_>, vip: SocketAddr) -> Result<()> {
    let vip = vip.to_string();
    let began = Instant::now();
    for port in 40_000..40_032 {
        let client = format!("192.0.2.200:{port}");
        loop {
            let explained = node.json(&["explain", "tcp", &client, &vip])?.0;
            let tried = &explained["begins"]["selection"]["tried"];
            ensure!(tried[0]["ejected"].is_boolean(), "{explained}");
            if tried[0]["ejected"] == false {
                break;
            }
            ensure!(
                began.elapsed() < LIMIT,
                "the tables do not follow: {explained}"
            );
        }
    }
    Ok(())
}

const FIRST: Identity = Identity {
    color: Color::Blue,
    backend: 0,
};

#[test]
fn a_backend_that_fails_its_checks_gets_no_fresh_connection_until_it_passes_them_again()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    for check in [TCP, HTTP] {
        let (lab, mut backends) = crate::lab()?;
        let node = start(&lab, check)?;
        wait_for(&node, Color::Blue, ["healthy"; 2])?;
        let target = LabService::web(0).target(&lab, Family::V4);
        let old = LabService::stream(1).target(&lab, Family::V6);
        let old = Client::new(lab.client()).long_lived(old, LongLived::default());
        backends.stop(FIRST);
        wait_for(&node, Color::Blue, ["unhealthy", "healthy"])?;
        ensure!(ejected(&lab)? > 0, "{check}: without waiting for tables");
        wait_for_tables(&node, target)?;
        let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(200));
        let seen = who_answers(&load)?;
        ensure!(
            seen.iter()
                .all(|it| it.color == Color::Blue && it.backend == 1),
            "{check}: an unhealthy backend was asked: {seen:?}"
        );
        backends.restart(&lab, FIRST)?;
        wait_for(&node, Color::Blue, ["healthy"; 2])?;
        ensure!(who_answers(&load)?.contains(&FIRST), "{check}: it is back");
        let began = Instant::now();
        while ejected(&lab)? > 0 {
            ensure!(began.elapsed() < LIMIT, "{check}: in both families");
        }
        let stats = load.finish();
        ensure!(stats.is_clean(), "{check}: {:?}", stats.samples);
        drop(old);
        let history = node.json(&["history", "web"])?.0;
        let entries = history["entries"].as_array().into_iter().flatten();
        let told: Vec<&str> = entries
            .filter(|it| it["what"] == "health")
            .filter_map(|it| it["reason"].as_str())
            .collect();
        let port = LabService::web(0).backend_port;
        let endpoint = SocketAddr::new(lab.backends(Color::Blue, Family::V4)[0], port).to_string();
        let is_told = |health: &str| {
            told.iter()
                .any(|it| it.starts_with(&format!("{endpoint} is {health}: ")))
        };
        ensure!(
            is_told("unhealthy") && is_told("healthy"),
            "{check}: {told:?}"
        );
        ensure!(
            node.service("web")?["generation"] == 0,
            "health is no generation"
        );
    }
    Ok(())
}

#[test]
fn g6_a_standby_that_fails_its_checks_is_not_flipped_to() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, TCP)?;
    wait_for(&node, Color::Green, ["healthy"; 2])?;
    backends.stop_color(Color::Green);
    wait_for(&node, Color::Green, ["unhealthy"; 2])?;
    let refused = ends(&node, &["flip", "web", "--to", "green"], 3)?;
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    ensure!(
        refused["changed"] == false && message.contains("0 eligible backends on green"),
        "{refused}"
    );
    let group = ["flip", "stream", "web", "--to", "green"];
    ends(&node, &group, 3)?;
    ensure!(
        node.service("stream")?["active"] == "blue",
        "nor in a group"
    );
    ends(&node, &["split", "web", "--standby", "10"], 3)?;
    let load = Client::new(lab.client()).http_new(
        LabService::web(0).target(&lab, Family::V6),
        HttpNew::per_second(200),
    );
    // One that serves is enough, as soon as the gate says so.
    backends.restart(
        &lab,
        Identity {
            color: Color::Green,
            backend: 1,
        },
    )?;
    let began = Instant::now();
    while node.json(&["flip", "web", "--to", "green"])?.1 != 0 {
        ensure!(began.elapsed() < LIMIT, "the gate stays closed");
    }
    let seen = who_answers(&load)?;
    ensure!(
        seen.iter()
            .all(|it| it.color == Color::Green && it.backend == 1),
        "{seen:?}"
    );
    let stats = load.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    ensure!(node.packets("no_backend")? == 0, "its table was empty");
    Ok(())
}

#[test]
fn g6_a_color_without_any_healthy_backend_fails_open() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    // What answers its checks is another port than what serves, so that clients see who is asked.
    let node = start(&lab, "[service.check]\ntimeout = \"10s\"\nport = 4")?;
    wait_for(&node, Color::Blue, ["unhealthy"; 2])?;
    wait_for(&node, Color::Green, ["unhealthy"; 2])?;
    let target = LabService::web(0).target(&lab, Family::V4);
    let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(200));
    let seen = who_answers(&load)?;
    for backend in 0..2 {
        let blue = Identity {
            color: Color::Blue,
            backend,
        };
        ensure!(seen.contains(&blue), "{blue} keeps its slots: {seen:?}");
    }
    ensure!(load.finish().is_clean());
    backends.stop_color(Color::Green);
    Ok(())
}

#[test]
fn what_is_known_of_health_outlives_the_agent() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let mut node = start(&lab, "[service.check]\ntimeout = \"10s\"\nfall = 1")?;
    wait_for(&node, Color::Blue, ["healthy"; 2])?;
    backends.stop(FIRST);
    wait_for(&node, Color::Blue, ["unhealthy", "healthy"])?;
    node.kill_agent()?;
    let load = Client::new(lab.client()).http_new(
        LabService::web(0).target(&lab, Family::V4),
        HttpNew::per_second(200),
    );
    let seen = who_answers(&load)?;
    ensure!(
        !seen.contains(&FIRST),
        "the tables are the kernel's: {seen:?}"
    );
    node.start_agent()?;
    let first = node.status()?;
    ensure!(
        are(&first, Color::Blue, ["unhealthy", "healthy"]),
        "the first answer after the start: {first}"
    );
    ensure!(!who_answers(&load)?.contains(&FIRST));
    ensure!(load.finish().is_clean(), "nobody was sent to the dead one");
    // Without a check, nothing is held against a backend.
    let unchecked =
        switcher_tests::node::configuration(&lab, &[LabService::web(0), LabService::stream(1)]);
    ensure!(node.apply(&unchecked, &[])?.1 == 0);
    wait_for(&node, Color::Blue, ["unknown"; 2])?;
    Ok(())
}

/// Where fresh connections to `web` over IPv4 would go, of many clients.
fn would_go_to(lab: &Lab, node: &Node<'_>) -> Result<std::collections::BTreeSet<String>> {
    let target = LabService::web(0).target(lab, Family::V4).to_string();
    let explained = (1_000..1_032).map(|port| {
        let client = format!("203.0.113.7:{port}");
        let reply = ends(node, &["explain", "tcp", &client, &target], 0)?;
        Ok(reply["begins"]["to"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    });
    explained.collect()
}

#[test]
fn g6_a_forced_flip_to_a_color_that_is_short_uses_all_of_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "min_healthy = 2\n[service.check]\ntimeout = \"10s\"")?;
    wait_for(&node, Color::Green, ["healthy"; 2])?;
    backends.stop_color(Color::Blue);
    backends.stop(Identity {
        color: Color::Green,
        backend: 0,
    });
    wait_for(&node, Color::Blue, ["unhealthy"; 2])?;
    wait_for(&node, Color::Green, ["unhealthy", "healthy"])?;
    let port = LabService::web(0).backend_port;
    let endpoints = |color| -> std::collections::BTreeSet<String> {
        let addresses = lab.backends(color, Family::V4).into_iter();
        addresses
            .map(|address| SocketAddr::new(address, port).to_string())
            .collect()
    };
    ensure!(
        would_go_to(&lab, &node)? == endpoints(Color::Blue),
        "fail open"
    );
    ends(&node, &["flip", "web", "--to", "green"], 3)?;
    ends(&node, &["flip", "web", "--to", "green", "--force"], 0)?;
    ensure!(
        would_go_to(&lab, &node)? == endpoints(Color::Green),
        "fail open"
    );
    Ok(())
}

#[test]
fn a_standby_that_fails_loses_its_share_of_the_clients() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, TCP)?;
    wait_for(&node, Color::Green, ["healthy"; 2])?;
    ends(&node, &["split", "web", "--standby", "100"], 0)?;
    // One that is left is enough.
    backends.stop(Identity {
        color: Color::Green,
        backend: 0,
    });
    wait_for(&node, Color::Green, ["unhealthy", "healthy"])?;
    ensure!(node.service("web")?["split_percent"] == 100);
    backends.stop_color(Color::Green);
    node.wait_until("the end of the split", |status| {
        service_in(status, "web")["split_percent"] == 0
    })?;
    let service = node.service("web")?;
    ensure!(
        service["active"] == "blue" && service["generation"] == 2,
        "{service}"
    );
    let history = node.json(&["history", "web"])?.0;
    let mut entries = history["entries"].as_array().into_iter().flatten();
    let is_told = entries.any(|it| {
        let reason = it["reason"].as_str().unwrap_or_default();
        it["what"] == "split" && it["by"].is_null() && reason.contains("0 eligible")
    });
    ensure!(is_told, "{history}");
    let load = Client::new(lab.client()).http_new(
        LabService::web(0).target(&lab, Family::V4),
        HttpNew::per_second(200),
    );
    let seen = who_answers(&load)?;
    ensure!(seen.iter().all(|it| it.color == Color::Blue), "{seen:?}");
    ensure!(load.finish().is_clean());
    Ok(())
}
