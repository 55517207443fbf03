//! Makes a failing sequence small: leaves out what is not needed for the difference.

use anyhow::{Context as _, Result, bail};

use super::drive::{Difference, Rig};
use super::step::Step;

/// Replays that are tried at most; each may have thousands of steps.
const MAX_REPLAYS: usize = 1_500;

/// Runs a sequence from its beginning; the difference that it ends in, if any.
pub fn replay(rig: &mut Rig, steps: &[Step]) -> Result<Option<Difference>> {
    rig.reset()?;
    rig.read_counters_after = 1;
    for step in steps {
        if let Err(difference) = rig.step(step)? {
            return Ok(Some(difference));
        }
    }
    Ok(rig.compare_tables()?.err())
}

/// Runs the steps that `text` has, one on each line, from their beginning; the reason of the last
/// packet. A difference is an error.
pub fn replay_text(rig: &mut Rig, text: &str) -> Result<&'static str> {
    rig.reset()?;
    let mut reason = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match rig.step(&line.parse()?)? {
            Ok(outcome) => reason = outcome.map(|it| it.reason).or(reason),
            Err(difference) => bail!("at {line:?}, program and model differ: {}", difference.what),
        }
    }
    if let Err(difference) = rig.compare_tables()? {
        bail!("afterwards, program and model differ: {}", difference.what);
    }
    reason.context("the sequence has no packet")
}

/// The smallest sequence found that ends in a difference. When a replay does not show the
/// difference, the whole sequence is returned with the one that was seen: it then depends on time.
pub(super) fn shrink(
    rig: &mut Rig,
    mut steps: Vec<Step>,
    seen: &Difference,
) -> Result<(Vec<Step>, Difference)> {
    let Some(mut difference) = replay(rig, &steps)? else {
        return Ok((steps, seen.clone()));
    };
    let mut size = steps.len().div_ceil(2);
    let mut replays = 0;
    while size > 0 && replays < MAX_REPLAYS {
        let mut start = 0;
        let mut is_smaller = false;
        while start < steps.len() && replays < MAX_REPLAYS {
            let end = (start + size).min(steps.len());
            let candidate = [&steps[..start], &steps[end..]].concat();
            replays += 1;
            match replay(rig, &candidate)? {
                Some(found) if !candidate.is_empty() => {
                    difference = found;
                    steps = candidate;
                    is_smaller = true;
                }
                _ => start = end,
            }
        }
        if size == 1 && !is_smaller {
            break;
        }
        size = if is_smaller {
            size.min(steps.len())
        } else {
            size / 2
        };
        size = size.max(1);
    }
    Ok((steps, difference))
}
