//! `[[service]]`: names, how many there are, thresholds and durations.

use std::collections::BTreeMap;

use super::{Findings, Place, failover, health};
use crate::{
    config::{Config, IdleTimeouts, MAX_NAME_BYTES, ServiceConfig},
    duration::Span,
};

const SHORTEST: Span = Span::from_millis(1);
const MAX_DRAIN: Span = Span::from_secs(24 * 3_600);
/// Longer than any keep-alive that is in use; a flow must be forgotten some day.
const MAX_IDLE: Span = Span::from_secs(7 * 24 * 3_600);

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    check_totals(config, findings);
    let names = config.services.iter().map(|service| service.name.as_str());
    check_names(names, "service", Place::service, findings);
    for (index, service) in config.services.iter().enumerate() {
        check_service(service, &Place::service(index, &service.name), findings);
    }
}

fn check_totals(config: &Config, findings: &mut Findings<'_>) {
    let limits = &config.agent.limits;
    let listeners = || {
        config
            .services
            .iter()
            .flat_map(|service| &service.listeners)
    };
    let backends: usize = listeners()
        .map(|listener| listener.blue.len() + listener.green.len())
        .sum();
    for (key, count, limit) in [
        ("services", config.services.len(), limits.services),
        ("listeners", listeners().count(), limits.listeners),
        ("backends", backends, limits.backends),
    ] {
        if u32::try_from(count).map_or(true, |count| count > limit) {
            let what = format!(
                "the file has {count} {key}; expected at most {limit}, the value of limits.{key}"
            );
            findings.add(&Place::agent().key("limits").key(key), what);
        }
    }
}

fn check_service(service: &ServiceConfig, place: &Place, findings: &mut Findings<'_>) {
    if service.min_healthy == 0 {
        let what = "min_healthy is 0; expected at least 1, as a flip to a color without backends serves nobody";
        findings.add(&place.key("min_healthy"), what);
    }
    findings.expect_span(
        place,
        "drain_timeout",
        service.drain_timeout,
        Span::from_millis(0),
        MAX_DRAIN,
    );
    findings.expect_span(
        place,
        "drain_udp_idle",
        service.drain_udp_idle,
        SHORTEST,
        MAX_DRAIN,
    );
    check_idle(&service.idle, &place.table("idle"), findings);
    health::check(service, place, findings);
    failover::check(service, place, findings);
    if service.listeners.is_empty() {
        findings.add(
            place,
            "it has no listener; expected at least one [[service.listener]]",
        );
    }
    let names = service
        .listeners
        .iter()
        .map(|listener| listener.name.as_str());
    check_names(
        names,
        "listener",
        |index, name| place.listener(index, name),
        findings,
    );
}

fn check_idle(idle: &IdleTimeouts, place: &Place, findings: &mut Findings<'_>) {
    for (key, span) in [
        ("unanswered", idle.unanswered),
        ("established", idle.established),
        ("closing", idle.closing),
        ("udp", idle.udp),
    ] {
        findings.expect_span(place, key, span, SHORTEST, MAX_IDLE);
    }
}

/// Checks the names of all parts of one `kind` that must differ from each other.
fn check_names<'n>(
    names: impl Iterator<Item = &'n str>,
    kind: &str,
    place_of: impl Fn(usize, &str) -> Place,
    findings: &mut Findings<'_>,
) {
    let mut first_places = BTreeMap::new();
    for (index, name) in names.enumerate() {
        let place = place_of(index, name);
        let key = place.key("name");
        if let Some(wrong) = wrong_name(name) {
            findings.add(&key, wrong);
        }
        if let Some(first) = first_places.get(name) {
            let line = findings
                .line(first)
                .map(|line| format!(" on line {line}"))
                .unwrap_or_default();
            let what =
                format!("another {kind} has that name already{line}; expected each name once");
            findings.add(&key, what);
        } else {
            first_places.insert(name.to_owned(), key);
        }
    }
}

fn wrong_name(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() {
        Some("the name is empty; expected letters, digits, `-`, `_` and `.`".to_owned())
    } else if name.len() > MAX_NAME_BYTES {
        Some(format!(
            "the name has {} bytes; expected at most {MAX_NAME_BYTES}",
            name.len()
        ))
    } else if let Some(bad) = name.chars().find(|c| !allowed(*c)) {
        Some(format!(
            "the name contains {bad:?}; expected only letters, digits, `-`, `_` and `.`"
        ))
    } else if name.starts_with(['-', '.']) {
        // `-x` would be an option of the CLI, `..` a step in the API's paths.
        Some(
            "the name does not begin with a letter, a digit or `_`; expected one of those"
                .to_owned(),
        )
    } else {
        None
    }
}
