//! The judgement over fresh connections: which colors may have served them, given the flips.

use std::collections::BTreeMap;
use std::time::Instant;

use switcher_common::service::{Color, Protocol};

use super::record::Fresh;
use crate::lab::Family;

/// A flip as its caller saw it.
#[derive(Clone, Copy, Debug)]
pub struct Flip {
    /// Just before the call.
    pub started: Instant,
    /// When the call had returned.
    pub returned: Instant,
    /// The color that became active.
    pub to: Color,
}

/// How many began after a flip had returned, yet were served by the other color. `flips` are in
/// order of time.
///
/// One that was answered after the next flip had started may have been sent after that one, so
/// the next flip's color is no fault then.
pub fn late_old<'a>(fresh: impl IntoIterator<Item = &'a Fresh>, flips: &[Flip]) -> usize {
    fresh
        .into_iter()
        .filter(|fresh| is_late(fresh, flips))
        .count()
}

fn is_late(fresh: &Fresh, flips: &[Flip]) -> bool {
    let begun = flips.partition_point(|flip| flip.started <= fresh.began);
    let Some(flip) = flips[..begun].last() else {
        return false;
    };
    if fresh.began < flip.returned || fresh.color == flip.to {
        return false;
    }
    let later = &flips[begun..];
    !later
        .iter()
        .any(|next| next.to == fresh.color && next.started <= fresh.answered)
}

/// Milliseconds from the start of a flip to the first answer by its color to a connection that
/// began after that start; `None` where there is none.
pub fn first_new_ms<'a>(
    fresh: impl IntoIterator<Item = &'a Fresh>,
    flip_started: Instant,
    new_color: Color,
) -> Option<f64> {
    let after = fresh
        .into_iter()
        .filter(|fresh| fresh.began >= flip_started);
    let answers = after
        .filter(|fresh| fresh.color == new_color)
        .map(|fresh| fresh.answered);
    answers
        .min()
        .map(|answered| (answered - flip_started).as_secs_f64() * 1e3)
}

/// How many connections of one client saw a mix around `flip`: they began after the first answer
/// by the new color, yet were served by the old one. `fresh` is from all services together;
/// `until` is the start of the next flip, if any.
pub fn mixed<'a>(
    fresh: impl IntoIterator<Item = &'a Fresh> + Clone,
    flip: Flip,
    until: Option<Instant>,
) -> usize {
    let inside = |at: Instant| at >= flip.started && until.is_none_or(|until| at < until);
    let new = fresh
        .clone()
        .into_iter()
        .filter(|it| it.color == flip.to && inside(it.began));
    let Some(seen) = new.map(|it| it.answered).min() else {
        return 0;
    };
    let later = fresh
        .into_iter()
        .filter(|it| it.began > seen && inside(it.answered));
    later.filter(|it| it.color != flip.to).count()
}

/// What is counted apart: IP version, transport protocol, color.
pub type Kind = (Family, Protocol, Color);

/// How many of each kind began at or after `from` and were answered before `until`.
pub fn count_fresh<'a>(
    fresh: impl IntoIterator<Item = &'a Fresh>,
    from: Instant,
    until: Instant,
) -> BTreeMap<Kind, u64> {
    let mut counts = BTreeMap::new();
    for it in fresh {
        if it.began >= from && it.answered < until {
            *counts
                .entry((it.family, it.protocol, it.color))
                .or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use Color::{Blue, Green};

    use super::*;

    /// Instants are in milliseconds after `start`.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        fn fresh(&self, began: u64, answered: u64, color: Color) -> Fresh {
            Fresh {
                began: self.at(began),
                answered: self.at(answered),
                color,
                backend: 0,
                family: Family::V4,
                protocol: Protocol::Tcp,
            }
        }

        fn flip(&self, started: u64, returned: u64, to: Color) -> Flip {
            Flip {
                started: self.at(started),
                returned: self.at(returned),
                to,
            }
        }
    }

    #[test]
    fn the_old_color_is_late_only_after_the_flip_returned() {
        let clock = Clock(Instant::now());
        let flips = [clock.flip(100, 110, Green)];
        assert_eq!(
            late_old(&[clock.fresh(90, 120, Blue)], &flips),
            0,
            "began before"
        );
        assert_eq!(
            late_old(&[clock.fresh(105, 120, Blue)], &flips),
            0,
            "began during"
        );
        assert_eq!(
            late_old(&[clock.fresh(110, 120, Blue)], &flips),
            1,
            "began after"
        );
        assert_eq!(
            late_old(&[clock.fresh(110, 120, Green)], &flips),
            0,
            "is new"
        );
        assert_eq!(late_old(&[clock.fresh(110, 120, Blue)], &[]), 0, "no flip");
    }

    #[test]
    fn the_color_of_the_next_flip_is_not_late() {
        let clock = Clock(Instant::now());
        let flips = [clock.flip(100, 110, Green), clock.flip(200, 210, Blue)];
        assert_eq!(
            late_old(&[clock.fresh(150, 160, Blue)], &flips),
            1,
            "before the next"
        );
        assert_eq!(
            late_old(&[clock.fresh(199, 220, Blue)], &flips),
            0,
            "may be the next's"
        );
        assert_eq!(
            late_old(&[clock.fresh(205, 220, Green)], &flips),
            0,
            "began during the next"
        );
        assert_eq!(
            late_old(&[clock.fresh(215, 220, Green)], &flips),
            1,
            "after the next"
        );
    }

    #[test]
    fn the_first_new_answer_counts_from_the_start_of_the_flip() {
        let clock = Clock(Instant::now());
        let fresh = [
            clock.fresh(90, 103, Green),
            clock.fresh(101, 104, Blue),
            clock.fresh(102, 109, Green),
            clock.fresh(103, 107, Green),
        ];
        let measured = first_new_ms(&fresh, clock.at(100), Green);
        assert!(
            measured.is_some_and(|ms| (ms - 7.0).abs() < 1e-6),
            "{measured:?}"
        );
        assert_eq!(first_new_ms(&fresh, clock.at(104), Green), None);
    }

    #[test]
    fn old_after_new_is_a_mix() {
        let clock = Clock(Instant::now());
        let flip = clock.flip(100, 110, Green);
        let seen = clock.fresh(101, 103, Green);
        assert_eq!(
            mixed(&[seen, clock.fresh(102, 120, Blue)], flip, None),
            0,
            "began earlier"
        );
        assert_eq!(mixed(&[seen, clock.fresh(104, 106, Blue)], flip, None), 1);
        let next = Some(clock.at(105));
        assert_eq!(
            mixed(&[seen, clock.fresh(104, 106, Blue)], flip, next),
            0,
            "the next flip"
        );
    }

    #[test]
    fn fresh_ones_are_counted_by_kind_and_time() {
        let clock = Clock(Instant::now());
        let fresh = [
            clock.fresh(1, 2, Blue),
            clock.fresh(3, 4, Blue),
            clock.fresh(9, 30, Blue),
        ];
        let counts = count_fresh(&fresh, clock.at(2), clock.at(10));
        assert_eq!(counts, [((Family::V4, Protocol::Tcp, Blue), 1)].into());
    }
}
