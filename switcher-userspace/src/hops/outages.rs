//! Times in which the kernel's word is not to be had.

use std::time::Duration;

/// Before the first attempt to subscribe again.
const SHORTEST: Duration = Duration::from_millis(100);
/// Before any attempt.
const LONGEST: Duration = Duration::from_secs(10);
/// Whoever fails sooner than this after an attempt has not recovered.
const CALM: Duration = Duration::from_mins(1);

/// Failures that follow one another are one outage, which an operator is told of once.
#[derive(Debug, Default)]
pub(super) struct Outages {
    /// The newest wait of the outage; `None`: there has been none.
    wait: Option<Duration>,
    is_told_to_have_ended: bool,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outage {
    /// Whether the operator does not know of it.
    pub(super) is_new: bool,
    /// How long to wait until the next attempt.
    pub(super) wait: Duration,
}

impl Outages {
    /// It has failed, and had worked for so long.
    pub(super) fn failed(&mut self, had_worked: Duration) -> Outage {
        let before = self.wait.filter(|_| had_worked < CALM);
        let wait = before.map_or(SHORTEST, |it| (it * 2).min(LONGEST));
        self.wait = Some(wait);
        let is_new = before.is_none();
        if is_new {
            self.is_told_to_have_ended = false;
        }
        Outage { is_new, wait }
    }

    /// It works again; whether the operator does not know that.
    pub(super) fn ended(&mut self) -> bool {
        !std::mem::replace(&mut self.is_told_to_have_ended, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_attempts_become_rare() {
        let mut outages = Outages::default();
        let waits_ms: Vec<_> = (0..10)
            .map(|at| {
                let outage = outages.failed(Duration::ZERO);
                assert_eq!(outage.is_new, at == 0);
                outage.wait.as_millis()
            })
            .collect();
        let expected = [
            100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000,
        ];
        assert_eq!(waits_ms, expected);
        assert!(outages.ended());
    }

    #[test]
    fn what_fails_soon_again_is_the_same_outage() {
        let mut outages = Outages::default();
        assert!(outages.failed(CALM).is_new);
        assert!(outages.ended());
        assert!(!outages.failed(CALM / 2).is_new);
        assert!(!outages.ended());
    }

    #[test]
    fn what_fails_after_a_calm_time_is_another_outage() {
        let mut outages = Outages::default();
        for _ in 0..3 {
            let expected = Outage {
                is_new: true,
                wait: SHORTEST,
            };
            assert_eq!(outages.failed(CALM), expected);
            assert!(outages.ended());
        }
    }
}
