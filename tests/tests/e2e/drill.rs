//! `switcher failover drill`: the standby is proven, and all is as before.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::Family,
    node::LabService,
    skip_unless_lab,
    traffic::{Client, HttpNew, KeepAlive},
};

use crate::{
    failover::{outlook, serves, start, wait_for},
    history::{Events, history, what},
    mixed::LIMIT,
    verbs::ends,
};

#[test]
fn a_drill_fails_over_tells_how_that_went_and_undoes_it_without_breaking_a_connection() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = start(&lab, "hold_down = \"24h\"")?;
    // What an operator can roll back before, he can afterwards.
    ends(&node, &["flip", "web", "--to", "green"], 0)?;
    ends(&node, &["wait", "web", "--until", "drained"], 0)?;
    ends(&node, &["failover", "drill", "web"], 3)?;
    ends(&node, &["flip", "web", "--to", "blue"], 0)?;
    let (_, code) = node.apply(
        &switcher_tests::node::configuration(
            &lab,
            &crate::failover::services("manual_freeze = \"0s\"\nhold_down = \"24h\""),
        ),
        &[],
    )?;
    ensure!(code == 0);
    let before = node.service("web")?;
    let target = LabService::web(0).target(&lab, Family::V4);
    let client = Client::new(lab.client());
    let load = client.http_new(target, HttpNew::per_second(200));
    let drilled = ends(
        &node,
        &["failover", "drill", "web", "--reason", "release 7"],
        0,
    )?;
    ensure!(
        drilled["changed"] == true
            && drilled["undone"] == true
            && drilled["active"]["web"] == "blue"
            && drilled["detect_ms"].is_u64()
            && drilled["visible_us"].is_u64(),
        "{drilled}"
    );
    let receipt = &drilled["drain"];
    ensure!(
        receipt["color"] == "blue"
            && receipt["ended"] == "drained"
            && !receipt["first_new_flow_at"].is_null(),
        "{drilled}"
    );
    let stats = load.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    ensure!(
        stats.fresh.iter().any(|it| it.color == Color::Green),
        "the standby has served"
    );
    let after = node.service("web")?;
    ensure!(after["generation"].as_u64() > before["generation"].as_u64());
    for key in ["active", "newest_change"] {
        ensure!(after[key] == before[key], "{key}: {before} {after}");
    }
    for key in [
        "flips_left",
        "hold_down_until_at",
        "now",
        "if_active_failed",
    ] {
        let (before, after) = (&before["failover"][key], &after["failover"][key]);
        ensure!(before == after, "{key}: {before} {after}");
    }
    let entries = history(&node, &["web"])?;
    let entries: Vec<Value> = entries
        .into_iter()
        .take_while(|it| it["what"] != "apply")
        .filter(|it| it["what"] != "drain_ended")
        .collect();
    ensure!(what(&entries) == ["drill_ended", "drill"], "{entries:?}");
    let drill = &entries[1];
    ensure!(
        drill["evidence"]["cause"] == "drill"
            && drill["reason"] == "release 7"
            && drill["by"]["uid"] == 0,
        "{drill}"
    );
    Ok(())
}

#[test]
fn after_a_drill_the_service_is_as_protected_as_before() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(
        &lab,
        "hold_down = \"24h\"\nflips_per_hour = 1\nautomatic_failback = true",
    )?;
    let mut events = Events::open(&node)?;
    let drilled = ends(&node, &["failover", "drill", "web", "--stay"], 0)?;
    ensure!(
        drilled["undone"] == false
            && drilled["active"]["web"] == "green"
            && drilled["drain"]["color"] == "blue",
        "{drilled}"
    );
    serves(&lab, Color::Green)?;
    let failover = outlook(&node)?;
    ensure!(
        failover["drill"].is_null() && failover["flips_left"] == 1,
        "{failover}"
    );
    backends.stop_color(Color::Green);
    let told = events.next_of("failover")?;
    ensure!(told["active"]["web"] == "blue", "{told}");
    serves(&lab, Color::Blue)
}

#[test]
fn a_drill_is_refused_while_the_standby_could_not_serve_or_something_forbids_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "")?;
    let drill = ["failover", "drill", "web"];
    let refused = |why: &str| -> Result<()> {
        let reply = ends(&node, &drill, 3)?;
        let message = reply["error"]["message"].as_str().unwrap_or_default();
        ensure!(
            reply["changed"] == false && message.contains(why),
            "{why}: {reply}"
        );
        ensure!(node.service("web")?["active"] == "blue");
        Ok(())
    };
    ends(&node, &["split", "web", "--standby", "10"], 0)?;
    refused("a share of the clients goes to its standby")?;
    ends(&node, &["split", "web", "--standby", "0"], 0)?;
    ends(&node, &["failover", "disable", "web"], 0)?;
    refused("automated failover is switched off")?;
    ends(&node, &["failover", "enable", "web"], 0)?;
    ends(&node, &["pause", "web", "--max", "30s"], 0)?;
    refused("the service is paused until 20")?;
    ends(&node, &["resume", "web"], 0)?;
    backends.stop_color(Color::Green);
    wait_for(&node, Color::Green, "unhealthy")?;
    refused("the standby has too few eligible backends")?;
    ends(&node, &["failover", "drill", "stream"], 3)?;
    ends(&node, &["failover", "drill", "no"], 7)?;
    ends(&node, &["failover", "drill", "web", "--timeout", "2h"], 2)?;
    Ok(())
}

#[test]
fn a_drill_is_undone_though_its_client_and_the_agent_were_killed() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = start(&lab, "")?;
    // A flow of the old color, so that its drain does not end before the client is gone.
    let target = LabService::web(0).target(&lab, Family::V4);
    let options = KeepAlive {
        lifetime: Duration::from_hours(1),
        ..KeepAlive::default()
    };
    let long = Client::new(lab.client()).http_keepalive(target, options);
    long.wait_until(LIMIT, |stats| stats.answered > 0)?;
    let mut events = Events::open(&node)?;
    let mut client = node.start_cli(&["failover", "drill", "web", "--timeout", "5s"])?;
    events.next_of("drill")?;
    client.kill().map(drop)?;
    node.kill_agent()?;
    node.start_agent()?;
    node.wait_until("the end of the drill", |status| {
        let web = switcher_tests::node::service_in(status, "web");
        web["active"] == "blue" && web["failover"]["drill"].is_null()
    })?;
    let entries = history(&node, &["web"])?;
    ensure!(what(&entries).contains(&"drill_ended"), "{entries:?}");
    let stats = long.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    Ok(())
}

#[test]
fn a_standby_that_fails_during_its_drill_is_left_at_once() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "hold_down = \"24h\"")?;
    let target = LabService::web(0).target(&lab, Family::V4);
    let options = KeepAlive {
        lifetime: Duration::from_hours(1),
        ..KeepAlive::default()
    };
    // The drain has no end while it lives.
    let long = Client::new(lab.client()).http_keepalive(target, options);
    long.wait_until(LIMIT, |stats| stats.answered > 0)?;
    let mut events = Events::open(&node)?;
    let client = node.start_cli(&["failover", "drill", "web", "--timeout", "1h"])?;
    events.next_of("drill")?;
    ensure!(outlook(&node)?["drill"]["back_to"] == "blue");
    ends(&node, &["failover", "drill", "web"], 3)?;
    backends.stop_color(Color::Green);
    let told = events.next_of("failover")?;
    ensure!(
        told["active"]["web"] == "blue" && told["evidence"]["cause"] == "active_short",
        "{told}"
    );
    let ended = node.end_of(client)?;
    let object = ended.object()?;
    ensure!(ended.code == 1 && object["undone"] == false, "{object}");
    ensure!(outlook(&node)?["drill"].is_null());
    let stats = long.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    serves(&lab, Color::Blue)
}
