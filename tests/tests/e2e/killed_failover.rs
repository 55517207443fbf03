//! `kill -9` of the agent at every step of a failover and of a drill: the next agent carries out what is due, once,
//! and knows of it what there is to know.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration, service_in},
    skip_unless_lab,
    steps::{Outcome, Watch},
};

use crate::{
    failover::{outlook, services, wait_for},
    verbs::ends,
};

/// More rounds than a request has steps; each may cost a flip of the hour's budget.
const MOST_ROUNDS: usize = 55;
/// Threads that make changes.
const CHANGING: &[&str] = &["core", "writer"];

fn start<'lab>(lab: &'lab Lab, watch: &Arc<Watch>) -> Result<Node<'lab>> {
    let options = "hold_down = \"0s\"\nmanual_freeze = \"0s\"\nflips_per_hour = 60";
    let mut node = Node::configured(lab, &configuration(lab, &services(options)))?;
    node.watch(watch.clone());
    node.start_agent()?;
    for color in Color::ALL {
        wait_for(&node, color, "healthy")?;
    }
    Ok(node)
}

fn watch(lab: &Lab) -> Arc<Watch> {
    Watch::of_agent(vec![lab.dir().join("state"), lab.bpffs().to_owned()])
}

/// The web service's active color, and what failover says of itself.
fn state(node: &Node<'_>) -> Result<(String, Value)> {
    let web = node.service("web")?;
    let active = web["active"].as_str().context("an active color")?;
    Ok((active.to_owned(), web["failover"].clone()))
}

/// Takes the backends of one of the listeners of `color` out by hand, or brings them back.
fn drain(lab: &Lab, node: &Node<'_>, color: Color, verb: &str) -> Result<()> {
    for address in lab.backends(color, Family::V4) {
        let backend = format!("{address}:{}", LabService::web(0).backend_port);
        let mut words = vec!["backend", verb, "web", color.name(), &backend];
        words.extend((verb == "drain").then_some("--force"));
        ends(node, &words, 0)?;
    }
    Ok(())
}

/// Carries out `round` until it has been killed at each of its steps; these must begin with `through`.
fn at_every_step(
    watch: &Watch,
    through: &[&str],
    mut round: impl FnMut() -> Result<Outcome>,
) -> Result<()> {
    let mut killed = Vec::new();
    loop {
        ensure!(killed.len() < MOST_ROUNDS, "no end of steps: {killed:#?}");
        let outcome = round().with_context(|| format!("after {killed:#?}"))?;
        let Some(at) = outcome.killed else { break };
        killed.push(at.to_string());
    }
    watch.forget();
    for step in through {
        ensure!(
            killed.iter().any(|it| it.starts_with(step)),
            "never killed at {step:?}, only at {killed:#?}"
        );
    }
    println!("killed at {killed:#?}");
    Ok(())
}

#[test]
fn g5_a_kill_at_any_step_of_a_failover_leaves_one_that_counts_once() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let watch = watch(&lab);
    let mut node = start(&lab, &watch)?;
    let through = [
        "core: bpf MAP_UPDATE_BATCH spare SWITCH",
        "core: bpf MAP_UPDATE_ELEM SWITCH",
        "core: bpf MAP_UPDATE_BATCH CUTS",
        "writer: rename state/state.json.new",
    ];
    at_every_step(&watch, &through, || {
        // What is due is held up by the switch alone.
        ends(&node, &["failover", "disable", "web"], 0)?;
        let (active, before) = state(&node)?;
        let color = if active == "blue" {
            Color::Blue
        } else {
            Color::Green
        };
        drain(&lab, &node, color, "drain")?;
        node.wait_until("the alarm", |status| {
            service_in(status, "web")["failover"]["alarm"]["kind"] == "switched_off"
        })?;
        watch.arm(CHANGING);
        let enabled = node.end_of(node.start_cli(&["failover", "enable", "web"])?)?;
        if enabled.code == 0 {
            // The failover follows the answer; or the agent is killed, which ends this too.
            let _ = node.wait_until("the failover", |status| is_left(status, &active));
        }
        let outcome = watch.disarm();
        let is_killed = outcome.killed.is_some();
        if is_killed {
            node.kill_agent()?;
            node.start_agent()?;
        }
        let at = || format!("killed at {:?}", outcome.killed);
        if outlook(&node)?["enabled"] == true {
            // The alarm that the disk knows of ends with the next decision.
            node.wait_until("the failover", |status| {
                let alarm = &service_in(status, "web")["failover"]["alarm"];
                is_left(status, &active) && alarm.is_null()
            })
            .with_context(at)?;
            let (_, after) = state(&node)?;
            let left = |it: &Value| it["flips_left"].as_u64().unwrap_or_default();
            ensure!(
                left(&after) + 1 == left(&before),
                "{}: {before} {after}",
                at()
            );
        } else {
            ensure!(is_killed, "it is enabled");
            let (still, after) = state(&node)?;
            ensure!(
                still == active && after["flips_left"] == before["flips_left"],
                "{}: {after}",
                at()
            );
        }
        drain(&lab, &node, color, "resume")?;
        Ok(outcome)
    })
}

/// Whether another color than `active` is active.
fn is_left(status: &Value, active: &str) -> bool {
    service_in(status, "web")["active"] != active
}

#[test]
fn g5_a_kill_at_any_step_of_a_drill_is_followed_by_its_end() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let watch = watch(&lab);
    let mut node = start(&lab, &watch)?;
    let before = node.service("web")?;
    let through = [
        "core: bpf MAP_UPDATE_BATCH spare SWITCH",
        "core: bpf MAP_UPDATE_ELEM SWITCH (again",
        "writer: rename state/state.json.new (again",
    ];
    at_every_step(&watch, &through, || {
        watch.arm(CHANGING);
        let drill = ["failover", "drill", "web", "--timeout", "10s"];
        let ended = node.end_of(node.start_cli(&drill)?)?;
        let outcome = watch.disarm();
        let at = || format!("killed at {:?}: {ended:?}", outcome.killed);
        ensure!(outcome.killed.is_some() || ended.code == 0, "{}", at());
        if outcome.killed.is_some() {
            node.kill_agent()?;
            node.start_agent()?;
        }
        let status = node.wait_until("the end of the drill", |status| {
            let web = service_in(status, "web");
            let is_over = web["failover"]["drill"].is_null() && !web["drain"]["ended"].is_null();
            web["active"] == before["active"] && (is_over || web["drain"].is_null())
        });
        let status = status.with_context(at)?;
        let after = service_in(&status, "web");
        for key in ["newest_change", "active"] {
            ensure!(after[key] == before[key], "{}: {key}: {after}", at());
        }
        for key in ["flips_left", "alarm", "hold_down_until_at"] {
            let (was, is) = (&before["failover"][key], &after["failover"][key]);
            ensure!(was == is, "{}: {key}: {after}", at());
        }
        Ok(outcome)
    })
}
