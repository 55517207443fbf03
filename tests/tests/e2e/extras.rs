//! Listeners and modes beside the main road: previews, generic mode, and what the program logs.

use std::time::Duration;

use anyhow::{Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::{Client, ECHO_PORT, HttpNew, LongLived, Stats},
};

const LIMIT: Duration = Duration::from_secs(10);
/// Where the preview listener is: beside the service's own port.
const PREVIEW_PORT: u16 = 1_007;

/// The service `stream` with a preview listener whose green backends are `green`.
fn with_preview(lab: &Lab, green: &str) -> String {
    let blue = lab.backends(Color::Blue, Family::V4)[0];
    let listener = format!(
        "[[service.listener]]\nname = \"preview\"\nvip = \"{}\"\nport = {PREVIEW_PORT}\n\
         protocol = \"tcp\"\npreview = true\n\
         blue = [{{ address = \"{blue}\", port = {ECHO_PORT} }}]\ngreen = [{green}]\n",
        lab.vip(Family::V4, 1)
    );
    configuration(lab, &[LabService::stream(1)]) + &listener
}

fn preview_clients(lab: &Lab, connections: usize) -> switcher_tests::traffic::Load {
    let mut target = LabService::stream(1).target(lab, Family::V4);
    target.set_port(PREVIEW_PORT);
    let options = LongLived {
        connections,
        ..LongLived::default()
    };
    Client::new(lab.client()).long_lived(target, options)
}

fn served(stats: &Stats) -> (u64, u64) {
    let by = |color| stats.fresh.iter().filter(|it| it.color == color).count() as u64;
    (by(Color::Blue), by(Color::Green))
}

#[test]
fn a_preview_shows_the_standby_and_moves_with_the_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let green = lab.backends(Color::Green, Family::V4)[0];
    let text = with_preview(
        &lab,
        &format!("{{ address = \"{green}\", port = {ECHO_PORT} }}"),
    );
    let mut node = Node::configured(&lab, &text)?;
    node.start_agent()?;
    let before = preview_clients(&lab, 3);
    before.wait_until(LIMIT, |stats| stats.fresh.len() == 3)?;
    node.wait_until("three preview flows", |status| {
        let stream = &status["services"][0];
        stream["preview_flows"] == 3 && stream["in_flight"]["green"] == 0
    })?;
    node.flip(&["stream"], Color::Green)?;
    let after = preview_clients(&lab, 3);
    after.wait_until(LIMIT, |stats| stats.fresh.len() == 3)?;
    let (done, code) = node.json(&["drain", "stream", "--wait", "--timeout", "10s"])?;
    ensure!(code == 0, "previews do not hold a drain: {done}");
    let (before, after) = (before.finish(), after.finish());
    ensure!(
        before.is_clean() && after.is_clean(),
        "{before:?} {after:?}"
    );
    ensure!(
        served(&before) == (0, 3),
        "before the flip: {:?}",
        served(&before)
    );
    ensure!(
        served(&after) == (3, 0),
        "after the flip: {:?}",
        served(&after)
    );
    Ok(())
}

#[test]
fn what_should_never_happen_to_a_packet_is_in_the_agents_log() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = Node::configured(&lab, &with_preview(&lab, ""))?;
    node.start_agent()?;
    let load = preview_clients(&lab, 1);
    node.wait_until("a dropped packet", |status| {
        let verdicts = status["verdicts"].as_array();
        verdicts.is_some_and(|all| all.iter().any(|it| it["reason"] == "no_backend"))
    })?;
    drop(load.finish());
    // The log is written before the agent ends, which is the event to wait for.
    node.stop_agent()?;
    let log = node.log();
    ensure!(log.contains("no backend for a listener"), "{log}");
    Ok(())
}

#[test]
fn generic_mode_carries_traffic_where_native_is_not_to_be_had() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let services = [LabService::web(0)];
    let text = configuration(&lab, &services).replace("\"native\"", "\"generic\"");
    let mut node = Node::configured(&lab, &text)?;
    node.start_agent()?;
    let modes = node.status()?["interfaces"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(
        modes.len() == 4 && modes.iter().all(|it| it["mode"] == "generic"),
        "{modes:?}"
    );
    for family in [Family::V4, Family::V6] {
        let target = services[0].target(&lab, family);
        let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(100));
        load.wait_until(LIMIT, |stats| stats.answered >= 50)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{family:?}: {:?}", stats.samples);
    }
    ensure!(
        node.packets("redirected")? > 500,
        "redirected by the program"
    );
    Ok(())
}
