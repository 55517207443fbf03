//! `switcher detach`: takes the data path off, not while it is needed.

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Backends, Client, HttpNew, LongLived},
};

use crate::{mixed::LIMIT, refusal::Traces};

/// Detaches, which must end with `code` and `changed`.
fn detach(node: &Node<'_>, arguments: &[&str], code: i32, changed: bool) -> Result<Value> {
    let (reply, found) = node.detach(arguments)?;
    ensure!(
        found == code && reply["changed"] == changed,
        "detach {arguments:?} ended with {found}, expected {code}: {reply}"
    );
    let next_step = reply["error"]["next_step"].as_str().unwrap_or_default();
    ensure!(next_step.is_empty() == (code == 0), "{reply}");
    Ok(reply)
}

fn message(reply: &Value) -> &str {
    reply["error"]["message"].as_str().unwrap_or_default()
}

/// Requests are no longer translated: the node itself refuses them.
fn nobody_answers(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        let target = LabService::web(0).target(lab, family);
        let load = Client::new(lab.client2()).http_new(target, HttpNew::per_second(50));
        load.wait_until(LIMIT, |stats| stats.failed >= 5)?;
        let stats = load.finish();
        ensure!(stats.answered == 0, "{stats:?}");
        ensure!(stats.samples[0].contains("refused"), "{:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn detach_refuses_while_the_agent_runs_or_flows_are_in_flight() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let _backends = Backends::start(&lab)?;
    let mut node = crate::start(&lab)?;
    let running = Traces::of(&lab)?;
    for arguments in [&[][..], &["--force"]] {
        let reply = detach(&node, arguments, 4, false)?;
        ensure!(message(&reply).contains("agent runs"), "{reply}");
    }
    ensure!(Traces::of(&lab)? == running, "{:?}", Traces::of(&lab)?);
    let lasting = Client::new(lab.client()).long_lived(
        LabService::stream(1).target(&lab, Family::V6),
        LongLived::default(),
    );
    lasting.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    node.stop_agent()?;
    let stopped = Traces::of(&lab)?;
    let reply = detach(&node, &[], 3, false)?;
    for words in ["in flight", "stream has 10"] {
        ensure!(message(&reply).contains(words), "{reply}");
    }
    ensure!(Traces::of(&lab)? == stopped, "{:?}", Traces::of(&lab)?);
    let answered = lasting.snapshot().answered;
    lasting.wait_until(LIMIT, |stats| stats.answered > answered + 20)?;
    detach(&node, &["--force"], 0, true)?;
    gone(&lab)?;
    lasting.wait_until(LIMIT, |stats| stats.broken == 10)?;
    nobody_answers(&lab)
}

#[test]
fn detach_takes_an_idle_data_path_away_and_a_repeated_one_is_already_so() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let target = LabService::web(0).target(&lab, Family::V4);
    let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(50));
    load.wait_until(LIMIT, |stats| stats.answered >= 10)?;
    // Connections that are closed are no longer in flight.
    ensure!(load.finish().is_clean(), "before the detach");
    node.stop_agent()?;
    detach(&node, &[], 0, true)?;
    gone(&lab)?;
    nobody_answers(&lab)?;
    detach(&node, &[], 0, false)?;
    detach(&node, &["--force"], 0, false)?;
    node.start_agent()?;
    ensure!(node.status()?["agent"]["adopted"] == false, "made anew");
    Ok(())
}

/// Nothing is attached or pinned any more. The state file stays: the operator's decisions.
fn gone(lab: &Lab) -> Result<()> {
    let left = Traces::of(lab)?;
    ensure!(left.attached.is_empty() && left.pins.is_empty(), "{left:?}");
    ensure!(left.state.is_some(), "the state file is gone");
    Ok(())
}
