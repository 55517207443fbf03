//! When the epoch is raised. Each raise makes all flows ask the kernel once more, so that a node whose routes
//! change all the time must not raise at each change.

use std::time::{Duration, Instant};

/// From a raise to the next one, after a quiet time.
const SHORTEST: Duration = Duration::from_millis(50);
/// The same while changes keep coming.
const LONGEST: Duration = Duration::from_millis(500);
/// From the newest raise to the last one of all: whoever tells of changes before they hold may be held up for longer
/// than a rest, and a hop that was asked for meanwhile would serve until it is old.
const LATE: Duration = Duration::from_secs(1);
/// Who has raised nothing for so many rests has had a quiet time.
const QUIET_RESTS: u32 = 4;

/// Says when to raise: at once, and once more after a rest, because the kernel tells of some changes (deleted
/// routes, links that go down) before they hold, and whoever asks in between gets the old answer. What comes
/// during a rest is raised for at its end. The next rest is twice as long, but after a quiet time. When it has been
/// quiet for a second, it raises for the last time.
#[derive(Debug)]
pub(super) struct Pace {
    rest: Duration,
    /// The newest raise.
    last: Option<Instant>,
    /// Something has changed since.
    has_news: bool,
    /// What has changed before it may not have held yet.
    owes_another: bool,
    /// As that, for whoever takes long.
    owes_late: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rest: SHORTEST,
            last: None,
            has_news: false,
            owes_another: false,
            owes_late: false,
        }
    }
}

impl Pace {
    /// Notes whether something has changed until `now`; whether the epoch is to be raised now, which the caller
    /// then does.
    pub(super) fn take(&mut self, has_news: bool, now: Instant) -> bool {
        self.has_news |= has_news;
        let is_late = self.is_late(now);
        if self.rest(now) != Some(Duration::ZERO) && !is_late {
            return false;
        }
        if self.has_news {
            let is_after_quiet = self
                .last
                .is_none_or(|last| now.saturating_duration_since(last) >= self.rest * QUIET_RESTS);
            self.rest = if is_after_quiet {
                SHORTEST
            } else {
                (self.rest * 2).min(LONGEST)
            };
        }
        self.owes_another = self.has_news && !cfg!(mutant = "hop-raised-once");
        if is_late {
            self.rest = SHORTEST;
        }
        self.owes_late = !is_late;
        self.has_news = false;
        self.last = Some(now);
        true
    }

    /// Whether it is time for the last raise. The caller asks a few times a second.
    fn is_late(&self, now: Instant) -> bool {
        let is_quiet = !self.has_news && !self.owes_another;
        let passed = |last| now.saturating_duration_since(last) >= LATE;
        self.owes_late && is_quiet && self.last.is_some_and(passed)
    }

    /// How long to rest from `now` on; `None`: until something changes.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        (self.has_news || self.owes_another).then(|| {
            self.last.map_or(Duration::ZERO, |last| {
                (last + self.rest).saturating_duration_since(now)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a pace raises, in milliseconds, that is told of changes at `news`.
    fn raises(news: &[u64]) -> Vec<u64> {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut raises = Vec::new();
        let mut news = news.iter().copied().peekable();
        let mut now_ms = 0;
        loop {
            let now = start + Duration::from_millis(now_ms);
            let has_news = news.next_if(|&at| at <= now_ms).is_some();
            // Those of the same rest come together.
            while has_news && news.next_if(|&at| at <= now_ms).is_some() {}
            if pace.take(has_news, now) {
                raises.push(now_ms);
            }
            let rest = pace.rest(now);
            let rest = rest.map(|it| u64::try_from(it.as_millis()).expect("a short rest"));
            now_ms = match (rest, news.peek()) {
                (Some(rest), _) => now_ms + rest,
                (None, Some(&at)) => at,
                (None, None) => return raises,
            };
        }
    }

    #[test]
    fn a_change_is_raised_for_at_once_and_once_more_after_a_rest_though_nothing_else_comes() {
        assert_eq!(raises(&[0]), [0, 50]);
        assert_eq!(raises(&[7, 257]), [7, 57, 257, 307]);
    }

    #[test]
    fn a_change_during_a_rest_is_raised_for_at_its_end_and_once_more() {
        assert_eq!(raises(&[0, 49]), [0, 50, 150]);
        assert_eq!(raises(&[0, 1, 2, 3]), [0, 50, 150]);
        // The last raise of a change may be the first one of the next.
        assert_eq!(raises(&[0, 50, 51]), [0, 50, 150, 350]);
    }

    #[test]
    fn a_change_soon_after_another_one_waits_no_longer_than_the_rest_of_that() {
        assert_eq!(raises(&[0, 60]), [0, 50, 100, 200]);
        assert_eq!(raises(&[0, 120]), [0, 50, 120, 220]);
        assert_eq!(raises(&[0, 249]), [0, 50, 249, 349]);
    }

    #[test]
    fn changes_that_keep_coming_are_raised_for_ever_more_rarely_down_to_twice_a_second() {
        for every_ms in [1, 10, 60, 150] {
            let news: Vec<_> = (0..10_000).step_by(every_ms).collect();
            let raises = raises(&news);
            let late = raises.iter().filter(|&&it| it >= 5_000);
            assert!((9..=12).contains(&late.count()), "{every_ms} {raises:?}");
            for pair in raises.windows(2) {
                assert!((50..=650).contains(&(pair[1] - pair[0])), "{raises:?}");
            }
            assert!(raises.last() >= news.last(), "{raises:?}");
        }
    }

    #[test]
    fn changes_that_come_in_bursts_with_quiet_between_do_not_wait_longer() {
        let bursts = (0..20).map(|it| it * 700);
        let news: Vec<_> = bursts.clone().flat_map(|it| it..it + 40).collect();
        let expected: Vec<_> = bursts.flat_map(|it| [it, it + 50, it + 150]).collect();
        assert_eq!(raises(&news), expected);
    }

    #[test]
    fn after_a_quiet_time_the_rest_is_short_again() {
        let mut news: Vec<_> = (0..5_000).collect();
        news.push(9_000);
        assert_eq!(
            raises(&news).split_off(raises(&news).len() - 2),
            [9_000, 9_050]
        );
    }

    #[test]
    fn a_second_after_all_changes_it_is_raised_for_the_last_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert!(pace.take(true, at(0)));
        assert!(pace.take(false, at(50)));
        assert!(!pace.take(false, at(1_049)));
        assert!(pace.take(false, at(1_050)));
        assert!(!pace.take(false, at(9_000)));
        // Also after changes that kept coming, the next one waits for no more than a short rest.
        assert_eq!(pace.rest, SHORTEST);
        assert!(pace.take(true, at(10_000)));
        assert!(pace.take(false, at(10_050)));
        assert!(pace.take(true, at(11_200)));
        assert!(!pace.take(false, at(11_200)));
    }

    #[test]
    fn nothing_is_raised_for_where_nothing_has_changed() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert!(!pace.take(false, now));
        assert_eq!(pace.rest(now), None);
    }
}
