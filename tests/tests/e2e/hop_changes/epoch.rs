//! The epoch of hops, in the node's pinned map.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use switcher_common::{
    clock::ticks_from_ns,
    hop::{HopWatch, LIFETIME},
    service::Color,
};
use switcher_tests::{
    lab::{Family, Lab},
    node::Node,
    skip_unless_lab,
};

use crate::{
    barrier::pinned,
    hops::{OTHER_MAC, ip},
};

fn watch(lab: &Lab) -> Result<HopWatch> {
    let map: Array<MapData, HopWatch> = Map::Array(pinned(lab, "HOP_WATCH")?).try_into()?;
    Ok(map.get(&0, 0)?)
}

fn epoch(lab: &Lab) -> Result<u32> {
    Ok(watch(lab)?.epoch)
}

/// The epoch when all that has happened is told of, which is longer than the agent ever rests: if it is read too
/// early, a test sees less, and never more.
pub(super) fn settled(lab: &Lab) -> Result<u32> {
    const QUIET: Duration = Duration::from_millis(600);
    let mut last = (epoch(lab)?, Instant::now());
    while last.1.elapsed() < QUIET {
        thread::sleep(QUIET / 20);
        let now = epoch(lab)?;
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(last.0)
}

fn raised_since(lab: &Lab, node: &Node<'_>, before: u32, what: &str) -> Result<()> {
    let is_raised = |_: &_| epoch(lab).is_ok_and(|now| now != before);
    node.wait_until(&format!("the epoch is raised after: {what}"), is_raised)
        .map(drop)
}

#[test]
fn the_agent_raises_the_epoch_of_hops_at_each_change_that_routes_depend_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut node = crate::start(&lab)?;
    let blue = lab.backends(Color::Blue, Family::V4)[0];
    for change in [
        format!("neigh replace {blue} lladdr {OTHER_MAC} dev b nud permanent"),
        format!("neigh del {blue} dev b"),
        // Before Linux 6.3 a hop may lead to a neighbour that is not there yet.
        format!("neigh add {blue} lladdr {OTHER_MAC} dev b nud permanent"),
        "addr add 10.99.0.1/24 dev g".to_owned(),
        "-6 addr add fd00:99::1/64 dev g nodad".to_owned(),
        "route add 10.98.0.0/24 dev g".to_owned(),
        "-6 route add fd00:98::/64 dev g".to_owned(),
        "rule add to 10.97.0.0/24 lookup 100".to_owned(),
        "-6 rule add to fd00:97::/64 lookup 100".to_owned(),
        "nexthop add id 7 dev g".to_owned(),
        "link set dev g mtu 1400".to_owned(),
    ] {
        let before = settled(&lab)?;
        ip(lab.node(), &change)?;
        raised_since(&lab, &node, before, &change)?;
    }
    let before = settled(&lab)?;
    node.kill_agent()?;
    node.start_agent()?;
    raised_since(&lab, &node, before, "another agent")
}

/// How far in the future the agent's word ends, in ticks; negative: it has ended.
fn left(lab: &Lab) -> Result<i32> {
    let until = watch(lab)?.until;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_ns = u64::try_from(now.tv_sec)? * 1_000_000_000 + u64::try_from(now.tv_nsec)?;
    Ok(until.wrapping_sub(ticks_from_ns(now_ns)).cast_signed())
}

#[test]
fn the_agent_says_again_and_again_that_it_watches_and_its_word_ends_with_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut node = crate::start(&lab)?;
    let second = LIFETIME.cast_signed();
    // Each word but the first one comes while the one before stands.
    let mut words = vec![watch(&lab)?.until];
    let (mut lapses, mut most) = (0, i32::MIN);
    node.wait_until("the agent renews its word ten times", |_| {
        let (Ok(watch), Ok(left)) = (watch(&lab), left(&lab)) else {
            return false;
        };
        lapses += u32::from(left <= 0);
        most = most.max(left);
        if words.last() != Some(&watch.until) {
            words.push(watch.until);
        }
        words.len() > 10
    })?;
    ensure!(most <= second, "its word stood for {most} ticks");
    // A busy machine may hold the agent up now and then.
    ensure!(lapses <= 2, "its word had ended {lapses} times");
    node.kill_agent()?;
    let at_the_end = left(&lab)?;
    ensure!(
        at_the_end <= second,
        "it stands for {at_the_end} ticks more"
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    while left(&lab)? > 0 {
        ensure!(Instant::now() < deadline, "its word does not end");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
