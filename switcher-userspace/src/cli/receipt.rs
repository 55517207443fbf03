//! A drain's receipt in words.

use std::time::SystemTime;

use super::progress;
use crate::api::{instant, types::DrainStatus};

/// The drain of `service`; if it has ended, with its receipt below.
pub(super) fn text(service: &str, drain: Option<&DrainStatus>) -> String {
    let line = progress::line(service, drain);
    match drain.filter(|drain| drain.ended.is_some()) {
        Some(drain) => line + &receipt(drain),
        None => line,
    }
}

/// What came of the flows, in a few words.
pub(super) fn flows(drain: &DrainStatus) -> String {
    let count =
        |flows: Option<u64>| flows.map_or_else(|| "?".to_owned(), |flows| flows.to_string());
    format!(
        "{} finished, {} reset, {} moved, {} left",
        count(drain.flows_finished),
        count(drain.flows_reset),
        count(drain.flows_moved),
        count(drain.flows_left)
    )
}

fn receipt(drain: &DrainStatus) -> String {
    let (old, new) = (drain.color.name(), drain.color.other().name());
    let mut lines = vec![String::new(), format!("  flows of {old}: {}", flows(drain))];
    // Without: an older agent's, or the data path went away with the drain.
    if let Some(unpinned) = drain.unpinned_packets {
        let first = when(drain, drain.first_new_flow_at.as_deref());
        let last = when(drain, drain.last_old_packet_at.as_deref());
        lines.push(format!("  first new flow on {new}: {first}"));
        lines.push(format!("  last packet of {old}: {last}"));
        lines.push(format!("  packets to {old} without a pin: {unpinned}"));
    }
    lines.join("\n")
}

/// `2026-11-21T12:00:01.5Z, 1.500 s after the drain began`
fn when(drain: &DrainStatus, at: Option<&str>) -> String {
    let Some(at) = at else {
        return "none".to_owned();
    };
    let instants = instant::parse(&drain.started_at).zip(instant::parse(at));
    instants.map_or_else(
        || at.to_owned(),
        |(began, then)| format!("{at}, {}", apart(began, then)),
    )
}

fn apart(began: SystemTime, then: SystemTime) -> String {
    match then.duration_since(began) {
        Ok(later) => format!("{:.3} s after the drain began", later.as_secs_f64()),
        Err(earlier) => {
            let earlier = earlier.duration().as_secs_f64();
            format!("{earlier:.3} s before the drain began")
        }
    }
}

#[cfg(test)]
mod tests {
    use switcher_common::service::Color;

    use super::*;
    use crate::{api::types::DrainEnd, switching::AtDeadline};

    fn ended() -> DrainStatus {
        DrainStatus {
            service: "web".to_owned(),
            color: Color::Blue,
            generation: 3,
            in_flight: Some(1),
            started_at: "2026-01-01T00:00:00.25Z".to_owned(),
            deadline_at: "2026-01-01T00:00:30.25Z".to_owned(),
            at_deadline: AtDeadline::Reset,
            ended: Some(DrainEnd::Deadline),
            ended_at: Some("2026-01-01T00:00:30.3Z".to_owned()),
            elapsed_ms: 30_050,
            flows_left: Some(1),
            flows_reset: Some(2),
            flows_silent: Some(1),
            flows_moved: Some(3),
            first_new_flow_at: Some("2026-01-01T00:00:00.275Z".to_owned()),
            last_old_packet_at: Some("2026-01-01T00:00:00.246Z".to_owned()),
            flows_finished: Some(4),
            unpinned_packets: Some(5),
        }
    }

    #[test]
    fn g10_the_receipt_is_told_in_full() {
        let text = text("web", Some(&ended()));
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  flows of blue: 4 finished, 2 reset, 3 moved, 1 left",
                "  first new flow on green: 2026-01-01T00:00:00.275Z, 0.025 s after the drain began",
                "  last packet of blue: 2026-01-01T00:00:00.246Z, 0.004 s before the drain began",
                "  packets to blue without a pin: 5",
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_not_told_as_zero() {
        let drain = DrainStatus {
            flows_finished: None,
            unpinned_packets: None,
            first_new_flow_at: None,
            last_old_packet_at: None,
            ..ended()
        };
        let text = text("web", Some(&drain));
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            ["  flows of blue: ? finished, 2 reset, 3 moved, 1 left"]
        );
    }

    #[test]
    fn a_drain_that_runs_is_one_line() {
        let drain = DrainStatus {
            ended: None,
            ..ended()
        };
        assert_eq!(text("web", Some(&drain)).lines().count(), 1);
        assert_eq!(text("web", None).lines().count(), 1);
    }
}
