//! Whether enough happened in a run for its silence to mean something.

use super::run::Report;

/// Of the packets, at least so many percent must be rewritten.
const REWRITTEN_PERCENT: u64 = 30;
/// Each verdict and reason must occur at least once in so many packets.
const ONE_IN: u64 = 5_000;
/// And so often, however short the run was.
const AT_LEAST: u64 = 5;

/// Reasons that no sequence can bring about, each with why.
const EXEMPT: &[(&str, &str)] = &[
    (
        "inconsistent",
        "only a defect counts it, and then the model differs",
    ),
    (
        "flow_insert_failed",
        "an LRU makes room; insertion fails only where another CPU holds the bucket's lock",
    ),
    (
        "reset_burst",
        "the flows of a sequence are spread over many backends; tests/packets/reports.rs has the rows",
    ),
    (
        "report_lost",
        "of what is reported the model knows nothing; tests/packets/reports.rs has the rows",
    ),
    (
        "late_answer",
        "seldom: a refusal or error of a backend that was left; tests/packets/chance/late.rs has the rows",
    ),
    (
        "listener_removed",
        "a short run may have no world with a removed listener; tests/packets/removed.rs has the rows",
    ),
];

/// What did not happen often enough; empty when all did. `names` are those of all reasons.
pub(super) fn shortfalls<'a>(report: &Report, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let least = (report.packets / ONE_IN).max(AT_LEAST);
    let mut missing: Vec<String> = names
        .filter(|name| !EXEMPT.iter().any(|(exempt, _)| exempt == name))
        .filter_map(|name| too_few(name, report.reasons.get(name), least))
        .chain(
            ["pass", "drop", "tx", "redirect"]
                .iter()
                .filter_map(|name| too_few(name, report.verdicts.get(name), least)),
        )
        .collect();
    if report.rewritten * 100 < report.packets * REWRITTEN_PERCENT {
        let (rewritten, packets) = (report.rewritten, report.packets);
        missing.push(format!(
            "{rewritten} of {packets} packets were rewritten, expected {REWRITTEN_PERCENT} %"
        ));
    }
    missing
}

fn too_few(name: &str, count: Option<&u64>, least: u64) -> Option<String> {
    let count = count.copied().unwrap_or(0);
    (count < least).then(|| format!("{name} occurred {count} times, expected {least}"))
}
