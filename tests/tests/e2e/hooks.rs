//! Hooks of the running agent: real commands, for what really happens.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::Lab,
    node::{LabService, Node, configuration, service_in},
    skip_unless_lab,
    traffic::Identity,
};

use crate::{mixed::LIMIT, verbs::ends};

const FIRST: Identity = Identity {
    color: Color::Blue,
    backend: 0,
};

/// The configuration of a service whose backends are checked, with `hooks`.
fn with_hooks(lab: &Lab, hooks: &str) -> String {
    let web = LabService {
        options: "[service.check]\ntimeout = \"10s\"".to_owned(),
        ..LabService::web(0)
    };
    format!("{}{hooks}", configuration(lab, &[web]))
}

/// A hook that runs a script of the lab's directory.
fn hook(lab: &Lab, name: &str, on: &str, script: &str) -> Result<String> {
    let file = lab.dir().join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).context("cannot write a script")?;
    fs::set_permissions(&file, Permissions::from_mode(0o755)).context("cannot make it one")?;
    let file = file.display();
    Ok(format!(
        "[[agent.hook]]\non = [{on}]\ncommand = [\"{file}\", \"{}\"]\ntimeout = \"500ms\"\n",
        lab.dir().display()
    ))
}

/// Waits until `found` finds something.
fn wait_for<T>(what: &str, node: &Node<'_>, mut found: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(found) = found() {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("{what}: not within {LIMIT:?}; the log:\n{}", node.log())
}

/// The whole lines of a file that hooks write, as objects.
fn objects(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or(Value::Null))
        .collect()
}

fn wait_for_health(node: &Node<'_>, expected: &str) -> Result<()> {
    let what = format!("a backend being {expected}");
    node.wait_until(&what, |status| {
        let listeners = service_in(status, "web")["listeners"].as_array();
        let mut listeners = listeners.into_iter().flatten();
        listeners.all(|it| it["backends"]["blue"][0]["health"] == expected)
    })?;
    Ok(())
}

/// Each line one object: what `cat` gets, and a line break.
const WRITE: &str = "{ cat; echo; } > \"$1/entry.$SWITCHER_ENTRY\"; cat \"$1/entry.$SWITCHER_ENTRY\" >> \"$1/told\"";

#[test]
fn hooks_are_told_what_the_history_tells_once_and_one_that_hangs_holds_up_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let hooks = [
        hook(&lab, "hang", "\"ejection\"", "echo hangs >&2; sleep 1000")?,
        hook(&lab, "write", "\"ejection\", \"recovery\"", WRITE)?,
    ];
    let mut node = Node::configured(&lab, &with_hooks(&lab, &hooks.concat()))?;
    node.start_agent()?;
    wait_for_health(&node, "healthy")?;
    backends.stop(FIRST);
    let told = lab.dir().join("told");
    // One for each family's endpoint.
    let is_told = |count: usize| {
        let objects = objects(&told);
        (objects.len() >= count).then_some(objects)
    };
    wait_for("two ejections", &node, || is_told(2))?;
    let killed = || {
        let log = node.log();
        (log.matches("a hook took too long").count() == 2).then_some(log)
    };
    let log = wait_for("the end of the one that hangs", &node, killed)?;
    ensure!(log.contains("last_line=\"hangs\""), "{log}");
    ends(&node, &["flip", "web", "--to", "green"], 0)?;
    backends.restart(&lab, FIRST)?;
    let all = wait_for("two recoveries", &node, || is_told(4))?;
    let history = node.json(&["history", "web"])?.0;
    let entries = history["entries"].as_array().context("entries")?;
    for object in &all {
        ensure!(entries.contains(object), "{object} is not in {history}");
    }
    let healthy = |expected: bool| {
        let is_meant = |it: &&Value| it["health"]["is_healthy"] == expected;
        all.iter().filter(is_meant).count()
    };
    ensure!((healthy(false), healthy(true)) == (2, 2), "{all:?}");
    node.kill_agent()?;
    node.start_agent()?;
    ends(&node, &["flip", "web", "--to", "blue"], 0)?;
    ensure!(objects(&told).len() == 4, "nothing is told twice");
    node.stop_agent()?;
    ensure!(objects(&told).len() == 4, "nothing is told twice");
    Ok(())
}

/// A file of the lab's directory that exists once a hook has run.
fn mark(lab: &Lab, name: &str) -> PathBuf {
    lab.dir().join(name)
}

#[test]
fn only_who_may_write_the_agents_own_file_says_what_is_run() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, mut backends) = crate::lab()?;
    let on = "\"ejection\"";
    let own = with_hooks(&lab, &hook(&lab, "own", on, "echo > \"$1/own.ran\"")?);
    let foreign = with_hooks(
        &lab,
        &hook(&lab, "foreign", on, "echo > \"$1/foreign.ran\"")?,
    );
    let without = with_hooks(&lab, "");
    let mut node = Node::configured(&lab, &own)?;
    let config = node.config().to_owned();
    let mode = |mode| fs::set_permissions(&config, Permissions::from_mode(mode));
    for bad in [0o666, 0o664] {
        mode(bad)?;
        for arguments in [&["--check"][..], &[]] {
            let refused = node.agent_that_ends(&config, arguments, None)?;
            ensure!(
                refused.code == 2 && refused.stderr.contains(&format!("its mode is {bad:04o}")),
                "{arguments:?}: {refused:?}"
            );
        }
    }
    mode(0o644)?;
    node.start_agent()?;
    wait_for_health(&node, "healthy")?;
    for text in [&foreign, &without] {
        let (refused, code) = node.apply(text, &[])?;
        let message = refused["error"]["message"].as_str().unwrap_or_default();
        ensure!(code == 3 && message.contains("hook is"), "{refused}");
    }
    // SIGHUP reads the agent's own file: refused while others can write it.
    node.reconfigure(&foreign)?;
    mode(0o666)?;
    node.hang_up_agent()?;
    wait_for("the refusal", &node, || {
        node.log().contains("its mode is 0666").then_some(())
    })?;
    ensure!(
        node.apply(&foreign, &[])?.1 == 3,
        "others could have written it"
    );
    // Whoever may write it may change them in the running agent.
    node.reconfigure(&without)?;
    mode(0o644)?;
    let (applied, code) = node.apply(&without, &[])?;
    ensure!(code == 0 && applied["changed"] == true, "{applied}");
    node.reconfigure(&own)?;
    let (applied, code) = node.apply(&own, &[])?;
    ensure!(
        code == 0 && applied["difference"]["hooks"]["to"][0].is_string(),
        "{applied}"
    );
    backends.stop(FIRST);
    let ran = mark(&lab, "own.ran");
    wait_for("the hook", &node, || ran.exists().then_some(()))?;
    node.stop_agent()?;
    ensure!(!mark(&lab, "foreign.ran").exists());
    Ok(())
}
