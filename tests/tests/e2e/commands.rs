//! The command line against the real agent: conditions, refusals, exit codes.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_tests::{
    lab::Lab,
    node::{LabService, Node, configuration},
    skip_unless_lab,
};

/// Runs the CLI, which must end with `code`; its object.
fn ends(node: &Node<'_>, arguments: &[&str], code: i32) -> Result<Value> {
    let (object, found) = node.json(arguments)?;
    ensure!(
        found == code,
        "`switcher {}` ended with {found}, expected {code}: {object}",
        arguments.join(" ")
    );
    let error = &object["error"];
    ensure!(
        error.is_null() == (code == 0),
        "the error of code {code}: {object}"
    );
    if code != 0 {
        let next_step = error["next_step"].as_str().unwrap_or_default();
        ensure!(!next_step.is_empty(), "no next step: {object}");
    }
    Ok(object)
}

/// What a refused or idle request must leave as it was. Without the base color, which changes by
/// itself when a drain ends.
fn switch_state(node: &Node<'_>) -> Result<Value> {
    let status = node.status()?;
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let each = services.iter().map(|it| {
        json!([
            it["name"],
            it["active"],
            it["generation"],
            it["drain"]["generation"]
        ])
    });
    Ok(json!([status["generation"], each.collect::<Vec<_>>()]))
}

#[test]
fn without_an_agent_each_verb_ends_with_6_and_versions_are_still_told() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut node = Node::configured(&lab, &configuration(&lab, &[LabService::web(0)]))?;
    let socket = node.socket().display().to_string();
    for verb in [
        &["status"][..],
        &["flip", "web", "--to", "green"],
        &["drain", "web"],
        &["drain", "web", "--wait", "--timeout", "1s"],
    ] {
        let message = ends(&node, verb, 6)?["error"]["message"].to_string();
        ensure!(message.contains(&socket), "{verb:?}: {message}");
    }
    let alone = ends(&node, &["--version"], 0)?;
    ensure!(
        alone["cli"].is_string() && alone["agent"].is_null(),
        "{alone}"
    );
    let text = String::from_utf8(node.cli(&["--version"])?.stdout)?;
    ensure!(text.contains("agent: not running"), "{text}");
    node.start_agent()?;
    let both = ends(&node, &["--version"], 0)?;
    ensure!(both["cli"] == both["agent"]["agent"], "{both}");
    ensure!(both["layout"] == both["agent"]["layout"], "{both}");
    let text = String::from_utf8(node.cli(&["--version"])?.stdout)?;
    let version = both["cli"].as_str().unwrap_or_default();
    ensure!(text.matches(version).count() == 2, "{text}");
    node.stop_agent()
}

#[test]
fn a_request_that_is_refused_changes_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let services = [LabService::web(0), LabService::stream(1)];
    // Green of `stream` has no backend.
    let text = configuration(&lab, &services);
    let (web, stream) = text.split_at(text.find("name = \"stream\"").unwrap_or(text.len()));
    let blue_only: Vec<&str> = stream
        .lines()
        .filter(|it| !it.starts_with("green"))
        .collect();
    let mut node = Node::configured(&lab, &format!("{web}{}\n", blue_only.join("\n")))?;
    node.start_agent()?;
    let before = switch_state(&node)?;
    let rows: [(&[&str], i32, &str); 10] = [
        (&["flip", "web"], 2, "--to"),
        (&["flip", "web", "--to", "red"], 2, "red"),
        (&["flip"], 2, "SERVICE"),
        (&["flip", "stream", "--to", "green"], 3, "stream"),
        (&["flip", "web", "stream", "--to", "green"], 3, "stream"),
        (
            &["flip", "web", "--to", "green", "--expect-active", "green"],
            4,
            "blue is active",
        ),
        (
            &["flip", "web", "--expect-active", "green"],
            4,
            "blue is active",
        ),
        (
            &["flip", "web", "--to", "green", "--if-generation", "7"],
            4,
            "generation 0",
        ),
        (&["flip", "nosuch", "--to", "green"], 7, "nosuch"),
        (&["flip", "web", "nosuch", "--to", "green"], 7, "nosuch"),
    ];
    for (arguments, code, word) in rows {
        let object = ends(&node, arguments, code)?;
        ensure!(object["changed"] == false, "{arguments:?}: {object}");
        let message = object["error"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains(word), "no {word:?} in {object}");
        let after = switch_state(&node)?;
        ensure!(after == before, "{arguments:?}: {after}, not {before}");
    }
    for arguments in [&["drain", "nosuch"][..], &["drain", "nosuch", "--wait"]] {
        let object = ends(&node, arguments, 7)?;
        ensure!(
            object["error"]["message"].to_string().contains("nosuch"),
            "{object}"
        );
    }
    node.stop_agent()
}

#[test]
fn a_flip_is_compare_and_swap_and_a_repeated_one_is_already_so() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = Node::start(&lab, &[LabService::web(0), LabService::stream(1)])?;
    let before = switch_state(&node)?;
    let dry = ends(&node, &["flip", "web", "--to", "green", "--dry-run"], 0)?;
    ensure!(
        dry["changed"] == false && dry["would_change"] == true,
        "{dry}"
    );
    ensure!(switch_state(&node)? == before, "a dry run changed {before}");
    let flip = ["flip", "web", "--to", "green", "--expect-active", "blue"];
    let flipped = ends(&node, &flip, 0)?;
    ensure!(
        flipped["changed"] == true && flipped["generation"] == 1,
        "{flipped}"
    );
    ensure!(flipped["active"] == json!({"web": "green"}), "{flipped}");
    ensure!(
        flipped["visible_us"].is_u64() && flipped["barrier_us"].is_u64(),
        "{flipped}"
    );
    let after = switch_state(&node)?;
    // The same request again, and the same wish without its condition.
    for arguments in [&flip[..], &flip[..4]] {
        let again = ends(&node, arguments, 0)?;
        ensure!(
            again["changed"] == false && again["generation"] == 1,
            "{again}"
        );
        ensure!(again["active"] == json!({"web": "green"}), "{again}");
    }
    let dry = ends(&node, &["flip", "web", "--to", "green", "--dry-run"], 0)?;
    ensure!(
        dry["changed"] == false && dry["would_change"] == false,
        "{dry}"
    );
    ensure!(
        switch_state(&node)? == after,
        "a repeated flip changed {after}"
    );
    // Each service compares with the generation of its own newest change.
    let stream = ["flip", "stream", "--if-generation"];
    ends(&node, &[&stream[..], &["1"]].concat(), 4)?;
    let second = ends(&node, &[&stream[..], &["0"]].concat(), 0)?;
    ensure!(
        second["changed"] == true && second["generation"] == 2,
        "{second}"
    );
    ends(&node, &[&stream[..], &["0"]].concat(), 4)?;
    let dry = ends(
        &node,
        &["flip", "web", "--if-generation", "0", "--dry-run"],
        4,
    )?;
    ensure!(dry["changed"] == false, "{dry}");
    let group = [
        "flip",
        "web",
        "stream",
        "--to",
        "blue",
        "--reason",
        "both back",
    ];
    let both = ends(&node, &group, 0)?;
    ensure!(
        both["active"] == json!({"stream": "blue", "web": "blue"}),
        "{both}"
    );
    ensure!(
        both["generation"] == 3,
        "one flip is one generation: {both}"
    );
    for name in ["web", "stream"] {
        ensure!(node.service(name)?["generation"] == 3, "{name}");
        ensure!(
            node.service(name)?["active"] == Color::Blue.name(),
            "{name}"
        );
    }
    ensure!(node.log().contains("both back"), "{}", node.log());
    Ok(())
}
