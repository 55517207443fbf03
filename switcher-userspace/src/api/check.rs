//! What a request must look like before anything is asked of the agent.

use std::collections::BTreeSet;

use super::{
    requests::{ChangeRequest, FlipRequest, Terms},
    types::{ApiError, ErrorCode},
};

/// Longest drain: as long as the configuration allows.
const MAX_DRAIN_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1_000;
/// Longest time to confirm a flip.
pub(crate) const MAX_CONFIRM_MS: u64 = 60 * 60 * 1_000;
/// Longest time until a drill's failover is undone.
const MAX_DRILL_MS: u64 = 60 * 60 * 1_000;
/// That time where none is named.
pub const DEFAULT_DRILL_MS: u64 = 30_000;
/// Longest pause: clients wait about as long again, since they retry with growing intervals.
pub const MAX_PAUSE_MS: u64 = 30_000;
/// Pause that is meant where none is named.
pub const DEFAULT_PAUSE_MS: u64 = 5_000;

/// Refuses a change that names no service, names one twice, has a value beyond its limits, or would be
/// undone when it is repeated.
pub fn change(request: &ChangeRequest) -> Result<(), ApiError> {
    let verb = request.verb();
    services(verb, &request.terms())?;
    match request {
        ChangeRequest::Flip(flip) => {
            conditions(flip)?;
            at_most(
                verb,
                "drain_timeout_ms",
                flip.drain_timeout_ms,
                MAX_DRAIN_TIMEOUT_MS,
            )?;
            at_most(
                verb,
                "confirm_within_ms",
                flip.confirm_within_ms,
                MAX_CONFIRM_MS,
            )
        }
        ChangeRequest::Rollback(rollback) => at_most(
            verb,
            "drain_timeout_ms",
            rollback.drain_timeout_ms,
            MAX_DRAIN_TIMEOUT_MS,
        ),
        ChangeRequest::Promote(promote) => at_most(
            verb,
            "drain_timeout_ms",
            promote.drain_timeout_ms,
            MAX_DRAIN_TIMEOUT_MS,
        ),
        ChangeRequest::Abort(abort) => at_most(
            verb,
            "drain_timeout_ms",
            abort.drain_timeout_ms,
            MAX_DRAIN_TIMEOUT_MS,
        ),
        ChangeRequest::Split(split) => at_most(
            verb,
            "standby_percent",
            Some(split.standby_percent.into()),
            100,
        ),
        ChangeRequest::Pause(pause) => {
            one_service(verb, pause.listener.as_ref(), &pause.services)?;
            at_most(verb, "max_ms", pause.max_ms, MAX_PAUSE_MS)
        }
        ChangeRequest::Resume(resume) => {
            one_service(verb, resume.listener.as_ref(), &resume.services)
        }
        ChangeRequest::ExtendDrain(extend) => {
            at_most(verb, "by_ms", Some(extend.by_ms), MAX_DRAIN_TIMEOUT_MS)
        }
        ChangeRequest::Drill(drill) => {
            alone(verb, &drill.services)?;
            at_most(verb, "timeout_ms", drill.timeout_ms, MAX_DRILL_MS)
        }
        ChangeRequest::Confirm(_)
        | ChangeRequest::EnableFailover(_)
        | ChangeRequest::DisableFailover(_)
        | ChangeRequest::FinishDrain(_)
        | ChangeRequest::DrainBackend(_)
        | ChangeRequest::ResumeBackend(_) => Ok(()),
    }
}

fn services(verb: &str, terms: &Terms) -> Result<(), ApiError> {
    if terms.services.is_empty() {
        return Err(usage(
            &format!("cannot {verb}: the request names no service"),
            "name at least one service in `services`",
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = terms.services.iter().find(|name| !seen.insert(*name)) {
        return Err(usage(
            &format!("cannot {verb}: the request names the service `{twice}` twice"),
            "name each service once",
        ));
    }
    Ok(())
}

fn conditions(request: &FlipRequest) -> Result<(), ApiError> {
    if request.to.is_none() && request.expect_active.is_none() && request.if_generation.is_none() {
        return Err(usage(
            "cannot flip: without `to` the request needs `expect_active` or `if_generation`, \
             because a repeated request would flip back",
            "name the new color in `to`, or the state that the flip starts from",
        ));
    }
    Ok(())
}

fn alone(verb: &str, services: &[String]) -> Result<(), ApiError> {
    if services.len() > 1 {
        return Err(usage(
            &format!(
                "cannot {verb}: the request names {} services",
                services.len()
            ),
            "name one service: each is failed over alone",
        ));
    }
    Ok(())
}

fn one_service(verb: &str, listener: Option<&String>, services: &[String]) -> Result<(), ApiError> {
    match listener {
        Some(listener) if services.len() > 1 => Err(usage(
            &format!("cannot {verb}: the listener `{listener}` is named beside several services"),
            "name the listener's service alone",
        )),
        _ => Ok(()),
    }
}

fn at_most(verb: &str, field: &str, found: Option<u64>, most: u64) -> Result<(), ApiError> {
    match found.filter(|found| *found > most) {
        None => Ok(()),
        Some(found) => Err(usage(
            &format!("cannot {verb}: `{field}` is {found}; expected at most {most}"),
            &format!("name a smaller `{field}`"),
        )),
    }
}

fn usage(message: &str, next_step: &str) -> ApiError {
    ApiError::new(ErrorCode::Usage, message, next_step)
}

#[cfg(test)]
mod tests {
    use switcher_common::service::Color;

    use super::*;
    use crate::api::requests::{PauseRequest, SplitRequest};

    fn request(services: &[&str]) -> FlipRequest {
        FlipRequest {
            services: services.iter().map(ToString::to_string).collect(),
            ..FlipRequest::default()
        }
    }

    fn is_ok(request: impl Into<ChangeRequest>) -> bool {
        change(&request.into()).is_ok()
    }

    #[test]
    fn a_flip_needs_services_each_once() {
        let to = Some(Color::Green);
        for (services, ok) in [
            (&[][..], false),
            (&["web"], true),
            (&["web", "api"], true),
            (&["web", "api", "web"], false),
        ] {
            let request = FlipRequest {
                to,
                ..request(services)
            };
            assert_eq!(is_ok(request), ok, "{services:?}");
        }
    }

    #[test]
    fn a_flip_without_a_color_needs_a_condition() {
        assert!(!is_ok(request(&["web"])));
        assert!(is_ok(FlipRequest {
            expect_active: Some(Color::Blue),
            ..request(&["web"])
        }));
        assert!(is_ok(FlipRequest {
            if_generation: Some(3),
            ..request(&["web"])
        }));
    }

    #[test]
    fn values_have_limits() {
        let services = vec!["web".to_owned()];
        for (standby_percent, ok) in [(0, true), (100, true), (101, false)] {
            let request = SplitRequest {
                services: services.clone(),
                standby_percent,
                ..SplitRequest::default()
            };
            assert_eq!(is_ok(request), ok, "{standby_percent} %");
        }
        for (max_ms, ok) in [(None, true), (Some(30_000), true), (Some(30_001), false)] {
            let request = PauseRequest {
                services: services.clone(),
                max_ms,
                ..PauseRequest::default()
            };
            assert_eq!(is_ok(request), ok, "{max_ms:?}");
        }
        for (confirm_within_ms, ok) in [(3_600_000, true), (3_600_001, false)] {
            let request = FlipRequest {
                to: Some(Color::Green),
                confirm_within_ms: Some(confirm_within_ms),
                ..request(&["web"])
            };
            assert_eq!(is_ok(request), ok, "{confirm_within_ms} ms");
        }
    }

    #[test]
    fn a_listener_belongs_to_one_service() {
        let request = PauseRequest {
            services: vec!["web".to_owned(), "api".to_owned()],
            listener: Some("http".to_owned()),
            ..PauseRequest::default()
        };
        assert!(!is_ok(request));
    }
}
