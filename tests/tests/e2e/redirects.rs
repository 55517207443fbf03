//! Redirects that an interface does not take: told beforehand they go through the stack, else they are
//! counted as lost.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Lab},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Client, HttpNew, LongLived},
};

use crate::mixed::LIMIT;

fn takes_redirects(status: &Value, interface: &str) -> Value {
    let mut interfaces = status["interfaces"].as_array().into_iter().flatten();
    let found = interfaces.find(|it| it["name"] == interface);
    found.map_or(Value::Null, |it| it["takes_redirects"].clone())
}

fn wait_until_it_takes(node: &Node<'_>, interface: &str, expected: bool) -> Result<()> {
    let what = format!("{interface} takes redirects: {expected}");
    node.wait_until(&what, |status| {
        takes_redirects(status, interface) == expected
    })
    .map(drop)
}

/// Fresh connections over each family, all of them answered.
fn serves(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        let target = LabService::web(0).target(lab, family);
        let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(100));
        load.wait_until(LIMIT, |stats| stats.answered >= 30)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{family:?}: {:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn where_redirects_are_not_taken_traffic_goes_on_through_the_stack_and_comes_back() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let target = LabService::stream(1).target(&lab, Family::V4);
    let lasting = Client::new(lab.client()).long_lived(target, LongLived::default());
    lasting.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    serves(&lab)?;
    ensure!(
        node.packets("rewritten_no_redirect")? == 0,
        "redirects are taken everywhere"
    );
    // Replies leave by the client's interface, requests by the backends'.
    for (host, interface) in [(lab.client(), "c1"), (lab.blue(), "b")] {
        let before = node.packets("rewritten_no_redirect")?;
        host.set_takes_redirects(FAR_INTERFACE, false)?;
        wait_until_it_takes(&node, interface, false)?;
        serves(&lab)?;
        let through_the_stack = node.packets("rewritten_no_redirect")? - before;
        ensure!(through_the_stack > 100, "only {through_the_stack} packets");
        // The next agent knows it from its first packet on.
        node.kill_agent()?;
        node.start_agent()?;
        let status = node.status()?;
        ensure!(takes_redirects(&status, interface) == false, "{status}");
        serves(&lab)?;
        host.set_takes_redirects(FAR_INTERFACE, true)?;
        wait_until_it_takes(&node, interface, true)?;
        let (stack, redirected) = (
            node.packets("rewritten_no_redirect")?,
            node.packets("redirected")?,
        );
        serves(&lab)?;
        ensure!(
            node.packets("rewritten_no_redirect")? == stack,
            "none through the stack any more"
        );
        ensure!(node.packets("redirected")? - redirected > 100, "redirected");
    }
    let before = lasting.read(|stats| stats.answered);
    lasting.wait_until(LIMIT, |stats| stats.answered > before + 20)?;
    let lasting = lasting.finish();
    ensure!(lasting.is_clean(), "{:?}", lasting.samples);
    Ok(())
}

/// A counter of frames that were lost after their verdict.
fn lost(node: &Node<'_>, what: &str) -> Result<u64> {
    let status = node.status()?;
    let count = status["send_errors"][what].as_u64();
    count.with_context(|| format!("no counter {what} in {status}"))
}

/// Connections that get no answer, until `enough` frames of `what` are lost.
fn lose(node: &Node<'_>, lab: &Lab, what: &str, enough: u64) -> Result<()> {
    let before = lost(node, what)?;
    let target = LabService::web(0).target(lab, Family::V4);
    let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(100));
    let waited = node.wait_until(&format!("{enough} {what}"), |status| {
        status["send_errors"][what].as_u64() >= Some(before + enough)
    });
    drop(load.finish());
    waited.map(drop)
}

#[test]
fn redirects_that_fail_are_counted_with_and_without_an_agent() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    serves(&lab)?;
    // The link to blue is cut at its far end: the driver has nowhere to put frames.
    lab.blue().set_up(FAR_INTERFACE, false)?;
    lose(&node, &lab, "redirect_dropped", 20)?;
    node.flip(&["web"], Color::Green)?;
    // Nobody tells the program that the client's end takes no redirects any more.
    node.kill_agent()?;
    lab.client().set_takes_redirects(FAR_INTERFACE, false)?;
    let target = LabService::web(0).target(&lab, Family::V4);
    let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(100));
    load.wait_until(LIMIT, |stats| stats.requests >= 50)?;
    let before = load.finish();
    ensure!(before.answered == 0, "replies are lost: {before:?}");
    node.start_agent()?;
    let refused = lost(&node, "redirect_refused")?;
    ensure!(refused >= 50, "only {refused} counted without an agent");
    ensure!(lost(&node, "redirect_dropped")? >= 20, "kept");
    serves(&lab)?;
    let text = String::from_utf8(node.cli(&["status"])?.stdout)?;
    for words in [
        "redirect refused by the kernel",
        "no, its frames go through",
    ] {
        ensure!(text.contains(words), "no {words:?} in {text}");
    }
    Ok(())
}
