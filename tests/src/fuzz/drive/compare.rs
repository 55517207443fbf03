//! What program and model are compared by.

use std::fmt::Debug;

use anyhow::Result;
use switcher_userspace::datapath::{Action, TestRun};

use crate::fuzz::model::tables::Table;
use crate::fuzz::model::types::{Entry, Outcome, Tuple, Verdict};
use crate::fuzz::step::hex;

/// How program and model differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In English.
    pub what: String,
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

/// What the program said of something, and what the model said.
pub(super) fn differs(what: &str, program: &impl Debug, model: &impl Debug) -> Difference {
    Difference::new(format!(
        "{what}\n  program {program:?}\n  model   {model:?}"
    ))
}

/// Verdict and bytes; the bytes of a dropped frame nobody sees.
pub(super) fn compare_outcome(
    frame: &[u8],
    run: &TestRun,
    outcome: &Outcome,
) -> Result<(), Difference> {
    let action = match outcome.verdict {
        Verdict::Pass => Action::Pass,
        Verdict::Drop => Action::Drop,
        Verdict::Tx => Action::Tx,
        Verdict::Redirect => Action::Redirect,
    };
    if run.action != action {
        return Err(differs("verdict", &run.action, &(action, outcome.reason)));
    }
    let bytes = outcome.frame.as_deref().unwrap_or(frame);
    if action != Action::Drop && bytes != run.frame {
        let at = bytes.iter().zip(&run.frame).position(|(a, b)| a != b);
        let what = format!("bytes for {}, first at {at:?}", outcome.reason);
        return Err(differs(&what, &hex(&run.frame), &hex(bytes)));
    }
    Ok(())
}
