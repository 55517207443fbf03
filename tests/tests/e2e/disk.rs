//! A disk that fails or stalls: what is told, what is kept, and what goes on (G5).

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::{Client, HttpNew, LongLived},
};

use crate::{mixed::LIMIT, refusal::Refused};

/// The file that the agent writes before it renames it.
fn temporary(lab: &Lab) -> PathBuf {
    lab.dir().join("state/state.json.new")
}

fn on_disk(lab: &Lab, service: &str) -> Result<Value> {
    let text = fs::read(lab.dir().join("state/state.json")).context("no state file")?;
    let state: Value = serde_json::from_slice(&text)?;
    Ok(state["board"]["services"][service]["active"].clone())
}

/// Fresh connections to `web` go to `color`.
fn web_goes_to(lab: &Lab, color: Color) -> Result<()> {
    let target = LabService::web(0).target(lab, Family::V4);
    let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(100));
    load.wait_until(LIMIT, |stats| stats.answered >= 10)?;
    let stats = load.finish();
    ensure!(
        stats.is_clean() && stats.fresh.iter().all(|it| it.color == color),
        "{stats:?}"
    );
    Ok(())
}

#[test]
fn a_change_that_the_disk_refused_is_told_until_it_is_durable() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    fs::create_dir(temporary(&lab))?;
    let flip = ["flip", "web", "--to", "green"];
    let (reply, code) = node.json(&flip)?;
    ensure!(
        code == 1 && reply["changed"] == true,
        "the change stands: {reply}"
    );
    ensure!(
        reply["error"]["message"].to_string().contains("reboot"),
        "{reply}"
    );
    web_goes_to(&lab, Color::Green)?;
    let (again, code) = node.json(&flip)?;
    ensure!(
        code == 1 && again["changed"] == false,
        "still not durable: {again}"
    );
    ensure!(on_disk(&lab, "web")? == "blue", "on disk");
    fs::remove_dir(temporary(&lab))?;
    let (durable, code) = node.json(&flip)?;
    ensure!(code == 0 && durable["changed"] == false, "{durable}");
    ensure!(on_disk(&lab, "web")? == "green", "on disk");
    node.stop_agent()
}

#[test]
fn a_disk_that_stalls_holds_up_no_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    // Opening a FIFO for writing waits for a reader.
    let made = Command::new("mkfifo").arg(temporary(&lab)).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    let mut waiting = Vec::new();
    for color in [Color::Green, Color::Blue, Color::Green] {
        waiting.push(node.start_cli(&["flip", "web", "--to", color.name()])?);
        let load = Client::new(lab.client()).http_new(
            LabService::web(0).target(&lab, Family::V4),
            HttpNew::per_second(100),
        );
        let of_color =
            |stats: &switcher_tests::traffic::Stats| stats.fresh.iter().any(|it| it.color == color);
        load.wait_until(Duration::from_secs(5), of_color)
            .context("the flip is not visible while the disk stalls")?;
        ensure!(load.finish().is_clean(), "requests");
    }
    // Nobody is told that a flip is done; in the end, that the disk does not answer.
    for command in waiting {
        let ended = node.end_of(command)?;
        let told: Value = serde_json::from_str(&ended.stdout)?;
        let code = ended.code;
        let message = told["error"]["message"].as_str().unwrap_or_default();
        ensure!(
            code == 1 && told["changed"] == true && message.contains("the disk does not answer"),
            "{told}"
        );
    }
    ensure!(node.service("web")?["active"] == "green", "what is so");
    let history = node.json(&["history", "web"])?.0;
    let entries = history["entries"].as_array().into_iter().flatten();
    let flips = entries.filter(|it| it["what"] == "flip").count();
    ensure!(flips == 3, "{history}");
    // What comes now is told at once.
    let (told, code) = node.json(&["flip", "web", "--to", "blue"])?;
    ensure!(code == 1 && told["changed"] == true, "{told}");
    ensure!(node.service("web")?["active"] == "blue", "what is so");
    // The disk comes back: the node is durable again without another change.
    let pipe = fs::File::open(temporary(&lab))?;
    fs::remove_file(temporary(&lab))?;
    drop(pipe);
    node.wait_until("the state being on disk", |_| {
        on_disk(&lab, "web").is_ok_and(|active| active == "blue")
    })?;
    let (told, code) = node.json(&["flip", "web", "--to", "blue"])?;
    ensure!(code == 0 && told["changed"] == false, "{told}");
    Ok(())
}

#[test]
fn a_start_that_cannot_write_its_state_leaves_a_pinned_data_path_as_it_was() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = Node::start(&lab, &[LabService::web(0)])?;
    node.stop_agent()?;
    fs::create_dir(temporary(&lab))?;
    let other = configuration(&lab, &[LabService::web(0), LabService::stream(1)])
        .replace("\"c1\", \"c2\", \"b\", \"g\"", "\"c1\", \"b\", \"g\"");
    Refused::start(&lab, &node)
        .with(&other)?
        .must_end(1, &["state file", "state_dir"])?;
    web_goes_to(&lab, Color::Blue)
}

#[test]
fn a_configuration_without_backends_of_the_active_color_is_refused() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let text = configuration(&lab, &[LabService::web(0)]);
    let mut node = Node::configured(&lab, &text)?;
    node.start_agent()?;
    node.flip(&["web"], Color::Green)?;
    node.stop_agent()?;
    let without_green: Vec<&str> = text.lines().filter(|it| !it.starts_with("green")).collect();
    Refused::start(&lab, &node)
        .with(&without_green.join("\n"))?
        .must_end(3, &["green is active in web", "backends of green"])?;
    web_goes_to(&lab, Color::Green)
}

#[test]
fn detach_refuses_while_flows_of_a_removed_service_are_in_flight() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let both = configuration(&lab, &[LabService::web(0), LabService::stream(1)]);
    let mut node = Node::configured(&lab, &both)?;
    node.start_agent()?;
    let target = LabService::stream(1).target(&lab, Family::V4);
    let load = Client::new(lab.client()).long_lived(target, LongLived::default());
    load.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    node.stop_agent()?;
    node.reconfigure(&configuration(&lab, &[LabService::web(0)]))?;
    node.start_agent()?;
    node.stop_agent()?;
    let (reply, code) = node.detach(&[])?;
    ensure!(code == 3, "{reply}");
    ensure!(
        reply["error"]["message"]
            .to_string()
            .contains("stream has 10"),
        "{reply}"
    );
    ensure!(load.finish().is_clean(), "flows of the removed service");
    Ok(())
}

#[test]
fn a_drain_is_bounded_by_a_day() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let far = [
        "flip",
        "web",
        "--to",
        "green",
        "--drain-timeout",
        "5000000000h",
    ];
    let (reply, code) = node.json(&far)?;
    ensure!(code == 2 && reply["changed"] == false, "{reply}");
    node.status().map(drop)
}
