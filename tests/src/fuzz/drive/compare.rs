//! What program and model are compared by.

use anyhow::Result;
use switcher_common::reason::Reason;
use switcher_userspace::datapath::Action;

use super::kernel::Counts;
use crate::fuzz::model::tables::Table;
use crate::fuzz::model::types::{Entry, Outcome, Traffic, Tuple, Verdict};
use crate::fuzz::step::hex;

/// How program and model differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In English.
    pub what: String,
}

/// What the program did with a frame.
pub(super) struct Seen {
    verdict: Option<Verdict>,
    action: Action,
    frame: Vec<u8>,
    /// Names and increments.
    reasons: Vec<(&'static str, u64)>,
    traffic: Vec<(usize, Traffic)>,
}

impl Difference {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

pub(super) fn compare_entry(
    table: Table,
    at: &Tuple,
    found: Result<Option<Entry>>,
    expected: Option<Entry>,
) -> Result<(), Difference> {
    let found = found.map_err(|error| Difference::new(format!("{error:#}")))?;
    if found == expected {
        return Ok(());
    }
    Err(Difference::new(format!(
        "the entry of {at:?} in {table:?}\n  program {found:?}\n  model   {expected:?}"
    )))
}

pub(super) fn compare_outcome(
    frame: &[u8],
    seen: &Seen,
    outcome: &Outcome,
) -> Result<(), Difference> {
    let differs = |what: &str, program: &str, model: &str| {
        Err(Difference::new(format!(
            "{what}\n  program {program}\n  model   {model}"
        )))
    };
    let mut expected = vec![(outcome.reason, 1)];
    for note in &outcome.notes {
        match expected.iter_mut().find(|(name, _)| name == note) {
            Some((_, count)) => *count += 1,
            None => expected.push((note, 1)),
        }
    }
    expected.sort_unstable();
    if expected != seen.reasons {
        let texts = (format!("{:?}", seen.reasons), format!("{expected:?}"));
        return differs("reasons", &texts.0, &texts.1);
    }
    if seen.verdict != Some(outcome.verdict) {
        let texts = (
            format!("{:?}", seen.action),
            format!("{:?}", outcome.verdict),
        );
        return differs("verdict", &texts.0, &texts.1);
    }
    let mut traffic: Vec<_> = outcome
        .traffic
        .iter()
        .map(|((service, color), traffic)| {
            (usize::from(*service) * 2 + usize::from(*color), *traffic)
        })
        .collect();
    traffic.sort_unstable_by_key(|(index, _)| *index);
    if traffic != seen.traffic {
        let texts = (format!("{:?}", seen.traffic), format!("{traffic:?}"));
        return differs("traffic by service and color", &texts.0, &texts.1);
    }
    let bytes = outcome.frame.as_deref().unwrap_or(frame);
    // Nobody sees the bytes of a dropped frame.
    if outcome.verdict != Verdict::Drop && bytes != seen.frame {
        let at = bytes.iter().zip(&seen.frame).position(|(a, b)| a != b);
        return differs(
            &format!("bytes, first at {at:?}"),
            &hex(&seen.frame),
            &hex(bytes),
        );
    }
    Ok(())
}

pub(super) fn seen(action: Action, frame: Vec<u8>, before: &Counts, after: &Counts) -> Seen {
    let mut reasons: Vec<_> = Reason::ALL
        .iter()
        .map(|it| (it.name(), after.0[*it as usize] - before.0[*it as usize]))
        .filter(|(_, count)| *count > 0)
        .collect();
    reasons.sort_unstable();
    let traffic = before.1.iter().zip(&after.1).enumerate();
    let traffic =
        traffic
            .filter(|(_, (before, after))| before != after)
            .map(|(index, (before, after))| {
                let delta = Traffic {
                    packets: after.packets - before.packets,
                    bytes: after.bytes - before.bytes,
                    new_flows: after.new_flows - before.new_flows,
                    unpinned: after.unpinned - before.unpinned,
                    resets: after.resets - before.resets,
                    moved: after.moved - before.moved,
                };
                (index, delta)
            });
    Seen {
        verdict: match action {
            Action::Pass => Some(Verdict::Pass),
            Action::Drop => Some(Verdict::Drop),
            Action::Tx => Some(Verdict::Tx),
            Action::Redirect => Some(Verdict::Redirect),
            Action::Aborted | Action::Unknown(_) => None,
        },
        action,
        frame,
        reasons,
        traffic: traffic.collect(),
    }
}
