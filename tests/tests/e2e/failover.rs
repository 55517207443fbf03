//! Automated failover with real servers that die: what the agent does by itself, and what keeps it from it.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration, service_in},
    skip_unless_lab,
    traffic::{Backends, Client, ECHO_PORT, HttpNew, Identity},
};

use crate::{
    history::{Events, history, what},
    mixed::LIMIT,
    verbs::ends,
};

/// Longer than any test.
const NEVER: &str = "24h";

/// `web` with checks that fail by refusals alone, and `[service.failover]` with `options`; and `stream` without
/// either.
pub(crate) fn services(options: &str) -> [LabService; 2] {
    let web = LabService {
        options: format!("[service.check]\ntimeout = \"10s\"\n[service.failover]\n{options}"),
        ..LabService::web(0)
    };
    [web, LabService::stream(1)]
}

/// A node whose backends are all known to be healthy.
pub(crate) fn start<'lab>(lab: &'lab Lab, options: &str) -> Result<Node<'lab>> {
    let node = Node::start(lab, &services(options))?;
    for color in Color::ALL {
        wait_for(&node, color, "healthy")?;
    }
    Ok(node)
}

/// Waits until the agent knows that both backends of a color are so, in both families.
pub(crate) fn wait_for(node: &Node<'_>, color: Color, health: &str) -> Result<Value> {
    let is_so = |status: &Value| {
        let listeners = service_in(status, "web")["listeners"].as_array();
        let backends = listeners.into_iter().flatten();
        let mut backends = backends.flat_map(|it| {
            it["backends"][color.name()]
                .as_array()
                .into_iter()
                .flatten()
        });
        backends.all(|it| it["health"] == health)
    };
    node.wait_until(&format!("{} being {health}", color.name()), is_so)
}

fn restart(backends: &mut Backends, lab: &Lab, color: Color) -> Result<()> {
    (0..2).try_for_each(|backend| backends.restart(lab, Identity { color, backend }))
}

/// `failover` of `web` in its status.
pub(crate) fn outlook(node: &Node<'_>) -> Result<Value> {
    Ok(node.service("web")?["failover"].clone())
}

/// Fresh connections of both families must be answered by `color`, all of them.
pub(crate) fn serves(lab: &Lab, color: Color) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let target = LabService::web(0).target(lab, family);
        let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(200));
        load.wait_until(LIMIT, |stats| stats.fresh.len() > 30)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{family:?}: {:?}", stats.samples);
        ensure!(
            stats.fresh.iter().all(|it| it.color == color),
            "{family:?}: {} is expected",
            color.name()
        );
    }
    Ok(())
}

/// The text of a configuration with other options of `[service.failover]`.
fn with(lab: &Lab, options: &str) -> String {
    configuration(lab, &services(options))
}

/// Time from `earlier` to an event.
fn since(earlier: SystemTime, event: &Value) -> Result<Duration> {
    let at = event["at"].as_str().unwrap_or_default();
    let at = switcher_userspace::api::instant::parse(at).context("an instant")?;
    // The API tells whole milliseconds.
    Ok((at + Duration::from_millis(1)).duration_since(earlier)?)
}

#[test]
fn g6_a_standby_that_has_died_unnoticed_is_not_failed_over_to() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    // Nobody asks by himself in the time of a test.
    let web = LabService {
        options: "[service.check]\ntimeout = \"10s\"\ninterval = \"5m\"\n[service.failover]"
            .to_owned(),
        ..LabService::web(0)
    };
    let node = start(&lab, "")?;
    let (reply, code) = node.apply(&configuration(&lab, &[web, LabService::stream(1)]), &[])?;
    ensure!(code == 0, "{reply}");
    let mut events = Events::open(&node)?;
    backends.stop_color(Color::Green);
    backends.stop_color(Color::Blue);
    ensure!(
        outlook(&node)?["if_active_failed"]["action"] == "fail_over",
        "the standby is thought to be good"
    );
    // What clients see is what the agent hears of first.
    let loads: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .map(|family| {
            let target = LabService::web(0).target(&lab, family);
            Client::new(lab.client()).http_new(target, HttpNew::per_second(100))
        })
        .collect();
    let alarm = events.next_of("alarm_raised")?;
    ensure!(alarm["alarm"] == "fail_open", "{alarm}");
    drop(loads);
    let entries = history(&node, &["web"])?;
    ensure!(!what(&entries).contains(&"failover"), "{entries:?}");
    ensure!(node.service("web")?["active"] == "blue");
    Ok(())
}

#[test]
fn when_the_active_color_dies_the_standby_takes_over_and_the_history_says_why() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "")?;
    let mut events = Events::open(&node)?;
    ensure!(outlook(&node)?["if_active_failed"]["action"] == "fail_over");
    // One that is left is enough.
    let first = Identity {
        color: Color::Blue,
        backend: 0,
    };
    backends.stop(first);
    events.next_of("health")?;
    backends.stop_color(Color::Blue);
    let told = events.next_of("failover")?;
    ensure!(
        told["by"].is_null() && told["active"]["web"] == "green" && told["generation"] == 1,
        "{told}"
    );
    let (evidence, reason) = (&told["evidence"], told["reason"].as_str());
    let blue = &evidence["sides"]["blue"];
    ensure!(
        evidence["cause"] == "active_short"
            && evidence["active"] == "blue"
            && blue["fitness"] == "short"
            && blue["listener"]["unhealthy"] == 2
            && evidence["sides"]["green"]["listener"]["eligible"] == 2,
        "{told}"
    );
    ensure!(
        reason.is_some_and(|it| it.contains("0 eligible backends, 1 needed, 2 unhealthy")),
        "{told}"
    );
    serves(&lab, Color::Green)?;
    let drained = events.next_of("drain_ended")?;
    ensure!(
        drained["drain"]["color"] == "blue" && drained["drain"]["at_deadline"] == "reset",
        "dead backends' flows are cut: {drained}"
    );
    let service = node.service("web")?;
    ensure!(
        service["newest_change"]["by"] == "failover" && service["confirm_until_at"].is_null(),
        "{service}"
    );
    ensure!(
        service["failover"]["flips_left"] == 3 && service["failover"]["alarm"].is_null(),
        "{service}"
    );
    ensure!(
        node.service("stream")?["active"] == "blue",
        "it has no failover"
    );
    // Nothing goes back by itself, and an operator can take it back.
    restart(&mut backends, &lab, Color::Blue)?;
    wait_for(&node, Color::Blue, "healthy")?;
    ensure!(node.service("web")?["active"] == "green");
    ends(&node, &["rollback", "web"], 0)?;
    serves(&lab, Color::Blue)?;
    let entries = history(&node, &["web"])?;
    let failovers = entries.iter().filter(|it| it["what"] == "failover");
    ensure!(failovers.count() == 1, "{:?}", what(&entries));
    Ok(())
}

#[test]
fn g6_when_both_colors_are_dead_all_stays_an_alarm_stands_and_the_first_to_recover_serves()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "")?;
    let mut events = Events::open(&node)?;
    backends.stop_color(Color::Green);
    wait_for(&node, Color::Green, "unhealthy")?;
    backends.stop_color(Color::Blue);
    let raised = events.next_of("alarm_raised")?;
    ensure!(
        raised["alarm"] == "fail_open" && raised["active"]["web"] == "blue",
        "{raised}"
    );
    let service = node.service("web")?;
    let failover = &service["failover"];
    ensure!(
        failover["alarm"]["kind"] == "fail_open" && failover["now"]["why"] == "nowhere_to_go",
        "{service}"
    );
    let told = String::from_utf8(node.cli(&["status"])?.stdout)?;
    ensure!(told.contains("\nALARM: web: neither color"), "{told}");
    restart(&mut backends, &lab, Color::Green)?;
    let told = events.next_of("failover")?;
    ensure!(told["active"]["web"] == "green", "{told}");
    let cleared = events.next_of("alarm_cleared")?;
    ensure!(cleared["alarm"] == "fail_open", "{cleared}");
    serves(&lab, Color::Green)?;
    // And the active color itself may be the first.
    backends.stop_color(Color::Green);
    events.next_of("alarm_raised")?;
    restart(&mut backends, &lab, Color::Green)?;
    events.next_of("alarm_cleared")?;
    ensure!(outlook(&node)?["now"]["why"] == "enough");
    Ok(())
}

#[test]
fn after_an_operators_flip_the_agent_waits_for_the_freeze() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, &format!("manual_freeze = \"{NEVER}\""))?;
    let mut events = Events::open(&node)?;
    let before = SystemTime::now();
    ends(&node, &["flip", "web", "--to", "green"], 0)?;
    events.next_of("flip")?;
    backends.stop_color(Color::Green);
    wait_for(&node, Color::Green, "unhealthy")?;
    let failover = outlook(&node)?;
    ensure!(
        failover["now"]["why"] == "manual_freeze" && failover["alarm"].is_null(),
        "{failover}"
    );
    ensure!(node.service("web")?["active"] == "green");
    // A shorter freeze ends by itself, and the agent needs nothing to happen for that.
    let (_, code) = node.apply(&with(&lab, "manual_freeze = \"2s\""), &[])?;
    ensure!(code == 0);
    let told = events.next_of("failover")?;
    let is_over = since(before, &told)? >= Duration::from_secs(2);
    ensure!(told["active"]["web"] == "blue" && is_over, "{told}");
    serves(&lab, Color::Blue)
}

#[test]
fn an_unconfirmed_flip_is_taken_back_at_once_in_all_its_services() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, &format!("manual_freeze = \"{NEVER}\""))?;
    let mut events = Events::open(&node)?;
    let flip = ["flip", "web", "stream", "--to", "green"];
    ends(&node, &[&flip[..], &["--confirm-within", "1h"]].concat(), 0)?;
    backends.stop_color(Color::Green);
    let told = events.next_of("revert")?;
    ensure!(
        told["by"].is_null()
            && told["active"]["web"] == "blue"
            && told["active"]["stream"] == "blue"
            && told["evidence"]["active"] == "green",
        "{told}"
    );
    serves(&lab, Color::Blue)?;
    let service = node.service("web")?;
    ensure!(
        service["confirm_until_at"].is_null() && service["newest_change"]["by"] == "reverted",
        "{service}"
    );
    ensure!(service["failover"]["flips_left"] == 4, "{service}");
    let late = ends(&node, &["confirm", "web"], 3)?;
    ensure!(late["changed"] == false, "{late}");
    Ok(())
}

#[test]
fn a_flip_of_several_that_cannot_go_back_is_taken_back_when_all_of_them_can() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "")?;
    let mut events = Events::open(&node)?;
    let flip = ["flip", "web", "stream", "--to", "green"];
    ends(&node, &[&flip[..], &["--confirm-within", "1h"]].concat(), 0)?;
    let blue: Vec<String> = (Family::ALL.into_iter())
        .flat_map(|family| lab.backends(Color::Blue, family))
        .map(|address| std::net::SocketAddr::new(address, ECHO_PORT).to_string())
        .collect();
    for backend in &blue {
        let drain = ["backend", "drain", "stream", "blue", backend, "--force"];
        ends(&node, &drain, 0)?;
    }
    backends.stop_color(Color::Green);
    let told = events.next_of("revert")?;
    ensure!(
        told["error"]["code"] == "refused" && told["active"]["web"] == "green",
        "stream could not serve: {told}"
    );
    let service = node.service("web")?;
    ensure!(
        !service["confirm_until_at"].is_null(),
        "its time is not over: {service}"
    );
    for backend in &blue {
        let resume = ["backend", "resume", "stream", "blue", backend];
        ends(&node, &resume, 0)?;
    }
    let told = events.next_of("revert")?;
    ensure!(
        told["error"].is_null()
            && told["active"]["web"] == "blue"
            && told["active"]["stream"] == "blue",
        "{told}"
    );
    serves(&lab, Color::Blue)
}

#[test]
fn the_alarm_of_a_service_that_is_removed_is_over() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "enabled = false")?;
    let mut events = Events::open(&node)?;
    backends.stop_color(Color::Blue);
    events.next_of("alarm_raised")?;
    let without = configuration(&lab, &[LabService::stream(1)]);
    ensure!(node.apply(&without, &[])?.1 == 0);
    let told = events.next_of("alarm_cleared")?;
    ensure!(told["services"][0] == "web", "{told}");
    Ok(())
}

#[test]
fn what_the_agent_before_knew_is_not_acted_on_before_a_look_of_its_own() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let mut node = start(&lab, "enabled = false")?;
    let mut events = Events::open(&node)?;
    backends.stop_color(Color::Blue);
    events.next_of("alarm_raised")?;
    node.kill_agent()?;
    restart(&mut backends, &lab, Color::Blue)?;
    node.reconfigure(&with(&lab, ""))?;
    node.start_agent()?;
    wait_for(&node, Color::Blue, "healthy")?;
    let entries = history(&node, &["web"])?;
    ensure!(!what(&entries).contains(&"failover"), "{entries:?}");
    serves(&lab, Color::Blue)
}

#[test]
fn where_failover_is_disabled_an_alarm_tells_what_is_due_until_it_is_enabled() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let mut node = start(&lab, "")?;
    let disable = [
        "failover",
        "disable",
        "web",
        "--reason",
        "the database moves",
    ];
    ensure!(ends(&node, &disable, 0)?["changed"] == true);
    let again = ends(&node, &disable, 0)?;
    ensure!(
        again["changed"] == false && again["generation"] == 0,
        "{again}"
    );
    // Neither a restart nor another configuration switches it on.
    node.kill_agent()?;
    node.start_agent()?;
    let (_, code) = node.apply(&with(&lab, "flips_per_hour = 9"), &[])?;
    ensure!(code == 0);
    let mut events = Events::open(&node)?;
    backends.stop_color(Color::Blue);
    let raised = events.next_of("alarm_raised")?;
    ensure!(raised["alarm"] == "switched_off", "{raised}");
    let failover = outlook(&node)?;
    ensure!(
        failover["enabled"] == false
            && failover["switched_off_by"] == "operator"
            && failover["now"]["why"] == "switched_off",
        "{failover}"
    );
    ensure!(node.service("web")?["active"] == "blue");
    let enable = ["failover", "enable", "web", "--if-generation", "1"];
    ensure!(
        ends(&node, &enable, 4)?["changed"] == false,
        "another generation"
    );
    ensure!(ends(&node, &["failover", "enable", "web"], 0)?["changed"] == true);
    ensure!(events.next_of("failover_enabled")?["by"]["uid"] == 0);
    let told = events.next_of("failover")?;
    ensure!(told["active"]["web"] == "green", "{told}");
    ensure!(events.next_of("alarm_cleared")?["alarm"] == "switched_off");
    serves(&lab, Color::Green)?;
    ends(&node, &["failover", "enable", "stream"], 3)?;
    ends(&node, &["failover", "enable", "no"], 7)?;
    Ok(())
}

#[test]
fn the_hold_down_outlives_the_agent_and_its_end_is_decided_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let mut node = start(&lab, &format!("hold_down = \"{NEVER}\""))?;
    let mut events = Events::open(&node)?;
    let began = SystemTime::now();
    backends.stop_color(Color::Blue);
    events.next_of("failover")?;
    restart(&mut backends, &lab, Color::Blue)?;
    wait_for(&node, Color::Blue, "healthy")?;
    backends.stop_color(Color::Green);
    let raised = events.next_of("alarm_raised")?;
    ensure!(raised["alarm"] == "hold_down", "{raised}");
    let before = outlook(&node)?;
    ensure!(
        before["now"]["why"] == "hold_down" && before["flips_left"] == 3,
        "{before}"
    );
    node.kill_agent()?;
    node.start_agent()?;
    let mut events = Events::open(&node)?;
    let after = outlook(&node)?;
    for key in ["now", "hold_down_until_at", "flips_left", "alarm"] {
        ensure!(after[key] == before[key], "{key}: {before} {after}");
    }
    ensure!(node.service("web")?["active"] == "green");
    let (_, code) = node.apply(&with(&lab, "hold_down = \"2s\""), &[])?;
    ensure!(code == 0);
    let told = events.next_of("failover")?;
    let is_over = since(began, &told)? >= Duration::from_secs(2);
    ensure!(told["active"]["web"] == "blue" && is_over, "{told}");
    serves(&lab, Color::Blue)
}

#[test]
fn a_failure_that_begins_while_no_agent_runs_is_acted_on_by_the_next_one() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let mut node = start(&lab, "")?;
    node.kill_agent()?;
    backends.stop_color(Color::Blue);
    node.start_agent()?;
    node.wait_until("the failover", |status| {
        service_in(status, "web")["active"] == "green"
    })?;
    serves(&lab, Color::Green)
}

#[test]
fn a_failure_that_was_known_and_not_acted_on_is_acted_on_by_the_next_agent() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let mut node = start(&lab, "enabled = false")?;
    let mut events = Events::open(&node)?;
    backends.stop_color(Color::Blue);
    let raised = events.next_of("alarm_raised")?;
    ensure!(raised["alarm"] == "switched_off", "{raised}");
    ensure!(outlook(&node)?["switched_off_by"] == "configuration");
    node.kill_agent()?;
    node.reconfigure(&with(&lab, ""))?;
    // No news of health come: all is as it was.
    node.start_agent()?;
    node.wait_until("the failover", |status| {
        service_in(status, "web")["active"] == "green"
    })?;
    serves(&lab, Color::Green)
}

#[test]
fn a_pause_holds_up_a_failover_until_it_ends() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "")?;
    let mut events = Events::open(&node)?;
    ends(&node, &["pause", "web", "--max", "30s"], 0)?;
    backends.stop_color(Color::Blue);
    wait_for(&node, Color::Blue, "unhealthy")?;
    ensure!(outlook(&node)?["now"]["why"] == "paused");
    ends(&node, &["resume", "web"], 0)?;
    events.next_of("resume")?;
    let told = events.next_of("failover")?;
    ensure!(told["active"]["web"] == "green", "{told}");
    serves(&lab, Color::Green)
}

#[test]
fn a_standby_that_fails_loses_its_share_by_the_policy_too() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let node = start(&lab, "")?;
    let mut events = Events::open(&node)?;
    ends(&node, &["split", "web", "--standby", "50"], 0)?;
    events.next_of("split")?;
    backends.stop_color(Color::Green);
    let told = events.next_of("split")?;
    ensure!(
        told["by"].is_null() && told["evidence"]["cause"] == "standby_short",
        "{told}"
    );
    let service = node.service("web")?;
    ensure!(
        service["active"] == "blue" && service["split_percent"] == 0,
        "{service}"
    );
    serves(&lab, Color::Blue)
}
