//! Another configuration for the running agent: `switcher apply` and SIGHUP under load.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration, service_in},
    skip_unless_lab,
    traffic::{Client, ECHO_PORT, HttpNew, Load, LongLived},
};

use crate::{
    mixed::{LIMIT, Mixed},
    reconfigured::{
        ADDED_PORT, added_listener, answered_connections, backends, connections, last_backend,
        requests, shop,
    },
};

/// The usual services and `shop`.
fn with_shop(lab: &Lab) -> String {
    let mut services = crate::services();
    services.push(shop());
    configuration(lab, &services)
}

/// Applies `configuration`, which must end with `code`; the answer.
pub(crate) fn applied(
    node: &Node<'_>,
    configuration: &str,
    arguments: &[&str],
    code: i32,
) -> Result<Value> {
    let (reply, found) = node.apply(configuration, arguments)?;
    ensure!(
        found == code,
        "apply ended with {found}, expected {code}: {reply}\n{}",
        node.log()
    );
    Ok(reply)
}

fn applied_file(lab: &Lab) -> PathBuf {
    lab.dir().join("state/applied.toml")
}

/// Whether the agent has the service `shop`, and the data path too.
fn has_shop(lab: &Lab, node: &Node<'_>) -> Result<bool> {
    let told = !service_in(&node.status()?, "shop").is_null();
    for family in Family::ALL {
        let load = Client::new(lab.client2())
            .http_new(shop().target(lab, family), HttpNew::per_second(100));
        load.wait_until(LIMIT, |stats| stats.answered + stats.failed >= 10)?;
        let stats = load.finish();
        let served = stats.answered > 0;
        ensure!(
            served == told && served == (stats.failed == 0),
            "{family:?}: the status says {told}: {stats:?}"
        );
    }
    Ok(told)
}

pub(crate) fn goes_on(load: &Load) -> Result<()> {
    let before = load.snapshot().answered;
    load.wait_until(LIMIT, |stats| stats.answered > before + 100)
}

/// `name` and how it differs, of each part.
fn kinds(parts: &Value) -> Vec<(&str, &str)> {
    let parts = parts.as_array().into_iter().flatten();
    parts
        .map(|part| {
            let text = |key: &str| part[key].as_str().unwrap_or_default();
            (text("name"), text("change"))
        })
        .collect()
}

#[test]
fn what_is_added_takes_effect_at_once_and_nothing_breaks() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    node.flip(&["web"], Color::Green)?;
    let mixed = Mixed::start(&lab)?;
    let mut text = with_shop(&lab);
    let stream = text.find("[[service]]\nname = \"stream\"");
    text.insert_str(stream.context("no service stream")?, &added_listener(&lab));
    let dry_run = applied(&node, &text, &["--dry-run"], 0)?;
    ensure!(
        dry_run["changed"] == false && dry_run["would_change"] == true,
        "{dry_run}"
    );
    ensure!(!has_shop(&lab, &node)?, "a dry run changes nothing");
    let reply = applied(&node, &text, &["--if-generation", "1"], 0)?;
    ensure!(
        reply["changed"] == true && reply["generation"] == 1,
        "{reply}"
    );
    ensure!(reply["difference"] == dry_run["difference"], "{reply}");
    let services = &reply["difference"]["services"];
    ensure!(
        kinds(services) == [("web", "changed"), ("shop", "added")],
        "{services}"
    );
    ensure!(kinds(&services[0]["listeners"]) == [("added", "added")]);
    ensure!(
        reply["active"]
            == json!({"web": "green", "stream": "blue", "datagram": "blue", "shop": "blue"}),
        "{reply}"
    );
    let added = LabService {
        port: ADDED_PORT,
        ..LabService::web(0)
    };
    requests(&lab, &added, Family::V4, Color::Green)?;
    ensure!(has_shop(&lab, &node)?);
    mixed.goes_on()?;
    let again = applied(&node, &text, &[], 0)?;
    ensure!(
        again["changed"] == false && again["difference"]["services"] == json!([]),
        "{again}"
    );
    let (history, _) = node.json(&["history", "shop"])?;
    let entry = &history["entries"][0];
    ensure!(
        entry["what"] == "apply" && entry["services"] == json!(["web", "shop"]),
        "{history}"
    );
    // A service that was added is one like the others.
    node.flip(&["shop", "datagram"], Color::Green)?;
    requests(&lab, &shop(), Family::V6, Color::Green)?;
    mixed.goes_on()?;
    mixed.ends_clean()
}

#[test]
fn a_weight_decides_about_fresh_connections_alone() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let old = connections(&lab, Family::V4);
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    ensure!(backends(&old.snapshot()) == [0, 1], "connections on both");
    let text = configuration(&lab, &crate::services());
    let last = last_backend(&lab.blue_backends_v4(), ECHO_PORT);
    let heavy = text.replacen(&last, &last.replace(" }", ", weight = 1000 }"), 1);
    let reply = applied(&node, &heavy, &[], 0)?;
    let backend = &reply["difference"]["services"][0]["listeners"][0]["backends"][0];
    ensure!(
        backend["weight"] == 1_000
            && backend["weight_before"] == 1
            && backend["change"] == "changed",
        "{reply}"
    );
    let fresh = answered_connections(&lab)?;
    ensure!(backends(&fresh) == [1], "{fresh:?}");
    goes_on(&old)?;
    let stats = old.finish();
    ensure!(
        stats.is_clean() && backends(&stats) == [0, 1],
        "{:?}",
        stats.samples
    );
    Ok(())
}

#[test]
fn flows_of_removed_backends_and_services_run_on_and_nobody_inherits_them() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let lasting = Family::ALL.map(|family| connections(&lab, family));
    for load in &lasting {
        load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    }
    let whole = configuration(&lab, &crate::services());
    let removed = last_backend(&lab.blue_backends_v4(), ECHO_PORT);
    let less = whole.replacen(&removed, "", 1);
    applied(&node, &less, &[], 0)?;
    let seen = answered_connections(&lab)?;
    ensure!(backends(&seen) == [0], "the removed backend: {seen:?}");

    let (web, datagram) = (LabService::web(0), LabService::datagram(2));
    let without = configuration(&lab, &[web.clone(), datagram.clone()]);
    let reply = applied(&node, &without, &[], 0)?;
    let services = &reply["difference"]["services"];
    ensure!(kinds(services) == [("stream", "removed")], "{reply}");
    ensure!(reply["active"]["stream"].is_null(), "{reply}");
    let refused = connections(&lab, Family::V6);
    refused
        .wait_until(LIMIT, |stats| stats.broken == 30)
        .context("fresh connections to the removed service")?;
    drop(refused);
    let (unknown, code) = node.json(&["flip", "stream", "--to", "green"])?;
    ensure!(code == 7, "{unknown}");

    // Services, listeners and backends that come get none of those flows.
    applied(
        &node,
        &configuration(&lab, &[web, datagram, shop()]),
        &[],
        0,
    )?;
    requests(&lab, &shop(), Family::V4, Color::Blue)?;
    node.wait_until("only its own flows", |status| {
        service_in(status, "shop")["in_flight"] == json!({"blue": 0, "green": 0})
    })?;
    for load in &lasting {
        goes_on(load)?;
    }

    let reply = applied(&node, &whole, &[], 0)?;
    ensure!(reply["active"]["stream"] == "blue", "{reply}");
    answered_connections(&lab)?;
    for load in lasting {
        goes_on(&load)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "existing flows: {:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn what_is_refused_changes_nothing_and_is_told_with_its_reason() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    node.flip(&["web"], Color::Green)?;
    let text = with_shop(&lab);
    let without_green = |text: &str| {
        let web = text.find("name = \"web\"").unwrap_or_default();
        let at = web + text[web..].find("green = ").unwrap_or_default();
        let end = at + text[at..].find('\n').unwrap_or_default();
        format!("{}{}", &text[..at], &text[end..])
    };
    let cases: [(String, &[&str], i32, &[&str]); 8] = [
        (
            text.replacen("port = 80\n", "port = 0\n", 1),
            &[],
            2,
            &["another.toml", "line ", "port is 0"],
        ),
        (
            text.replacen("[agent]", "[agent", 1),
            &[],
            2,
            &["line 1", "another.toml"],
        ),
        (
            text.clone(),
            &["--if-generation", "7"],
            4,
            &["generation 1"],
        ),
        (
            text.replacen("\"c1\", ", "", 1),
            &[],
            3,
            &["interfaces", "c1", "restart the agent"],
        ),
        (
            text.replacen("mode = \"native\"", "mode = \"auto\"", 1),
            &[],
            3,
            &["mode", "switcher detach"],
        ),
        (
            text.replacen("/state\"", "/other\"", 1),
            &[],
            3,
            &["state_dir"],
        ),
        (
            text.replacen("flows = 65536", "flows = 65537", 1),
            &[],
            3,
            &[
                "limits.flows is 65536, the file has 65537",
                "switcher detach",
            ],
        ),
        (without_green(&text), &[], 3, &["web", "green backend"]),
    ];
    let before = node.status()?["services"].clone();
    for (text, arguments, code, words) in cases {
        let reply = applied(&node, &text, arguments, code)?;
        ensure!(
            reply["changed"] == false && reply["generation"] == 1,
            "{reply}"
        );
        let said = format!(
            "{} {}",
            reply["error"]["message"], reply["error"]["next_step"]
        );
        for word in words {
            ensure!(said.contains(word), "no {word:?} in {said}");
        }
    }
    ensure!(!has_shop(&lab, &node)?);
    let after = node.status()?["services"].clone();
    for at in 0..3 {
        ensure!(before[at]["listeners"] == after[at]["listeners"], "{after}");
    }
    ensure!(!applied_file(&lab).exists(), "on disk");
    Ok(())
}

#[test]
fn an_applied_configuration_outlives_the_agent_until_its_own_file_changes() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let load = connections(&lab, Family::V4);
    load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    applied(&node, &with_shop(&lab), &[], 0)?;
    node.flip(&["shop"], Color::Green)?;
    for stop in [Node::kill_agent, Node::stop_agent] {
        stop(&mut node)?;
        node.start_agent()?;
        ensure!(has_shop(&lab, &node)?, "after a restart");
        ensure!(node.service("shop")?["active"] == "green");
    }
    node.stop_agent()?;
    let own = configuration(&lab, &crate::services());
    node.reconfigure(&format!("{own}\n# changed\n"))?;
    node.start_agent()?;
    ensure!(!has_shop(&lab, &node)?, "the changed file holds");
    ensure!(
        node.log().contains("what was applied is forgotten"),
        "{}",
        node.log()
    );
    node.stop_agent()?;
    node.reconfigure(&own)?;
    node.start_agent()?;
    ensure!(
        !has_shop(&lab, &node)?,
        "what is forgotten does not come back"
    );
    goes_on(&load)?;
    ensure!(load.finish().is_clean(), "connections");
    Ok(())
}

#[test]
fn sighup_takes_the_agents_own_file_and_forgets_what_was_applied() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let load = connections(&lab, Family::V6);
    load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    node.reconfigure(&with_shop(&lab))?;
    node.hang_up_agent()?;
    node.wait_until("the own file is applied", |status| {
        !service_in(status, "shop").is_null()
    })?;
    ensure!(has_shop(&lab, &node)?);
    let own = configuration(&lab, &crate::services());
    applied(&node, &own, &[], 0)?;
    ensure!(!has_shop(&lab, &node)? && applied_file(&lab).exists());
    node.hang_up_agent()?;
    node.wait_until("the own file is applied again", |status| {
        !service_in(status, "shop").is_null()
    })?;
    ensure!(has_shop(&lab, &node)? && !applied_file(&lab).exists());
    node.reconfigure(&own.replacen("port = 80\n", "port = 0\n", 1))?;
    node.hang_up_agent()?;
    node.wait_until("a bad file is told", |_| node.log().contains("port is 0"))?;
    ensure!(has_shop(&lab, &node)?, "a bad file changes nothing");
    goes_on(&load)?;
    ensure!(load.finish().is_clean(), "connections");
    node.stop_agent()
}

#[test]
fn applies_at_once_end_in_one_of_them_and_break_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let lasting = Family::ALL.map(|family| connections(&lab, family));
    for load in &lasting {
        load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    }
    let removed = last_backend(&lab.blue_backends_v4(), ECHO_PORT);
    let some = configuration(&lab, &crate::services()).replacen(&removed, "", 1);
    let others = configuration(&lab, &[LabService::stream(1), shop()]);
    let some = node.another_file("some.toml", &some)?;
    let others = node.another_file("others.toml", &others)?;
    for _ in 0..5 {
        let mut running = Vec::new();
        for file in [&some, &others, &some, &others] {
            running.push(node.start_cli(&["apply", file])?);
        }
        for command in running {
            let ended = node.end_of(command)?;
            ensure!(ended.code == 0, "{ended:?}");
        }
        let told = node.status()?;
        let services = told["services"].as_array().map(Vec::len);
        ensure!(services == Some(3) || services == Some(2), "{told}");
    }
    let is_others = has_shop(&lab, &node)?;
    node.kill_agent()?;
    node.start_agent()?;
    ensure!(
        has_shop(&lab, &node)? == is_others,
        "on disk as in the kernel"
    );
    for load in lasting {
        goes_on(&load)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "existing flows: {:?}", stats.samples);
    }
    Ok(())
}

/// Makes writing `name` of the state directory wait until it is removed: opening a FIFO waits for a reader.
fn stall(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab.dir().join("state").join(name);
    let made = Command::new("mkfifo").arg(&path).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    Ok(path)
}

#[test]
fn g5_an_agent_that_dies_in_an_apply_has_the_configuration_before_or_the_one_after() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let load = connections(&lab, Family::V4);
    load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    node.flip(&["datagram"], Color::Green)?;
    let text = configuration(&lab, &[LabService::web(0), LabService::stream(1), shop()]);
    let file = node.another_file("another.toml", &text)?;
    for (stalled, is_after) in [("applied.toml.new", false), ("state.json.new", true)] {
        let fifo = stall(&lab, stalled)?;
        let mut command = node.start_cli(&["apply", &file])?;
        let target = shop().target(&lab, Family::V4);
        let fresh = Client::new(lab.client2()).http_new(target, HttpNew::per_second(100));
        fresh
            .wait_until(LIMIT, |stats| stats.answered > 0)
            .context("the data path has it, whatever the disk does")?;
        drop(fresh);
        if is_after {
            node.wait_until("it is on disk", |_| applied_file(&lab).exists())?;
        }
        let status = node.status()?;
        ensure!(
            service_in(&status, "shop").is_null(),
            "not durable: {status}"
        );
        ensure!(
            command.wait(Duration::ZERO)?.is_none(),
            "an answer before the disk's"
        );
        node.kill_agent()?;
        fs::remove_file(fifo)?;
        node.start_agent()?;
        ensure!(has_shop(&lab, &node)? == is_after, "{stalled}");
        let status = node.status()?;
        let datagram = service_in(&status, "datagram");
        ensure!(datagram.is_null() == is_after, "{status}");
        ensure!(is_after || datagram["active"] == "green", "{datagram}");
        goes_on(&load)?;
    }
    ensure!(load.finish().is_clean(), "connections");
    Ok(())
}

#[test]
fn g5_an_apply_that_the_disk_refused_is_told_until_it_is_durable() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let obstacle = lab.dir().join("state/applied.toml.new");
    fs::create_dir(&obstacle)?;
    let text = with_shop(&lab);
    for changed in [true, false] {
        let reply = applied(&node, &text, &[], 1)?;
        ensure!(reply["changed"] == changed, "{reply}");
        let message = reply["error"]["message"].to_string();
        ensure!(message.contains("the agent's restart"), "{reply}");
    }
    fs::remove_dir(&obstacle)?;
    let durable = applied(&node, &text, &[], 0)?;
    ensure!(durable["changed"] == false, "{durable}");
    node.kill_agent()?;
    node.start_agent()?;
    ensure!(has_shop(&lab, &node)?);
    Ok(())
}

#[test]
fn drains_pauses_splits_and_drained_backends_outlive_an_apply() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let stream = LabService::stream(1).target(&lab, Family::V4);
    let old = Client::new(lab.client()).long_lived(stream, LongLived::default());
    old.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let succeed = |arguments: &[&str]| -> Result<()> {
        let (reply, code) = node.json(arguments)?;
        ensure!(code == 0, "{reply}");
        Ok(())
    };
    let port = LabService::datagram(2).backend_port;
    let drained = format!("{}:{port}", lab.backends(Color::Blue, Family::V4)[0]);
    succeed(&["flip", "stream", "--to", "green", "--drain-timeout", "1h"])?;
    succeed(&["backend", "drain", "datagram", "blue", &drained])?;
    succeed(&["split", "datagram", "--standby", "30"])?;
    succeed(&["pause", "web", "--max", "30s"])?;
    let before = node.status()?;
    let mut text = with_shop(&lab).replace("drain_udp_idle = \"1s\"", "drain_timeout = \"1s\"");
    let stream = text.find("[[service]]\nname = \"stream\"");
    text.insert_str(stream.context("no service stream")?, &added_listener(&lab));
    applied(&node, &text, &[], 0)?;
    let after = node.status()?;
    for name in ["web", "stream", "datagram"] {
        let (before, after) = (service_in(&before, name), service_in(&after, name));
        for key in ["active", "base", "generation", "split_percent", "pauses"] {
            ensure!(before[key] == after[key], "{name}: {key}: {after}");
        }
        for key in ["deadline_at", "ended", "color"] {
            ensure!(
                before["drain"][key] == after["drain"][key],
                "{name}: {key}: {after}"
            );
        }
    }
    let is_drained = |status: &Value| {
        service_in(status, "datagram")["listeners"][0]["backends"]["blue"][0]["drained"] == true
    };
    ensure!(is_drained(&after), "{after}");
    // A listener that is added to a paused service is paused.
    let added = LabService {
        port: ADDED_PORT,
        ..LabService::web(0)
    };
    let held = node.packets("paused")?;
    let fresh = Client::new(lab.client2())
        .http_new(added.target(&lab, Family::V4), HttpNew::per_second(20));
    node.wait_until("SYNs are held", |_| {
        node.packets("paused").is_ok_and(|now| now > held + 5)
    })?;
    ensure!(fresh.snapshot().answered == 0, "during the pause");
    drop(fresh);
    succeed(&["resume", "web"])?;
    goes_on(&old)?;
    ensure!(old.finish().is_clean());
    // One that is configured no more is forgotten.
    let (first, all) = (
        format!(
            "{{ address = \"{}\", port = {port} }}, ",
            lab.backends(Color::Blue, Family::V4)[0]
        ),
        text,
    );
    let datagram = all
        .find("name = \"datagram\"")
        .context("no service datagram")?;
    let less = all[..datagram].to_owned() + &all[datagram..].replacen(&first, "", 1);
    ensure!(less != all, "nothing to remove");
    applied(&node, &less, &[], 0)?;
    applied(&node, &all, &[], 0)?;
    ensure!(!is_drained(&node.status()?), "it was forgotten");
    Ok(())
}
