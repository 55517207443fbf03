//! `switcher deploy`: a whole release under load, and each way in which it fails.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab, LabChild},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Backends, Client, HttpNew, Load},
};

use crate::mixed::LIMIT;

/// Runs a release of `service` on the node, with `options`, and `update` as a script of a shell.
fn release(
    node: &Node<'_>,
    service: &str,
    options: &[&str],
    update: &str,
    code: i32,
) -> Result<Value> {
    let output = node
        .command()
        .args(["--json", "--socket"])
        .arg(node.socket())
        .args(["deploy", service, "--ready-timeout", "500ms"])
        .args(["--hook-timeout", "20s"])
        .args(options)
        .args(["--", "sh", "-c", update])
        .output()?;
    let reply: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(
        output.status.code() == Some(code),
        "ended with {}, expected {code}: {reply}",
        output.status
    );
    Ok(reply)
}

fn deploy(node: &Node<'_>, options: &[&str], update: &str, code: i32) -> Result<Value> {
    release(node, "web", options, update, code)
}

fn steps(reply: &Value) -> Vec<(&str, bool)> {
    let steps = reply["steps"].as_array().into_iter().flatten();
    steps
        .filter_map(|step| Some((step["name"].as_str()?, step["ok"].as_bool()?)))
        .collect()
}

fn message(reply: &Value) -> &str {
    reply["error"]["message"].as_str().unwrap_or_default()
}

#[test]
fn a_release_updates_the_standby_tries_it_flips_and_drains() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let loads = Family::ALL.map(|family| {
        let target = LabService::web(0).target(&lab, family);
        Client::new(lab.client()).http_new(target, HttpNew::per_second(100))
    });
    for load in &loads {
        load.wait_until(LIMIT, |stats| stats.answered > 50)?;
    }
    let seen = lab.dir().join("seen");
    let update = format!(
        "echo $SWITCHER_SERVICE $SWITCHER_COLOR $SWITCHER_BACKENDS > {}",
        seen.display()
    );
    let reply = deploy(&node, &["--smoke", "true", "--after", "true"], &update, 0)?;
    ensure!(
        reply["changed"] == true && reply["active"]["web"] == "green" && reply["generation"] == 1,
        "{reply}"
    );
    let names = [
        "look", "update", "ready", "smoke", "flip", "after", "confirm", "drain",
    ];
    ensure!(steps(&reply) == names.map(|name| (name, true)), "{reply}");
    ensure!(reply["drain"]["ended"] == "drained", "{reply}");
    let seen = std::fs::read_to_string(seen)?;
    let words: Vec<&str> = seen.split_whitespace().collect();
    ensure!(words[..2] == ["web", "green"], "{seen}");
    let port = LabService::web(0).backend_port;
    for family in Family::ALL {
        for address in lab.backends(Color::Green, family) {
            let endpoint = std::net::SocketAddr::new(address, port).to_string();
            ensure!(words.contains(&endpoint.as_str()), "{endpoint} in {seen}");
        }
    }
    for load in loads {
        load.wait_until(LIMIT, |stats| stats.per_color.green > 50)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn a_step_that_fails_before_the_flip_leaves_the_old_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    for (options, update, last) in [
        (&[][..], "exit 3", "update"),
        (&["--smoke", "false"], "true", "smoke"),
        (&["--smoke", "/nonexistent"], "true", "smoke"),
        (&["--update-timeout", "100ms"], "sleep 600", "update"),
    ] {
        let reply = deploy(&node, options, update, 3)?;
        ensure!(
            reply["changed"] == false && reply["active"]["web"] == "blue",
            "{reply}"
        );
        ensure!(steps(&reply).last() == Some(&(last, false)), "{reply}");
        ensure!(message(&reply).starts_with(last), "{reply}");
    }
    ensure!(
        node.service("web")?["generation"] == 0,
        "nothing was flipped"
    );
    Ok(())
}

#[test]
fn a_color_that_does_not_listen_is_not_flipped_to() -> Result<()> {
    skip_unless_lab!(Ok(()));
    // Nobody serves.
    let lab = Lab::builder().build()?;
    let node = crate::start(&lab)?;
    let reply = deploy(&node, &[], "true", 3)?;
    ensure!(steps(&reply).last() == Some(&("ready", false)), "{reply}");
    let port = LabService::web(0).backend_port;
    for address in lab.backends(Color::Green, Family::V4) {
        ensure!(
            message(&reply).contains(&format!("{address}:{port}")),
            "{reply}"
        );
    }
    let _backends = Backends::start(&lab)?;
    deploy(&node, &[], "true", 0)?;
    Ok(())
}

#[test]
fn a_look_after_the_flip_that_fails_brings_the_old_color_back() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let reply = deploy(&node, &["--after", "false"], "true", 3)?;
    ensure!(
        reply["changed"] == false && reply["active"]["web"] == "blue" && reply["generation"] == 2,
        "{reply}"
    );
    ensure!(
        message(&reply).contains("the old color is active again"),
        "{reply}"
    );
    let newest = &node.service("web")?["newest_change"];
    ensure!(newest["by"] == "rollback", "{newest}");
    Ok(())
}

#[test]
fn a_standby_that_is_in_use_is_not_updated() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let mark = lab.dir().join("updated");
    let update = format!("touch {}", mark.display());
    node.json(&["split", "web", "--standby", "10"])?;
    let reply = deploy(&node, &[], &update, 3)?;
    ensure!(message(&reply).contains("10 %"), "{reply}");
    node.json(&["abort", "web", "--wait"])?;
    node.json(&[
        "flip",
        "web",
        "--to",
        "green",
        "--confirm-within",
        "1h",
        "--wait",
    ])?;
    let reply = deploy(&node, &[], &update, 3)?;
    ensure!(message(&reply).contains("confirmation"), "{reply}");
    ensure!(!mark.exists(), "its backends were updated all the same");
    release(&node, "nothing", &[], &update, 7)?;
    Ok(())
}

/// A command that says which color it was run for, and waits until it is told to end.
struct Held {
    begun: PathBuf,
    go: PathBuf,
}

impl Held {
    fn new(lab: &Lab) -> Result<Self> {
        let held = Self {
            begun: lab.dir().join("begun"),
            go: lab.dir().join("go"),
        };
        for pipe in [&held.begun, &held.go] {
            let made = Command::new("mkfifo").arg(pipe).status()?;
            ensure!(made.success(), "mkfifo ended with {made}");
        }
        Ok(held)
    }

    /// A script of a shell.
    fn script(&self) -> String {
        format!(
            "echo $SWITCHER_COLOR > {}; read word < {}; exit $word",
            self.begun.display(),
            self.go.display()
        )
    }

    /// Waits until it runs; the color.
    fn color(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.begun)?.trim().to_owned())
    }

    /// Ends it with an exit code.
    fn end(&self, code: u8) -> Result<()> {
        Ok(writeln!(
            OpenOptions::new().write(true).open(&self.go)?,
            "{code}"
        )?)
    }
}

fn start(node: &Node<'_>, options: &[&str], update: &str) -> Result<LabChild> {
    let mut arguments = vec!["deploy", "web"];
    arguments.extend(options);
    arguments.extend(["--", "sh", "-c", update]);
    node.start_cli(&arguments)
}

/// Waits until `load` has begun 50 connections from now on; all are answered by `color`.
fn only(load: &Load, color: Color) -> Result<()> {
    let since = Instant::now();
    let mut seen = Vec::new();
    load.wait_until(LIMIT, |stats| {
        let later = stats.fresh.iter().filter(|it| it.began > since);
        seen = later.map(|it| it.color).collect();
        seen.len() > 50
    })?;
    let others = seen.iter().filter(|it| **it != color).count();
    ensure!(
        others == 0,
        "{others} of {} were not for {}",
        seen.len(),
        color.name()
    );
    Ok(())
}

#[test]
fn a_rolling_release_updates_each_color_while_the_other_one_serves() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let target = LabService::web(0).target(&lab, Family::V6);
    let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(200));
    // Clients share by their addresses, and each color gets some of these two.
    node.json(&["split", "web", "--standby", "40"])?;
    let held = Held::new(&lab)?;
    let release = start(
        &node,
        &["--rolling", "--at-deadline", "keep"],
        &held.script(),
    )?;
    ensure!(held.color()? == "green", "the standby is first");
    only(&load, Color::Blue)?;
    held.end(0)?;
    ensure!(held.color()? == "blue", "then the other one");
    only(&load, Color::Green)?;
    held.end(0)?;
    let ended = node.end_of(release)?;
    let reply = ended.object()?;
    ensure!(ended.code == 0 && reply["changed"] == true, "{reply}");
    let names = [
        "look", "abort", "drain", "look", "update", "ready", "flip", "drain", "look", "update",
        "ready", "split",
    ];
    ensure!(steps(&reply) == names.map(|name| (name, true)), "{reply}");
    let service = node.service("web")?;
    ensure!(
        service["active"] == "green" && service["split_percent"] == 40,
        "the split that was there: {service}"
    );
    let stats = load.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    Ok(())
}

#[test]
fn a_rolling_release_that_fails_half_way_says_so_and_is_finished_by_a_repetition() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    // The share that was taken away is a change, and is named.
    node.json(&["split", "web", "--standby", "20"])?;
    let reply = deploy(&node, &["--rolling"], "false", 1)?;
    let next_step = reply["error"]["next_step"].as_str().unwrap_or_default();
    ensure!(next_step.contains("--split 20"), "{reply}");
    ensure!(node.service("web")?["split_percent"] == 0, "{reply}");
    let reply = deploy(&node, &["--rolling"], "test $SWITCHER_COLOR = blue", 3)?;
    ensure!(
        reply["changed"] == false && reply["active"]["web"] == "blue",
        "{reply}"
    );
    // The color has changed, so none of the codes that promise otherwise.
    let reply = deploy(&node, &["--rolling"], "test $SWITCHER_COLOR = green", 1)?;
    ensure!(
        reply["changed"] == true && message(&reply).contains("green is updated and active"),
        "{reply}"
    );
    let service = node.service("web")?;
    ensure!(
        service["active"] == "green" && service["split_percent"] == 0,
        "{service}"
    );
    let reply = deploy(&node, &["--rolling"], "true", 0)?;
    ensure!(reply["active"]["web"] == "blue", "{reply}");
    ensure!(
        node.service("web")?["split_percent"] == 50,
        "two live copies"
    );
    deploy(&node, &["--rolling", "--split", "0"], "true", 0)?;
    ensure!(node.service("web")?["split_percent"] == 0);
    Ok(())
}

#[test]
fn a_release_waits_for_its_confirmation_if_it_is_asked_to() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let wait = |within| ["--wait-confirmed", "--confirm-within", within];
    let reply = deploy(&node, &wait("300ms"), "true", 4)?;
    ensure!(
        reply["changed"] == false && reply["active"]["web"] == "blue",
        "{reply}"
    );
    node.json(&["drain", "web", "--wait"])?;
    let release = start(&node, &wait("1h"), "true")?;
    node.wait_until("a flip that waits", |status| {
        !service_in(status, "web")["confirm_until_at"].is_null()
    })?;
    let (confirmed, code) = node.json(&["confirm", "web"])?;
    ensure!(code == 0, "{confirmed}");
    let reply = node.end_of(release)?.object()?;
    ensure!(
        reply["changed"] == true && reply["active"]["web"] == "green" && reply["error"].is_null(),
        "{reply}"
    );
    Ok(())
}

/// What is to become of the node when the command is killed.
fn killed_during(node: &Node<'_>, options: &[&str], update: &str, held: &Held) -> Result<Value> {
    let mut release = start(node, options, update)?;
    held.color()?;
    release.kill()?;
    // What it had started lives on without it.
    held.end(0)?;
    node.service("web")
}

#[test]
fn a_release_whose_command_dies_leaves_the_old_color_or_an_unconfirmed_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let held = Held::new(&lab)?;
    let script = lab.dir().join("held.sh");
    std::fs::write(&script, held.script())?;
    let held_hook = format!("sh {}", script.display());
    for (options, update) in [
        (&[][..], held.script()),
        (&["--smoke", &held_hook], "true".to_owned()),
    ] {
        let service = killed_during(&node, options, &update, &held)?;
        ensure!(
            service["active"] == "blue" && service["generation"] == 0,
            "before the flip: {service}"
        );
    }
    let options = ["--after", &held_hook, "--hook-timeout", "1s"];
    let service = killed_during(&node, &options, "true", &held)?;
    ensure!(
        service["active"] == "green" && !service["confirm_until_at"].is_null(),
        "after the flip: {service}"
    );
    node.wait_until("the unconfirmed flip is taken back", |status| {
        service_in(status, "web")["active"] == "blue"
    })?;
    Ok(())
}

#[test]
fn a_standby_that_fails_its_checks_is_not_flipped_to() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let start = |check: &str| {
        let service = LabService {
            options: format!("[service.check]\ntimeout = \"1s\"\nkind = \"http\"\n{check}"),
            ..LabService::web(0)
        };
        Node::start(&lab, &[service])
    };
    let node = start("expect_status = 204")?;
    let reply = deploy(&node, &[], "true", 3)?;
    ensure!(steps(&reply).last() == Some(&("healthy", false)), "{reply}");
    ensure!(message(&reply).starts_with("healthy: "), "{reply}");
    ensure!(node.service("web")?["active"] == "blue", "{reply}");
    drop(node);
    let node = start("expect_status = 200")?;
    let reply = deploy(&node, &[], "true", 0)?;
    ensure!(steps(&reply).contains(&("healthy", true)), "{reply}");
    Ok(())
}
