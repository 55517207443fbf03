//! What a new agent knows of what was before it: from the kernel, from the disk, and of time.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::{Client, HttpNew, Load, LongLived},
};
use switcher_userspace::preflight;

use crate::mixed::LIMIT;

const CONNECTIONS: usize = 10;

fn lasting(lab: &Lab) -> Result<Load> {
    let target = LabService::stream(1).target(lab, Family::V4);
    let load = Client::new(lab.client()).long_lived(target, LongLived::default());
    load.wait_until(LIMIT, |stats| stats.fresh.len() == CONNECTIONS)?;
    Ok(load)
}

#[test]
fn a_drain_goes_on_under_the_next_agent_and_ends() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let load = lasting(&lab)?;
    node.flip(&["stream"], Color::Green)?;
    let before = node.service("stream")?["drain"].clone();
    node.kill_agent()?;
    node.start_agent()?;
    let after = node.service("stream")?["drain"].clone();
    for field in ["color", "generation", "started_at", "deadline_at", "ended"] {
        ensure!(
            after[field] == before[field],
            "{field} of {after}, it was {before}"
        );
    }
    ensure!(
        after["ended"].is_null() && after["in_flight"] == CONNECTIONS,
        "{after}"
    );
    ensure!(load.finish().is_clean(), "pinned connections");
    let (done, code) = node.json(&["drain", "stream", "--wait", "--timeout", "10s"])?;
    ensure!(code == 0 && done["drain"]["ended"] == "drained", "{done}");
    // The end is on disk as well.
    node.kill_agent()?;
    node.start_agent()?;
    let last = node.service("stream")?["drain"].clone();
    ensure!(
        last["ended_at"] == done["drain"]["ended_at"],
        "{last}, it was {done}"
    );
    Ok(())
}

#[test]
fn a_deadline_that_passed_without_an_agent_is_carried_out_before_the_first_request() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let load = lasting(&lab)?;
    let timeout = Duration::from_millis(400);
    let (reply, code) = node.json(&[
        "flip",
        "stream",
        "--to",
        "green",
        "--drain-timeout",
        "400ms",
    ])?;
    ensure!(code == 0, "{reply}");
    node.kill_agent()?;
    // Time itself is what is waited for.
    thread::sleep(timeout);
    node.spawn_agent()?;
    let first = first_answer(&node)?;
    let drain = &first["drain"];
    ensure!(
        drain["ended"] == "deadline" && drain["flows_left"] == CONNECTIONS,
        "{first}"
    );
    // A request for a drain scans by itself; the log tells that the end came before any request.
    let log = node.log();
    let restarted = log.rfind("data path ready").unwrap_or(0);
    let ended = log[restarted..].find("drain ended");
    let serving = log[restarted..].find("serving");
    ensure!(ended.is_some() && ended < serving, "{log}");
    ensure!(load.finish().is_clean(), "kept connections");
    Ok(())
}

/// The answer to the first request that the new agent accepts.
fn first_answer(node: &Node<'_>) -> Result<Value> {
    for _ in 0..1000 {
        let (object, code) = node.json(&["drain", "stream"])?;
        if code == 0 {
            return Ok(object);
        }
        ensure!(code == 6, "{object}");
    }
    anyhow::bail!("the agent does not answer; its log: {}", node.log())
}

/// What a reboot takes away: all that is pinned, and so all that is attached.
fn reboot(lab: &Lab) -> Result<()> {
    let pins = lab.bpffs().join("switcher");
    let node = lab.node();
    node.run(|| fs::remove_dir_all(&pins))
        .context("removing the pins")?;
    // The kernel takes links off in the background, and tells nobody.
    let deadline = Instant::now() + LIMIT;
    while !node.run(preflight::attached_modes).is_empty() {
        ensure!(Instant::now() < deadline, "links without a pin stay");
        thread::yield_now();
    }
    Ok(())
}

#[test]
fn after_a_reboot_the_state_file_decides_not_the_configuration() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    node.flip(&["web", "stream"], Color::Green)?;
    node.flip(&["stream"], Color::Blue)?;
    node.stop_agent()?;
    reboot(&lab)?;
    node.start_agent()?;
    let status = node.status()?;
    ensure!(
        status["agent"]["adopted"] == false && status["generation"] == 2,
        "{status}"
    );
    for (name, color, generation) in [("web", "green", 1), ("stream", "blue", 2)] {
        let service = node.service(name)?;
        ensure!(service["active"] == color, "{service}");
        ensure!(service["base"] == color, "{service}");
        ensure!(service["generation"] == generation, "{service}");
        ensure!(
            !service["drain"]["ended"].is_null(),
            "no flow has survived: {service}"
        );
    }
    for family in Family::ALL {
        let target = LabService::web(0).target(&lab, family);
        let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(50));
        load.wait_until(LIMIT, |stats| stats.answered >= 10)?;
        let seen = load.finish();
        ensure!(seen.is_clean() && seen.per_color.blue == 0, "{seen:?}");
    }
    node.flip(&["web"], Color::Blue)?;
    ensure!(node.service("web")?["generation"] == 3, "generations go on");
    Ok(())
}

#[test]
fn the_kernel_decides_where_the_state_file_is_gone_or_older() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let text = configuration(&lab, &[LabService::web(0)]);
    let mut node = Node::configured(&lab, &text)?;
    node.start_agent()?;
    let state = lab.dir().join("state/state.json");
    let old = fs::read(&state)?;
    node.flip(&["web"], Color::Green)?;
    for older in [Some(old), None] {
        node.kill_agent()?;
        match &older {
            Some(old) => fs::write(&state, old)?,
            None => fs::remove_file(&state)?,
        }
        node.start_agent()?;
        let web = node.service("web")?;
        ensure!(
            web["active"] == "green" && web["generation"] == 1,
            "{older:?}: {web}"
        );
        ensure!(state.exists(), "the state is on disk again");
    }
    Ok(())
}
