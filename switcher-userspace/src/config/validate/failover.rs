//! `[service.failover]`: what it needs, and its bounds.

use super::{Findings, Place};
use crate::{config::ServiceConfig, duration::Span};

const MAX_HOLD_DOWN: Span = Span::from_secs(24 * 3_600);
const MAX_FREEZE: Span = Span::from_secs(24 * 3_600);
/// One a minute is no hold-down any more; the state file remembers each.
const MAX_FLIPS_PER_HOUR: u64 = 60;

pub(super) fn check(service: &ServiceConfig, place: &Place, findings: &mut Findings<'_>) {
    let Some(failover) = &service.failover else {
        return;
    };
    let place = place.table("failover");
    if service.check.is_none() {
        let what = "there is no [service.check], so nobody would notice a failure; expected one in the same service, or no [service.failover]";
        findings.add(&place, what);
    }
    let none = Span::from_millis(0);
    findings.expect_span(&place, "hold_down", failover.hold_down, none, MAX_HOLD_DOWN);
    findings.expect_span(
        &place,
        "manual_freeze",
        failover.manual_freeze,
        none,
        MAX_FREEZE,
    );
    findings.expect_count(
        &place,
        "flips_per_hour",
        failover.flips_per_hour.into(),
        MAX_FLIPS_PER_HOUR,
    );
}
