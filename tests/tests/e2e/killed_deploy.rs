//! `kill -9` of `switcher deploy` at every step: before the flip the old color stays, after it the
//! deadline of the confirmation decides.

use anyhow::{Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::Family,
    node::{LabService, service_in},
    skip_unless_lab,
    steps::Watch,
    traffic::{Client, HttpNew},
};

use crate::mixed::LIMIT;

const DEPLOY: [&str; 13] = [
    "deploy",
    "web",
    "--smoke",
    "true",
    "--after",
    "true",
    "--confirm-within",
    "300ms",
    "--wait-confirmed",
    "--reason",
    "killed",
    "--",
    "true",
];

/// More rounds than it has steps.
const MOST_ROUNDS: usize = 60;

#[test]
fn a_kill_of_deploy_at_any_step_keeps_the_old_color_or_lets_the_deadline_bring_it_back()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let watch = Watch::of_command();
    let loads = Family::ALL.map(|family| {
        let target = LabService::web(0).target(&lab, family);
        Client::new(lab.client()).http_new(target, HttpNew::per_second(50))
    });
    let (mut killed, mut before_flip, mut after_flip) = (Vec::new(), 0, 0);
    loop {
        ensure!(killed.len() < MOST_ROUNDS, "no end of steps: {killed:#?}");
        let before = node.service("web")?;
        watch.arm(&["switcher", "tokio-rt-worker"]);
        let ended = node.end_of(node.start_watched_cli(&DEPLOY, Some(&watch))?)?;
        let outcome = watch.disarm();
        let found = node.service("web")?;
        ensure!(
            outcome.killed.is_some() == (ended.code == -1),
            "{:?}: {ended:?}",
            outcome.killed
        );
        if found["generation"] == before["generation"] {
            before_flip += 1;
            ensure!(
                found["active"] == "blue" && found["confirm_until_at"].is_null(),
                "killed at {:?}: {found}",
                outcome.killed
            );
        } else {
            after_flip += 1;
        }
        // Whoever would confirm is dead, or has not confirmed.
        let back = node.wait_until("the old color is active, and nothing waits", |status| {
            let web = service_in(status, "web");
            web["active"] == Color::Blue.name() && web["confirm_until_at"].is_null()
        })?;
        if after_flip > 0 {
            let newest = &service_in(&back, "web")["newest_change"];
            ensure!(newest["by"] == "reverted", "{newest}");
        }
        // A release begins when nothing drains.
        node.json(&["drain", "web", "--finish-now", "keep", "--wait"])?;
        let Some(at) = outcome.killed else {
            ensure!(ended.code == 4, "taken back: {ended:?}");
            break;
        };
        killed.push(at.to_string());
    }
    ensure!(
        before_flip >= 5 && after_flip >= 3,
        "{before_flip} before the flip, {after_flip} after it: {killed:#?}"
    );
    println!("killed at {killed:#?}");
    for load in loads {
        load.wait_until(LIMIT, |stats| stats.answered > 100)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
    }
    Ok(())
}
