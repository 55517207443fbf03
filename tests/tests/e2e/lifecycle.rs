//! The agent is not in the path (G4): it ends, dies and comes back, and traffic notices nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::Lab,
    node::{Node, service_in},
    skip_unless_lab,
    traffic::tcp_retrans_segs,
};

use crate::mixed::{LASTING, Mixed};

/// How soon the agent ends after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(2);

/// What a new agent must report of the data path that it took over: `web` was flipped once, and
/// the lasting connections of `stream` are open.
fn took_over(node: &Node<'_>, active: Color, generation: u64) -> Result<()> {
    let status = node.status()?;
    ensure!(status["agent"]["adopted"] == true, "{status}");
    ensure!(status["generation"] == generation, "{status}");
    let (web, stream) = (service_in(&status, "web"), service_in(&status, "stream"));
    ensure!(
        web["active"] == active.name() && web["generation"] == generation,
        "{web}"
    );
    ensure!(
        stream["active"] == Color::Blue.name() && stream["generation"] == 0,
        "{stream}"
    );
    // The first scan of the new agent: what the kernel holds, not what it saw itself.
    ensure!(stream["in_flight"]["blue"] == 2 * LASTING, "{stream}");
    ensure!(stream["in_flight"]["green"] == 0, "{stream}");
    for interface in status["interfaces"].as_array().into_iter().flatten() {
        ensure!(interface["mode"] == "native", "{interface}");
    }
    Ok(())
}

fn retransmitted(lab: &Lab) -> Result<u64> {
    let hosts = [lab.client(), lab.client2(), lab.blue(), lab.green()];
    hosts.into_iter().map(tcp_retrans_segs).sum()
}

#[test]
fn after_sigterm_traffic_goes_on_and_the_next_agent_takes_over() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    ensure!(
        node.status()?["agent"]["adopted"] == false,
        "nothing was there before"
    );
    let mixed = Mixed::start(&lab)?;
    node.flip(&["web"], Color::Green)?;
    mixed.goes_on()?;
    let asked = Instant::now();
    node.stop_agent()?;
    let took = asked.elapsed();
    ensure!(took < END_LIMIT, "the agent ended after {took:?}");
    ensure!(!node.socket().exists(), "the socket is left behind");
    mixed.goes_on()?;
    node.start_agent()?;
    took_over(&node, Color::Green, 1)?;
    node.flip(&["web"], Color::Blue)?;
    mixed.goes_on()?;
    mixed.ends_clean()
}

#[test]
fn a_killed_agent_costs_no_request_and_the_next_one_knows_all() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let mixed = Mixed::start(&lab)?;
    let before = retransmitted(&lab)?;
    for (generation, to) in (1..).zip([Color::Green, Color::Blue, Color::Green]) {
        node.flip(&["web"], to)?;
        node.kill_agent()?;
        mixed.goes_on()?;
        node.start_agent()?;
        took_over(&node, to, generation)?;
        mixed.goes_on()?;
    }
    let again = retransmitted(&lab)? - before;
    ensure!(again == 0, "{again} TCP segments were sent again");
    mixed.ends_clean()
}
