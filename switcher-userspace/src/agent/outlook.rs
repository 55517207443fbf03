//! Automated failover of a service, as its status tells it.

use super::{clock, core::situation};
use crate::{
    api::{
        failover::{
            AlarmStatus, DrillStatus, FailoverAction, FailoverOutlook, FailoverStatus,
            SwitchedOffBy,
        },
        instant,
    },
    config::ServiceConfig,
    failover::{Decision, Terms},
    switching::{Now, Service},
};

/// The status of failover; `None`: the service has none.
pub(super) fn failover(
    config: &ServiceConfig,
    state: &Service,
    now: Now,
) -> Option<FailoverStatus> {
    let terms = config.failover?.terms();
    let policy = &state.failover;
    let switched_off_by = if policy.is_switched_off() {
        Some(SwitchedOffBy::Operator)
    } else {
        (!terms.is_enabled).then_some(SwitchedOffBy::Configuration)
    };
    let lasts = |at: &Now| at.boot_ms > now.boot_ms;
    Some(FailoverStatus {
        enabled: switched_off_by.is_none(),
        switched_off_by,
        now: outlook(config, state, &terms, false, now),
        if_active_failed: outlook(config, state, &terms, true, now),
        hold_down_until_at: policy.hold_down_until(&terms).filter(lasts).map(rfc3339),
        flips_left: policy.flips_left(&terms, now),
        alarm: policy.alarm().map(|alarm| AlarmStatus {
            kind: alarm.kind,
            message: alarm.kind.to_string(),
            since_at: rfc3339(alarm.since),
        }),
        drill: state.drill.map(|drill| DrillStatus {
            back_to: state.standby(),
            generation: drill.generation,
            until_at: rfc3339(drill.until),
        }),
    })
}

fn outlook(
    config: &ServiceConfig,
    state: &Service,
    terms: &Terms,
    has_failed: bool,
    now: Now,
) -> FailoverOutlook {
    let situation = situation(config, state, has_failed);
    let (action, why, until) = match state.failover.decide(terms, &situation, now).decision {
        Decision::Stay { why, until } => (FailoverAction::Stay, Some(why), until),
        Decision::FailOver { .. } => (FailoverAction::FailOver, None, None),
        Decision::Revert { .. } => (FailoverAction::Revert, None, None),
        Decision::EndSplit => (FailoverAction::EndSplit, None, None),
    };
    FailoverOutlook {
        action,
        why,
        until_at: until.map(rfc3339),
    }
}

fn rfc3339(instant: Now) -> String {
    instant::format(clock::wall(instant))
}
