//! `flip --pause --pre-flip COMMAND`: nothing begins while COMMAND runs, and what waited meets the new color.

use std::{fs::OpenOptions, io::Write as _, process::Command};

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Client, LongLived},
};

use crate::{
    mixed::LIMIT,
    verbs::{begin, dropped, ends},
};

const FLIP: [&str; 5] = ["flip", "stream", "--to", "green", "--pause"];

/// A command that runs until [`let_go`], or until it is ended.
fn held_command(lab: &Lab) -> Result<String> {
    let pipe = lab.dir().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo ended with {made}");
    Ok(format!(
        "sh -c 'read word < {}; test \"$word $SWITCHER_SERVICE $SWITCHER_COLOR\" = \"go stream green\"'",
        pipe.display()
    ))
}

/// Ends [`held_command`] well.
fn let_go(lab: &Lab) -> Result<()> {
    let mut pipe = OpenOptions::new()
        .write(true)
        .open(lab.dir().join("pipe"))?;
    Ok(writeln!(pipe, "go")?)
}

fn is_paused(status: &Value) -> bool {
    let pauses = &service_in(status, "stream")["pauses"];
    pauses.as_array().is_some_and(|pauses| !pauses.is_empty())
}

fn is_as_before(node: &Node<'_>) -> Result<()> {
    let service = node.service("stream")?;
    let resumed = service["pauses"].as_array().is_some_and(Vec::is_empty);
    ensure!(resumed && service["active"] == "blue", "{service}");
    Ok(())
}

#[test]
fn what_begins_during_a_pre_flip_command_waits_and_meets_the_new_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let target = LabService::stream(1).target(&lab, Family::V4);
    let old = Client::new(lab.client2()).long_lived(target, LongLived::default());
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let command = held_command(&lab)?;
    let options = ["--pre-flip", &command, "--pause-max", "30s"];
    let flip = node.start_cli(&[&FLIP[..], &options].concat())?;
    node.wait_until("the pause before the flip", is_paused)?;
    let waiting = begin(&lab, target);
    node.wait_until("a SYN is held", |status| dropped(status, "paused") > 0)?;
    ensure!(
        node.service("stream")?["active"] == "blue" && !waiting.is_finished(),
        "the command has not ended"
    );
    let_go(&lab)?;
    let ended = node.end_of(flip)?;
    let reply = ended.object()?;
    ensure!(
        reply["changed"] == true
            && reply["active"]["stream"] == "green"
            && reply["error"].is_null(),
        "{reply}"
    );
    // Pause, flip, resume.
    ensure!(
        reply["generation"] == 3 && reply["held_ms"].as_u64() > Some(0),
        "{reply}"
    );
    ensure!(waiting.join().expect("no panic")? == Color::Green);
    ensure!(old.finish().is_clean(), "connections that were there go on");
    ensure!(!is_paused(&node.status()?));
    // Repeated, it is so already: nobody waits, nothing runs.
    let again = ends(&node, &[&FLIP[..], &["--pre-flip", "false"]].concat(), 0)?;
    ensure!(
        again["changed"] == false && again["generation"] == 3,
        "{again}"
    );
    Ok(())
}

#[test]
fn a_pre_flip_command_that_fails_leaves_the_old_color_and_resumes() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let held = held_command(&lab)?;
    for (command, why) in [
        ("false", "exit code 1"),
        ("/nonexistent", "cannot be started"),
        (held.as_str(), "was killed"),
    ] {
        let options = ["--pre-flip", command, "--pause-max", "300ms"];
        let reply = ends(&node, &[&FLIP[..], &options].concat(), 3)?;
        let message = reply["error"]["message"].as_str().unwrap_or_default();
        ensure!(
            reply["changed"] == false && message.contains("pre-flip") && message.contains(why),
            "{reply}"
        );
        is_as_before(&node)?;
    }
    Ok(())
}

#[test]
fn a_pause_that_has_ended_keeps_the_flip_from_happening() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let command = held_command(&lab)?;
    let options = ["--pre-flip", &command, "--pause-max", "30s"];
    let flip = node.start_cli(&[&FLIP[..], &options].concat())?;
    node.wait_until("the pause before the flip", is_paused)?;
    // Somebody else lets fresh connections through before the command has ended.
    ends(&node, &["resume", "stream"], 0)?;
    let_go(&lab)?;
    let ended = node.end_of(flip)?;
    ensure!(ended.code == 4, "{ended:?}");
    is_as_before(&node)?;
    // A pause that is another's is left alone.
    ends(&node, &["pause", "stream", "--max", "30s"], 0)?;
    ends(&node, &[&FLIP[..], &["--pre-flip", "true"]].concat(), 3)?;
    ensure!(is_paused(&node.status()?), "it was another's pause");
    Ok(())
}

#[test]
fn a_pre_flip_that_is_asked_for_wrongly_runs_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let mark = lab.dir().join("ran");
    let command = format!("touch {}", mark.display());
    for (arguments, code) in [
        (&["--pause"][..], 2),
        (&["--pre-flip", &command], 2),
        (&["--pause", "--pre-flip", ""], 2),
        (
            &["--pause", "--pre-flip", &command, "--pause-max", "31s"],
            2,
        ),
        (
            &[
                "--pause",
                "--pre-flip",
                &command,
                "--expect-active",
                "green",
            ],
            4,
        ),
        (&["--pause", "--pre-flip", &command, "--dry-run"], 0),
    ] {
        // Of the two colors, the conditions are about the one that is active.
        let to = ["flip", "stream", "--to", "green"];
        ends(&node, &[&to[..], arguments].concat(), code)?;
        ensure!(!mark.exists(), "{arguments:?} ran the command");
        is_as_before(&node)?;
    }
    ensure!(
        node.service("stream")?["generation"] == 0,
        "nothing was paused"
    );
    Ok(())
}
