//! What the checks found, for people and for programs.

use std::fmt;

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The agent refuses to start, and nothing is attached.
    Fatal,
    /// The agent starts; some traffic may be lost or slow.
    Warning,
}

/// One thing that is wrong with the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Stable name of the check, such as `ip_forward`.
    pub check: &'static str,
    /// What was found where, and what it leads to.
    pub what: String,
    /// The command that mends it, or the step where no single command does.
    pub mend: String,
}

/// A check that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// Stable name of the check.
    pub check: &'static str,
    /// What stood in the way.
    pub why: String,
}

/// All findings, and the checks that passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The checks that found nothing.
    pub passed: Vec<&'static str>,
    /// The checks that could not be made; they say nothing either way.
    pub not_checked: Vec<NotChecked>,
}

/// A finding whose check is not named yet.
pub(super) struct Problem {
    severity: Severity,
    what: String,
    mend: String,
}

impl Problem {
    pub(super) fn fatal(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            severity: Severity::Fatal,
            what: what.into(),
            mend: mend.into(),
        }
    }

    pub(super) fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::fatal(what, mend)
        }
    }
}

impl Report {
    /// Whether the agent must not start.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity == Severity::Fatal)
    }

    /// Ends `check`: it passed if there is no problem.
    pub(super) fn settle(&mut self, check: &'static str, problems: Vec<Problem>) {
        if problems.is_empty() {
            self.passed.push(check);
        }
        for Problem {
            severity,
            what,
            mend,
        } in problems
        {
            self.findings.push(Finding {
                severity,
                check,
                what,
                mend,
            });
        }
    }

    /// Ends `check` without a result.
    pub(super) fn skip(&mut self, check: &'static str, why: impl Into<String>) {
        let why = why.into();
        self.not_checked.push(NotChecked { check, why });
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fatal => "fatal",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            severity,
            check,
            what,
            mend,
        } = self;
        write!(f, "{severity:<8}{check}: {what}\n        mend: {mend}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for NotChecked { check, why } in &self.not_checked {
            writeln!(f, "skipped {check}: {why}")?;
        }
        write!(f, "passed  {}", self.passed.join(", "))
    }
}
