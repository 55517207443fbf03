//! The differential test in small: program and model agree on tens of thousands of packets.

use anyhow::{Result, ensure};
use switcher_tests::fuzz::host;
use switcher_tests::fuzz::run::{Options, run};
use switcher_tests::skip_unless_lab;

/// Enough for every reason to occur, in seconds.
const PACKETS: u64 = 30_000;

fn program_and_model_agree(seed: u64) -> Result<()> {
    let report = run(Options {
        packets: PACKETS,
        seed,
        max_failures: 1,
    })?;
    println!("{report}");
    ensure!(
        report.is_good(),
        "program and model differ, or too little happened"
    );
    Ok(())
}

#[test]
fn program_and_model_agree_on_a_known_sequence() -> Result<()> {
    skip_unless_lab!(Ok(()));
    program_and_model_agree(1)
}

#[test]
fn program_and_model_agree_on_a_new_sequence_each_time() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    program_and_model_agree(seed)
}

/// Frames for the packet logic alone.
const FRAMES: u64 = 100_000;

#[test]
fn the_packet_logic_stands_any_bytes() -> Result<()> {
    for seed in [1, fastrand::u64(..)] {
        println!("seed {seed}");
        host::run(FRAMES, seed)?.judge()?;
    }
    Ok(())
}
