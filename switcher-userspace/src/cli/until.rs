//! Conditions that are waited for, and whether a service's status meets them.

use std::{collections::BTreeSet, net::SocketAddr};

use switcher_common::service::Color;

use super::progress;
use crate::{
    api::types::{ApiError, DrainStatus, ErrorCode, ServiceStatus},
    failover::Health,
    switching::Origin,
};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The color is active.
    Active(Color),
    /// Each backend of the color that is not drained by hand is healthy, or backends are not checked.
    Healthy(Color),
    /// No drain runs, and the newest one left no flow.
    Drained,
    /// The newest flip waits for no confirmation, and was not taken back.
    Confirmed,
    /// Nothing is paused.
    Resumed,
}

/// Whether a condition holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Holds,
    /// It may yet: why it does not.
    NotYet(String),
    /// Waiting does not bring it about.
    Never(ApiError),
}

impl Condition {
    /// As the command line has them.
    pub(super) const ALL: [(&'static str, Self); 7] = [
        ("active=blue", Self::Active(Color::Blue)),
        ("active=green", Self::Active(Color::Green)),
        ("healthy=blue", Self::Healthy(Color::Blue)),
        ("healthy=green", Self::Healthy(Color::Green)),
        ("drained", Self::Drained),
        ("confirmed", Self::Confirmed),
        ("resumed", Self::Resumed),
    ];

    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, it)| *it == self).map_or("", |(name, _)| name)
    }

    /// Whether it holds now.
    pub(super) fn judge(self, service: &ServiceStatus) -> Verdict {
        let name = &service.name;
        let not_yet = |holds: bool, why: String| {
            if holds {
                Verdict::Holds
            } else {
                Verdict::NotYet(why)
            }
        };
        match self {
            Self::Active(color) => not_yet(
                service.active == color,
                format!("{} is not active in {name}", color.name()),
            ),
            Self::Healthy(color) => {
                let bad = not_healthy(service, color);
                not_yet(
                    bad.is_empty(),
                    format!(
                        "{} of {} in {name} are not healthy",
                        bad.join(", "),
                        color.name()
                    ),
                )
            }
            Self::Drained => match &service.drain {
                None => Verdict::Holds,
                Some(drain) if drain.ended.is_none() => {
                    Verdict::NotYet(format!("the drain of {name} did not end"))
                }
                Some(drain) => left(drain).map_or(Verdict::Holds, Verdict::Never),
            },
            Self::Confirmed => {
                let newest = service.newest_change.map(|change| change.by);
                match (&service.confirm_until_at, newest) {
                    (Some(_), _) => Verdict::NotYet(format!("nobody has confirmed {name}'s flip")),
                    (None, Some(by)) if by.is_rollback() => Verdict::Never(taken_back(name, by)),
                    (None, _) => Verdict::Holds,
                }
            }
            Self::Resumed => not_yet(service.pauses.is_empty(), format!("{name} is paused")),
        }
    }
}

/// Backends of `color` that are checked, not drained by hand, and not healthy; each once.
fn not_healthy(service: &ServiceStatus, color: Color) -> Vec<String> {
    if service.health_settles_ms.is_none() {
        return Vec::new();
    }
    let listeners = service.listeners.iter();
    let backends = listeners.flat_map(|listener| listener.backends.get(color));
    let bad = backends.filter(|it| !it.drained && it.health != Health::Healthy);
    let endpoints: BTreeSet<SocketAddr> = bad.map(|it| (it.address, it.port).into()).collect();
    endpoints.iter().map(ToString::to_string).collect()
}

/// The error of a drain that has left flows.
fn left(drain: &DrainStatus) -> Option<ApiError> {
    drain.flows_left.filter(|left| *left > 0)?;
    Some(ApiError::new(
        ErrorCode::Timeout,
        format!("not drained at the deadline: {}", progress::left(drain)),
        "the change stands and the flows that are left live on; see them with `switcher status`",
    ))
}

fn taken_back(service: &str, by: Origin) -> ApiError {
    let why = match by {
        Origin::Reverted => "has been taken back, as nobody had confirmed it",
        _ => "was rolled back",
    };
    ApiError::new(
        ErrorCode::Conflict,
        format!("{service}'s newest flip {why}"),
        "see what is active with `switcher status`, then flip again",
    )
}

#[cfg(test)]
mod tests {
    use switcher_common::service::{PerColor, Protocol};

    use super::*;
    use crate::api::types::{BackendStatus, DrainEnd, ListenerStatus, NewestChange, PauseStatus};

    fn service() -> ServiceStatus {
        ServiceStatus {
            name: "web".to_owned(),
            active: Color::Blue,
            standby: Color::Green,
            base: Color::Blue,
            generation: 3,
            newest_change: None,
            confirm_until_at: None,
            split_percent: 0,
            pauses: Vec::new(),
            in_flight: PerColor::default(),
            preview_flows: 0,
            traffic: PerColor::default(),
            drain: None,
            health_settles_ms: None,
            failover: None,
            listeners: Vec::new(),
        }
    }

    fn drain(ended: Option<DrainEnd>, flows_left: Option<u64>) -> DrainStatus {
        DrainStatus {
            service: "web".to_owned(),
            color: Color::Green,
            generation: 3,
            in_flight: Some(1),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            deadline_at: "2026-01-01T00:00:30Z".to_owned(),
            at_deadline: crate::switching::AtDeadline::Keep,
            ended,
            ended_at: None,
            elapsed_ms: 0,
            flows_left,
            flows_reset: None,
            flows_silent: None,
            flows_moved: None,
            first_new_flow_at: None,
            last_old_packet_at: None,
            flows_finished: None,
            unpinned_packets: None,
        }
    }

    /// `+` holds, `-` not yet, `!` never.
    fn judged(condition: Condition, service: &ServiceStatus) -> char {
        match condition.judge(service) {
            Verdict::Holds => '+',
            Verdict::NotYet(_) => '-',
            Verdict::Never(_) => '!',
        }
    }

    #[test]
    fn the_active_color_is_one_of_two() {
        assert_eq!(judged(Condition::Active(Color::Blue), &service()), '+');
        assert_eq!(judged(Condition::Active(Color::Green), &service()), '-');
    }

    #[test]
    fn a_color_is_healthy_when_all_of_it_is_that_is_not_drained() {
        use Health::{Healthy, Unhealthy, Unknown};
        for (backends, settles, expected) in [
            (&[][..], Some(1), '+'),
            (&[(Healthy, false), (Healthy, false)], Some(1), '+'),
            (&[(Healthy, false), (Unknown, false)], Some(1), '-'),
            (&[(Unhealthy, false), (Healthy, false)], Some(1), '-'),
            (&[(Unhealthy, true), (Healthy, false)], Some(1), '+'),
            (&[(Unknown, false)], None, '+'),
        ] {
            let mut service = service();
            service.health_settles_ms = settles;
            let backend = |(health, drained): &(Health, bool)| BackendStatus {
                address: [10, 0, 0, 1].into(),
                port: 80,
                weight: 1,
                health: *health,
                drained: *drained,
            };
            service.listeners.push(ListenerStatus {
                name: "http".to_owned(),
                vip: [192, 0, 2, 1].into(),
                port: 80,
                protocol: Protocol::Tcp,
                preview: false,
                backends: PerColor {
                    blue: Vec::new(),
                    green: backends.iter().map(backend).collect(),
                },
            });
            let found = judged(Condition::Healthy(Color::Green), &service);
            assert_eq!(found, expected, "{backends:?}");
            assert_eq!(judged(Condition::Healthy(Color::Blue), &service), '+');
        }
    }

    #[test]
    fn drained_is_a_drain_that_left_nothing_or_none() {
        for (drain, expected) in [
            (None, '+'),
            (Some(drain(None, None)), '-'),
            (Some(drain(Some(DrainEnd::Drained), Some(0))), '+'),
            (Some(drain(Some(DrainEnd::Deadline), Some(0))), '+'),
            (Some(drain(Some(DrainEnd::FinishedNow), Some(1))), '!'),
        ] {
            let service = ServiceStatus { drain, ..service() };
            assert_eq!(judged(Condition::Drained, &service), expected);
        }
    }

    #[test]
    fn confirmed_is_neither_waiting_nor_taken_back() {
        let confirm_until_at = Some("2026-01-01T00:00:30Z".to_owned());
        let newest = |by| {
            Some(NewestChange {
                by,
                from: Color::Green,
                forced: false,
            })
        };
        for (confirm_until_at, newest_change, expected) in [
            (None, None, '+'),
            (None, newest(Origin::Flip), '+'),
            (None, newest(Origin::Rollback), '!'),
            (confirm_until_at, newest(Origin::Flip), '-'),
            (None, newest(Origin::Reverted), '!'),
        ] {
            let service = ServiceStatus {
                newest_change,
                confirm_until_at,
                ..service()
            };
            assert_eq!(judged(Condition::Confirmed, &service), expected);
        }
    }

    #[test]
    fn resumed_is_without_any_pause() {
        let mut service = service();
        assert_eq!(judged(Condition::Resumed, &service), '+');
        service.pauses.push(PauseStatus {
            listener: Some("http".to_owned()),
            until_at: "2026-01-01T00:00:30Z".to_owned(),
            hard: false,
        });
        assert_eq!(judged(Condition::Resumed, &service), '-');
    }

    #[test]
    fn names_lead_back_to_their_conditions() {
        for (name, condition) in Condition::ALL {
            assert_eq!(condition.name(), name);
        }
    }
}
