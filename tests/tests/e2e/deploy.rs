//! `switcher deploy`: a whole release under load, and each way in which it fails.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Backends, Client, HttpNew},
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
    let names = ["look", "update", "ready", "smoke", "flip", "after", "drain"];
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
