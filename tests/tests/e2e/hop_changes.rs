//! The way to hosts changes while flows keep their next hops: of which changes the agent tells the program, and
//! how old a hop gets when nobody does.
//!
//! Who answers numbered datagrams tells the way: green has the addresses of blue's backend too, so a route by
//! another way leads to another answer; where hosts get other link addresses, the old way leads to none. A
//! hop is no older than its flow, so a flow that is answered by the new way before it is as old as hops get
//! has been told. One that is answered later, as on a busy machine, shows nothing.

mod epoch;
mod flow;
mod scene;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use switcher_tests::{
    lab::{Family, Lab},
    node::Node,
    skip_unless_lab,
};

use self::{
    flow::Flow,
    scene::{Change, Scene, Sign, turns_of_forwarding},
};
use crate::mixed::LIMIT;

/// Where no agent watches, a hop serves for a second by the program's clock, which may be 10 ms late (`HZ` of 100).
/// Younger ones serve whatever has changed, unless somebody tells.
const YOUNG: Duration = Duration::from_millis(980);
/// Older ones serve in no case then.
const OLD: Duration = Duration::from_millis(1_020);
/// How often a change is made until it shows something.
const ATTEMPTS: u32 = 5;

fn open(lab: &Lab, families: &[Family]) -> Result<Vec<Flow>> {
    let flows = families.iter().map(|&family| Flow::open(lab, family));
    flows.collect()
}

/// Makes a change while flows go on. Whether all follow it so soon that they must have been told.
fn is_told(node: &Node<'_>, lab: &Lab, families: &[Family], change: &Change) -> Result<bool> {
    // What is raised for something earlier tells nothing.
    epoch::settled(lab)?;
    let reason = match change.sign {
        Sign::AnsweredBy(color) => {
            let mut flows = open(lab, families)?;
            change.make(lab)?;
            let mut is_told = true;
            for flow in &mut flows {
                flow.ask_until_by(color)?;
                is_told &= flow.age() < YOUNG;
            }
            return Ok(is_told);
        }
        Sign::Counted(reason) => reason,
        Sign::None => return change.make(lab).map(|()| true),
    };
    let mut is_told = true;
    let before = node.packets(reason)?;
    let mut flows = open(lab, families)?;
    change.make(lab)?;
    for flow in &mut flows {
        let began = Instant::now();
        while node.packets(reason)? == before {
            ensure!(began.elapsed() < LIMIT, "no {reason} within {LIMIT:?}");
            flow.go_on()?;
        }
        is_told &= flow.age() < YOUNG;
    }
    Ok(is_told)
}

/// Makes a change that nobody tells the program of: after a hop's lifetime all flows follow it.
fn is_found(lab: &Lab, families: &[Family], change: &Change) -> Result<()> {
    let Sign::AnsweredBy(color) = change.sign else {
        return change.make(lab);
    };
    let mut flows = open(lab, families)?;
    change.make(lab)?;
    let changed = Instant::now();
    // Hops that are used get no younger.
    while changed.elapsed() < OLD {
        for flow in &mut flows {
            flow.go_on()?;
        }
    }
    for flow in &mut flows {
        let by = flow.ask()?;
        ensure!(
            by == color,
            "answered by {} {OLD:?} after the change, expected: by {}",
            by.name(),
            color.name()
        );
    }
    Ok(())
}

#[test]
fn flows_follow_each_change_of_ways_as_soon_as_the_agent_sees_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let scene = Scene::new()?;
    let node = crate::start(&scene.lab)?;
    let mut turns = scene.turns_of_routes()?;
    turns.extend(scene.turns_of_neighbours()?);
    turns.extend(turns_of_forwarding());
    for turn in turns {
        let mut in_time = [false; 2];
        let mut attempts = 0;
        while in_time != [true; 2] {
            ensure!(
                attempts < ATTEMPTS,
                "{}: in {attempts} attempts flows did not follow it before their hops were of age; there and \
                 back in time: {in_time:?}",
                turn.what
            );
            attempts += 1;
            for (in_time, change) in in_time.iter_mut().zip([&turn.there, &turn.back]) {
                let is_told = is_told(&node, &scene.lab, turn.families, change);
                *in_time |= is_told.context(turn.what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn g4_flows_follow_each_change_of_ways_after_a_second_when_the_agent_was_killed() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let scene = Scene::new()?;
    let mut node = crate::start(&scene.lab)?;
    node.kill_agent()?;
    let mut turns = scene.turns_of_routes()?;
    turns.extend(scene.turns_of_neighbours()?);
    for turn in turns {
        for change in [&turn.there, &turn.back] {
            is_found(&scene.lab, turn.families, change).context(turn.what)?;
        }
    }
    Ok(())
}
