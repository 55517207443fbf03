//! What the verifier says of the program.

use std::io::Write as _;

use anyhow::Result;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::rig::Rig;

/// Three tenths of the verifier's limit: room for kernels whose verifier sees more.
const MOST_INSTRUCTIONS: u32 = 300_000;

#[test]
fn the_program_is_far_below_the_limit_of_the_verifier() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let facts = rig.path.facts()?;
        let (verified, bytes) = (facts.verified_instructions, facts.translated_bytes);
        // Past the capture of the test runner, so that a CI log shows it.
        writeln!(
            std::io::stdout().lock(),
            "verifier: {verified} instructions processed, program of {bytes} bytes"
        )?;
        assert!(verified > 0, "the kernel does not say how many");
        assert!(
            verified <= MOST_INSTRUCTIONS,
            "{verified} instructions processed, at most {MOST_INSTRUCTIONS} wanted"
        );
        Ok(())
    })
}
