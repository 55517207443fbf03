//! What a request must look like before anything is asked of the agent.

use std::collections::BTreeSet;

use super::types::{ApiError, ErrorCode, FlipRequest};

/// Refuses a flip that names no service, names one twice, or could flip back when it is repeated.
pub fn flip(request: &FlipRequest) -> Result<(), ApiError> {
    if request.services.is_empty() {
        return Err(usage(
            "cannot flip: the request names no service",
            "name at least one service in `services`",
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = request.services.iter().find(|name| !seen.insert(*name)) {
        return Err(usage(
            &format!("cannot flip: the request names the service `{twice}` twice"),
            "name each service once",
        ));
    }
    if request.to.is_none() && request.expect_active.is_none() && request.if_generation.is_none() {
        return Err(usage(
            "cannot flip: without `to` the request needs `expect_active` or `if_generation`, \
             because a repeated request would flip back",
            "name the new color in `to`, or the state that the flip starts from",
        ));
    }
    if let Some(ms) = request
        .drain_timeout_ms
        .filter(|ms| *ms > MAX_DRAIN_TIMEOUT_MS)
    {
        return Err(usage(
            &format!(
                "cannot flip: the drain timeout is {ms} ms; expected at most {MAX_DRAIN_TIMEOUT_MS} (24 hours)"
            ),
            "name a shorter drain timeout",
        ));
    }
    Ok(())
}

/// Longest drain: as long as the configuration allows.
const MAX_DRAIN_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1_000;

fn usage(message: &str, next_step: &str) -> ApiError {
    ApiError::new(ErrorCode::Usage, message, next_step)
}

#[cfg(test)]
mod tests {
    use switcher_common::service::Color;

    use super::*;

    fn request(services: &[&str]) -> FlipRequest {
        FlipRequest {
            services: services.iter().map(ToString::to_string).collect(),
            ..FlipRequest::default()
        }
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
            assert_eq!(flip(&request).is_ok(), ok, "{services:?}");
        }
    }

    #[test]
    fn a_flip_without_a_color_needs_a_condition() {
        assert!(flip(&request(&["web"])).is_err());
        let expect_active = Some(Color::Blue);
        assert!(
            flip(&FlipRequest {
                expect_active,
                ..request(&["web"])
            })
            .is_ok()
        );
        assert!(
            flip(&FlipRequest {
                if_generation: Some(3),
                ..request(&["web"])
            })
            .is_ok()
        );
    }
}
