//! A service under another name: its listeners, and what is connected to them, stay where they are (G2).

use anyhow::{Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::Conversation,
};

use crate::{applied::applied, mixed::LIMIT, verbs::ends};

fn renamed(lab: &Lab, initial_active: &str) -> String {
    let service = LabService {
        name: "renamed",
        options: format!("initial_active = \"{initial_active}\""),
        ..LabService::stream(1)
    };
    configuration(lab, &[service])
}

#[test]
fn g2_a_renamed_service_keeps_its_color_and_its_connections() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = Node::start(&lab, &[LabService::stream(1)])?;
    ends(&node, &["flip", "stream", "--to", "green"], 0)?;
    let target = LabService::stream(1).target(&lab, Family::V4);
    let connect = |port| Conversation::open(lab.client(), port, target, LIMIT);
    let ports = lab.client().ports().clone();
    let mut old = connect(ports.next())?;
    ensure!(old.ask()?.color == Color::Green);

    let refused = applied(&node, &renamed(&lab, "blue"), &[], 3)?;
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    ensure!(
        refused["changed"] == false && message.contains("where green is active"),
        "{refused}"
    );
    ensure!(node.service("stream")?["active"] == "green");

    applied(&node, &renamed(&lab, "green"), &[], 0)?;
    let mut new = connect(ports.next())?;
    ensure!(new.ask()?.color == Color::Green);
    old.ask()?;
    // Its flows alone are cut by its drains: the others are those of the service before.
    let cut = [
        "flip",
        "renamed",
        "--to",
        "blue",
        "--drain-timeout",
        "0s",
        "--at-deadline",
        "reset",
        "--wait",
    ];
    ends(&node, &cut, 0)?;
    ensure!(new.ask().is_err(), "it is cut");
    old.ask()?;
    ensure!(connect(ports.next())?.ask()?.color == Color::Blue);
    old.close()
}
