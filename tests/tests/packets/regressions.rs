//! What the differential test has found, each as the shortest sequence that showed it.
//!
//! Add a row by pasting the steps that `cargo xtask fuzz` prints. A row fails where program and model
//! differ, or where its last packet gets another reason than it should.

use anyhow::{Context, Result, ensure};
use switcher_tests::fuzz::drive::{Rig, stay_on_one_cpu};
use switcher_tests::fuzz::lab;
use switcher_tests::fuzz::shrink::replay_text;
use switcher_tests::fuzz::world::World;
use switcher_tests::skip_unless_lab;

/// A sequence that once made program and model differ.
struct Row {
    what: &'static str,
    world: World,
    steps: &'static str,
    /// Of the last packet.
    reason: &'static str,
}

const ROWS: &[Row] = &[Row {
    what: "a reply of a cut UDP flow that came with a time to live of 0 left with 255",
    world: World::Roomy,
    // The first reply of 10.3.0.99:7000 to 10.2.0.2:1087 makes the flow.
    steps: "
        b 0200000000010200000000020800450000395a5a40004011cbf00a0300630a0200021b58043f00259ece5858585858585858585858585858585858585858585858585858585858585858
        cut 74 move 0
        b 02000000000102000000000208004500001c5a5a400000110c0e0a0300630a0200021b58043f00080000
    ",
    reason: "time_exceeded_sent",
}];

#[test]
fn what_the_differential_test_found_is_not_found_again() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for world in World::ALL {
        let lab = lab::build()?;
        lab.node().run(|| -> Result<()> {
            stay_on_one_cpu()?;
            let mut rig = Rig::open(&lab, world)?;
            for row in ROWS.iter().filter(|row| row.world == world) {
                let reason = replay_text(&mut rig, row.steps).context(row.what)?;
                let expected = row.reason;
                ensure!(
                    reason == expected,
                    "{}: the last packet's reason is {reason}, expected {expected}",
                    row.what
                );
            }
            rig.close()
        })?;
    }
    Ok(())
}
