//! What a large configuration costs a running agent: memory of its maps, and descriptors.

use std::{io::Write as _, time::Instant};

use anyhow::{Context, Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    bpf::usage,
    lab::{Family, Lab},
    node::{LabService, Many, Node, configuration},
    skip_unless_lab,
    traffic::{Client, HttpNew},
};

use crate::mixed::LIMIT;

/// Sizes for ten thousand listeners with two backends of each color, and for an apply that changes all of them.
const LIMITS: [(&str, u32); 6] = [
    ("flows", 131_072),
    ("unanswered", 32_768),
    ("services", 128),
    ("listeners", 10_240),
    ("backends", 81_920),
    ("maglev_slots", 8_650_752),
];

const MOST_MAP_BYTES: u64 = 256 << 20;
const MOST_DESCRIPTORS: usize = 1_000;

fn large(lab: &Lab, many: Many) -> Result<String> {
    let text = configuration(lab, &[LabService::web(0)]);
    let (head, rest) = text.split_once("[agent.limits]").context("limits")?;
    let (_, services) = rest.split_once("[[service]]").context("a service")?;
    let limits = LIMITS.map(|(name, limit)| format!("{name} = {limit}\n"));
    Ok(format!(
        "{head}[agent.limits]\n{}[[service]]{services}{}",
        limits.concat(),
        many.services(lab)
    ))
}

fn check_cost(node: &Node<'_>, when: &str) -> Result<()> {
    let usage = usage(node.agent_id()?)?;
    let (bytes, descriptors) = (usage.map_bytes(), usage.descriptors);
    writeln!(
        std::io::stdout().lock(),
        "scale: {when}, {bytes} bytes in {} maps, {descriptors} descriptors",
        usage.maps.len()
    )?;
    ensure!(
        bytes <= MOST_MAP_BYTES,
        "{when}: {bytes} bytes of maps, at most {MOST_MAP_BYTES} wanted: {usage:?}"
    );
    ensure!(
        descriptors <= MOST_DESCRIPTORS,
        "{when}: {descriptors} descriptors, at most {MOST_DESCRIPTORS} wanted"
    );
    // The kernel says of each map what it weighs; the flow tables alone are more than this.
    ensure!(bytes >= 50 << 20, "only {bytes} bytes: are all maps seen?");
    Ok(())
}

#[test]
fn ten_thousand_listeners_fit_in_256_mib_of_maps_and_1000_descriptors() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = Node::configured(&lab, &large(&lab, Many::LISTENERS)?)?;
    node.start_agent()?;
    check_cost(&node, "at first")?;
    node.flip(&["web", "many0", "many99"], Color::Green)?;
    let changed = Many {
        variant: 1,
        ..Many::LISTENERS
    };
    node.reconfigure(&large(&lab, changed)?)?;
    node.kill_agent()?;
    node.start_agent()?;
    check_cost(&node, "all backends changed")?;
    let changed = Many {
        variant: 2,
        ..Many::LISTENERS
    };
    let began = Instant::now();
    let changed = large(&lab, changed)?;
    let (reply, mut code) = node.apply(&changed, &[])?;
    if reply["error"]["code"] == "timeout" {
        // On a busy machine nobody waits so long, and the change goes on.
        code = node.apply(&changed, &[])?.1;
    }
    ensure!(code == 0, "{}", reply["error"]);
    writeln!(
        std::io::stdout().lock(),
        "scale: all backends changed by an apply in {:?}, visible after {} us",
        began.elapsed(),
        reply["visible_us"]
    )?;
    check_cost(&node, "all backends changed by an apply")?;
    let status = node.status()?;
    ensure!(status["agent"]["adopted"] == true, "adopted");
    let services = status["services"].as_array().map(Vec::len);
    ensure!(services == Some(101), "{services:?} services");
    let target = LabService::web(0).target(&lab, Family::V4);
    let load = Client::new(lab.client()).http_new(target, HttpNew::per_second(50));
    load.wait_until(LIMIT, |stats| stats.answered >= 10)?;
    let seen = load.finish();
    ensure!(seen.is_clean() && seen.per_color.blue == 0, "{seen:?}");
    Ok(())
}
