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

const ROWS: &[Row] = &[
Row {
    what: "a reply of a cut UDP flow that came with a time to live of 0 left with 255",
    world: World::Roomy,
    // The first reply of 10.3.0.99:7000 to 10.2.0.2:1087 makes the flow.
    steps: "
        b 0200000000010200000000020800450000395a5a40004011cbf00a0300630a0200021b58043f00259ece5858585858585858585858585858585858585858585858585858585858585858
        cut 74 move 0
        b 02000000000102000000000208004500001c5a5a400000110c0e0a0300630a0200021b58043f00080000
    ",
    reason: "time_exceeded_sent",
},
Row {
    what: "a datagram of a flow that a scan had cut was to be counted for the old color, with nothing",
    world: World::Roomy,
    steps: "
        plant lru [fd00:c8::a]:1087 [2001:db8::3]:443 17 [fd00:1::2]:7000 client cut 1650022167 2440025969 1527927094 2060905018 7653 17160 97 1 1 [0, 0] 0
        c1 02000000000102000000000286dd6000123400081140fd0000c800000000000000000000000a20010db8000000000000000000000003043f01bb00082ba8
    ",
    reason: "redirected",
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
