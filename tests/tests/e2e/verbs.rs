//! The verbs of a release on the running data path: who gets which connection.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Client, Conversation, HttpNew, LongLived, UdpLongLived},
};

use crate::mixed::LIMIT;

/// Runs the CLI, which must end with `code`; its object.
pub(crate) fn ends(node: &Node<'_>, arguments: &[&str], code: i32) -> Result<Value> {
    let (object, found) = node.json(arguments)?;
    ensure!(
        found == code,
        "`switcher {}` ended with {found}, expected {code}: {object}",
        arguments.join(" ")
    );
    Ok(object)
}

/// Who answers a new connection to `stream`.
fn asked(lab: &Lab, family: Family, port: u16) -> Result<Color> {
    let target = LabService::stream(1).target(lab, family);
    let mut conversation = Conversation::open(lab.client(), port, target, LIMIT)?;
    let by = conversation.ask()?;
    conversation.close()?;
    Ok(by.color)
}

fn is_active(status: &Value, service: &str, color: Color) -> bool {
    service_in(status, service)["active"] == color.name()
}

#[test]
fn a_rollback_brings_fresh_connections_back_and_breaks_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let refused = ends(&node, &["rollback", "web"], 3)?;
    ensure!(refused["changed"] == false, "{refused}");
    let targets = Family::ALL.map(|family| LabService::web(0).target(&lab, family));
    let fresh = targets.map(|it| Client::new(lab.client()).http_new(it, HttpNew::per_second(100)));
    let old = Client::new(lab.client()).long_lived(
        LabService::stream(1).target(&lab, Family::V4),
        LongLived::default(),
    );
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let both = ["web", "stream"];
    node.flip(&both, Color::Green)?;
    for load in &fresh {
        load.wait_until(LIMIT, |stats| stats.per_color.green > 50)?;
    }
    let back = ends(&node, &[&["rollback"], &both[..]].concat(), 0)?;
    let returned = Instant::now();
    ensure!(
        back["changed"] == true && back["active"]["web"] == "blue" && back["generation"] == 2,
        "{back}"
    );
    let again = ends(&node, &["rollback", "web"], 0)?;
    ensure!(
        again["changed"] == false && again["generation"] == 2,
        "{again}"
    );
    for load in fresh {
        load.wait_until(LIMIT, |stats| {
            let later = stats.fresh.iter().filter(|it| it.began > returned);
            later.count() > 50
        })?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
        let mut later = stats.fresh.iter().filter(|it| it.began > returned);
        ensure!(
            later.all(|it| it.color == Color::Blue),
            "a connection begun after the rollback was served by green"
        );
    }
    let stats = old.finish();
    ensure!(
        stats.is_clean() && stats.per_color.green == 0,
        "{:?}",
        stats.samples
    );
    let newest = &node.service("web")?["newest_change"];
    ensure!(
        newest["by"] == "rollback" && newest["from"] == "green",
        "{newest}"
    );
    Ok(())
}

#[test]
fn an_unconfirmed_flip_is_taken_back_in_all_its_services() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let flip = [
        "flip",
        "web",
        "stream",
        "--to",
        "green",
        "--confirm-within",
        "400ms",
    ];
    ends(&node, &flip, 0)?;
    ensure!(asked(&lab, Family::V4, 5_000)? == Color::Green);
    let back = node.wait_until("the flip is taken back", |status| {
        is_active(status, "web", Color::Blue)
    })?;
    ensure!(is_active(&back, "stream", Color::Blue), "together: {back}");
    ensure!(
        service_in(&back, "web")["newest_change"]["by"] == "reverted",
        "{back}"
    );
    ensure!(asked(&lab, Family::V6, 5_001)? == Color::Blue);
    let late = ends(&node, &["confirm", "web"], 3)?;
    ensure!(
        late["error"]["message"]
            .to_string()
            .contains("nobody had confirmed it"),
        "{late}"
    );
    // A confirmation of one service is one of the whole flip.
    ends(
        &node,
        &[
            "flip",
            "web",
            "stream",
            "--to",
            "green",
            "--confirm-within",
            "1h",
        ],
        0,
    )?;
    ensure!(node.service("stream")?["confirm_until_at"].is_string());
    let confirmed = ends(&node, &["confirm", "web"], 0)?;
    ensure!(
        confirmed["changed"] == true && confirmed["generation"] == 3,
        "{confirmed}"
    );
    ensure!(node.service("stream")?["confirm_until_at"].is_null());
    let twice = ends(&node, &["confirm", "web"], 0)?;
    ensure!(twice["changed"] == false, "{twice}");
    Ok(())
}

#[test]
fn g10_a_confirmation_that_was_due_while_no_agent_ran_is_carried_out_before_the_first_answer()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let began = Instant::now();
    ends(
        &node,
        &["flip", "web", "--to", "green", "--confirm-within", "300ms"],
        0,
    )?;
    node.kill_agent()?;
    while began.elapsed() < Duration::from_millis(350) {
        // Traffic goes on, and shows that nobody takes the flip back meanwhile.
        asked(&lab, Family::V4, 5_000)?;
    }
    node.start_agent()?;
    ensure!(node.service("web")?["active"] == "blue");
    Ok(())
}

#[test]
fn a_split_shares_the_clients_and_a_promotion_gives_all_to_the_standby() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    ensure!(asked(&lab, Family::V4, 5_000)? == Color::Blue);
    ends(&node, &["promote", "stream"], 3)?;
    let all = ends(&node, &["split", "stream", "--standby", "100"], 0)?;
    ensure!(
        all["changed"] == true && all["active"]["stream"] == "blue",
        "{all}"
    );
    for (family, port) in Family::ALL.into_iter().zip(5_001..) {
        ensure!(asked(&lab, family, port)? == Color::Green, "all clients");
    }
    ensure!(node.service("stream")?["split_percent"] == 100);
    let aborted = ends(&node, &["abort", "stream", "--wait"], 0)?;
    ensure!(aborted["drains"]["stream"]["color"] == "green", "{aborted}");
    ensure!(asked(&lab, Family::V4, 5_003)? == Color::Blue);
    ends(&node, &["split", "stream", "--standby", "50"], 0)?;
    let promoted = ends(&node, &["promote", "stream"], 0)?;
    ensure!(promoted["active"]["stream"] == "green", "{promoted}");
    let again = ends(&node, &["promote", "stream"], 0)?;
    ensure!(again["changed"] == false, "{again}");
    ensure!(asked(&lab, Family::V6, 5_004)? == Color::Green);
    let status = node.service("stream")?;
    ensure!(status["split_percent"] == 0, "{status}");
    Ok(())
}

#[test]
fn a_pause_holds_fresh_connections_and_lets_the_others_go_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let stream = LabService::stream(1).target(&lab, Family::V4);
    let old = Client::new(lab.client()).long_lived(stream, LongLived::default());
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let paused = ends(&node, &["pause", "stream", "--max", "30s"], 0)?;
    ensure!(
        paused["changed"] == true && paused["generation"] == 1,
        "{paused}"
    );
    let waiting = begin(&lab, stream);
    node.wait_until("a SYN is held", |status| dropped(status, "paused") > 0)?;
    let before = old.snapshot().answered;
    old.wait_until(LIMIT, |stats| stats.answered > before + 20)?;
    ensure!(!waiting.is_finished(), "it connected during the pause");
    let resumed = ends(&node, &["resume", "stream"], 0)?;
    ensure!(resumed["changed"] == true, "{resumed}");
    let connected = waiting.join().expect("no panic")?;
    ensure!(connected == Color::Blue, "after the pause");
    let again = ends(&node, &["resume", "stream"], 0)?;
    ensure!(again["changed"] == false, "{again}");
    ensure!(old.finish().is_clean());
    Ok(())
}

#[test]
fn a_pause_of_one_listener_holds_no_other() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let listeners = node.service("stream")?["listeners"].clone();
    let of_v6 = (listeners.as_array().into_iter().flatten())
        .find(|it| it["vip"].as_str().is_some_and(|vip| vip.contains(':')))
        .map(|it| format!("stream/{}", it["name"].as_str().unwrap_or_default()))
        .unwrap_or_default();
    ends(&node, &["pause", "stream/nothing"], 7)?;
    ends(&node, &["pause", &of_v6, "--max", "30s"], 0)?;
    ensure!(asked(&lab, Family::V4, 5_000)? == Color::Blue);
    let waiting = begin(&lab, LabService::stream(1).target(&lab, Family::V6));
    node.wait_until("a SYN is held", |status| dropped(status, "paused") > 0)?;
    ends(&node, &["resume", &of_v6], 0)?;
    ensure!(waiting.join().expect("no panic")? == Color::Blue);
    Ok(())
}

#[test]
fn g4_a_pause_ends_by_itself_also_while_no_agent_runs() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    ends(&node, &["pause", "stream", "--max", "700ms"], 0)?;
    node.kill_agent()?;
    let waiting = begin(&lab, LabService::stream(1).target(&lab, Family::V4));
    ensure!(waiting.join().expect("no panic")? == Color::Blue);
    node.start_agent()?;
    ensure!(node.packets("paused")? > 0, "it waited");
    ensure!(
        node.service("stream")?["pauses"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    Ok(())
}

#[test]
fn a_hard_pause_holds_every_packet_and_breaks_no_connection() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let target = LabService::stream(1).target(&lab, Family::V6);
    let old = Client::new(lab.client()).long_lived(
        target,
        LongLived {
            timeout: LIMIT,
            ..LongLived::default()
        },
    );
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    ends(&node, &["pause", "stream", "--hard", "--max", "30s"], 0)?;
    let held = old.snapshot().answered;
    let drops = node.packets("paused")?;
    node.wait_until("packets of connections are held", |status| {
        dropped(status, "paused") > drops + 10
    })?;
    let after = old.snapshot().answered;
    ensure!(after <= held + 10, "{} answers came through", after - held);
    ends(&node, &["resume", "stream"], 0)?;
    old.wait_until(LIMIT, |stats| stats.answered > after + 20)?;
    ensure!(old.finish().is_clean());
    Ok(())
}

#[test]
fn a_drained_backend_gets_no_fresh_flows_and_keeps_the_ones_that_it_has() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let target = LabService::datagram(2).target(&lab, Family::V4);
    let old = Client::new(lab.client()).udp_long_lived(target, UdpLongLived::default());
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let port = LabService::datagram(2).backend_port;
    let addresses = lab.backends(Color::Blue, Family::V4);
    let endpoint = SocketAddr::new(addresses[0], port).to_string();
    let verb = |verb: &'static str| ["backend", verb, "datagram", "blue", endpoint.as_str()];
    ends(
        &node,
        &["backend", "drain", "datagram", "blue", "198.51.100.77:7"],
        7,
    )?;
    let drained = ends(&node, &verb("drain"), 0)?;
    ensure!(
        drained["changed"] == true && drained["generation"] == 0,
        "{drained}"
    );
    let again = ends(&node, &verb("drain"), 0)?;
    ensure!(again["changed"] == false, "{again}");
    let fresh = Client::new(lab.client2()).udp_long_lived(target, UdpLongLived::default());
    fresh.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let stats = fresh.finish();
    ensure!(
        stats.is_clean() && stats.fresh.iter().all(|it| it.backend != 0),
        "fresh flows on the drained backend: {:?}",
        stats.fresh
    );
    // The last one of a color is kept, unless somebody insists.
    let last = SocketAddr::new(addresses[1], port).to_string();
    let refused = ends(&node, &["backend", "drain", "datagram", "blue", &last], 3)?;
    ensure!(refused["changed"] == false, "{refused}");
    let before = old.snapshot().answered;
    old.wait_until(LIMIT, |stats| stats.answered > before + 20)?;
    ensure!(old.finish().is_clean());
    ends(&node, &verb("resume"), 0)?;
    Ok(())
}

#[test]
fn a_drained_backend_stays_drained_over_a_restart_of_the_agent() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let port = LabService::datagram(2).backend_port;
    let endpoint = SocketAddr::new(lab.backends(Color::Blue, Family::V6)[0], port).to_string();
    ends(
        &node,
        &["backend", "drain", "datagram", "blue", &endpoint],
        0,
    )?;
    node.kill_agent()?;
    node.start_agent()?;
    let target = LabService::datagram(2).target(&lab, Family::V6);
    let fresh = Client::new(lab.client()).udp_long_lived(target, UdpLongLived::default());
    fresh.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let stats = fresh.finish();
    ensure!(
        stats.is_clean() && stats.fresh.iter().all(|it| it.backend != 0),
        "fresh flows on the drained backend: {:?}",
        stats.fresh
    );
    Ok(())
}

#[test]
fn g10_a_running_drain_is_extended_and_finished_by_hand() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let target = LabService::stream(1).target(&lab, Family::V4);
    let old = Client::new(lab.client()).long_lived(target, LongLived::default());
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    ends(&node, &["drain", "stream", "--extend", "10s"], 3)?;
    ends(
        &node,
        &[
            "flip",
            "stream",
            "--to",
            "green",
            "--drain-timeout",
            "500ms",
        ],
        0,
    )?;
    let extended = ends(&node, &["drain", "stream", "--extend", "1h"], 0)?;
    ensure!(
        extended["changed"] == true && extended["generation"] == 1,
        "{extended}"
    );
    ends(&node, &["drain", "stream", "--wait", "--timeout", "1s"], 5)?;
    ensure!(
        node.service("stream")?["drain"]["ended"].is_null(),
        "past its first deadline"
    );
    let left = ends(
        &node,
        &["drain", "stream", "--finish-now", "keep", "--wait"],
        5,
    )?;
    let drain = &left["drains"]["stream"];
    ensure!(
        drain["ended"] == "finished_now" && drain["flows_left"] == 10,
        "{left}"
    );
    let again = ends(&node, &["drain", "stream", "--finish-now", "keep"], 0)?;
    ensure!(again["changed"] == false, "{again}");
    let before = old.snapshot().answered;
    old.wait_until(LIMIT, |stats| stats.answered > before + 20)?;
    ensure!(old.finish().is_clean());
    Ok(())
}

/// Begins a connection to an echo server, which may take its time; who answers it.
pub(crate) fn begin(lab: &Lab, target: SocketAddr) -> std::thread::JoinHandle<Result<Color>> {
    let client = Client::new(lab.client());
    std::thread::spawn(move || {
        let options = LongLived {
            connections: 1,
            timeout: 2 * LIMIT,
            ..LongLived::default()
        };
        let load = client.long_lived(target, options);
        load.wait_until(2 * LIMIT, |stats| !stats.fresh.is_empty())?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
        Ok(stats.fresh[0].color)
    })
}

/// Packets with `reason` in a status.
pub(crate) fn dropped(status: &Value, reason: &str) -> u64 {
    let verdicts = status["verdicts"].as_array().into_iter().flatten();
    verdicts
        .filter(|it| it["reason"] == reason)
        .filter_map(|it| it["packets"].as_u64())
        .sum()
}
