//! The checks of one backend, one after the other.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};

use super::{
    HealthNews, Target,
    probe::{Failure, Sign, probe},
    suspicion::{Doorbell, Suspicion},
    tls::Tls,
};
use crate::{
    config::CheckConfig,
    failover::{CheckTerms, Checked, Health},
};

/// Checks after which health is told again, though it has not changed.
const TOLD_EVERY: u32 = 25;
/// From the end of a check that a report has asked for to the next such: who has himself refused on purpose
/// makes no more checks than that.
const BETWEEN_SUSPICIONS: Duration = Duration::from_millis(50);
/// A backend that is silent for so long is taken for dead: a lost SYN is repeated after a second (RFC 6298), and
/// a backend that is overrun for a moment goes on serving the connections that it has.
const DEAD_SILENCE: Duration = Duration::from_millis(1_200);
/// The checks of one backend.
pub(super) struct Task {
    pub(super) target: Target,
    pub(super) check: CheckConfig,
    pub(super) checked: Checked,
    pub(super) slots: Arc<Semaphore>,
    pub(super) tls: Arc<Tls>,
    pub(super) news: mpsc::Sender<HealthNews>,
    pub(super) bell: Arc<Doorbell>,
    pub(super) life: Life,
}

/// Whether a backend lives.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// When the first of the newest checks in a row began that got no answer at all.
    silent_since: Option<Instant>,
    is_dead: bool,
}

impl Life {
    /// Takes in what a check from `began_at` to `now` has found, if it failed. Returns whether the backend has just
    /// died.
    fn note(&mut self, sign: Option<Sign>, began_at: Instant, now: Instant) -> bool {
        let was_dead = self.is_dead;
        if sign != Some(Sign::Silent) {
            self.silent_since = None;
        }
        self.is_dead = match sign {
            Some(Sign::Refuses) => true,
            Some(Sign::Silent) => {
                let since = *self.silent_since.get_or_insert(began_at);
                now.duration_since(since) >= DEAD_SILENCE
            }
            Some(Sign::Alive) | None => false,
        };
        self.is_dead && !was_dead
    }
}

impl Task {
    /// Checks until it is aborted.
    pub(super) async fn run(mut self) {
        let period = Duration::from(self.check.interval);
        // Checks of different backends are spread over the interval, and do not meet again.
        let mut next = Instant::now() + period.mul_f64(fastrand::f64());
        let mut untold = 0;
        // What was adopted is told as soon as it is this agent's own finding.
        let mut told_after = self.check.fall.max(self.check.rise);
        let mut suspected_until = Instant::now();
        loop {
            let mut suspicion = self.wait(next, suspected_until).await;
            if suspicion.is_none() {
                next = next.max(Instant::now()) + period.mul_f64(0.95 + fastrand::f64() / 10.0);
            }
            // A check that has begun before knows nothing of what is seen meanwhile.
            let mut began_at = Instant::now();
            let result = loop {
                let Some(result) = self.ask(suspicion.as_ref()).await else {
                    suspicion = self.bell.answer(true);
                    began_at = Instant::now();
                    continue;
                };
                break result;
            };
            let (fall, rise) = (self.check.fall, self.check.rise);
            let change = match (&suspicion, &result) {
                (Some(_), Err(_)) => self.checked.fail(),
                _ => self
                    .checked
                    .observe(result.is_ok(), CheckTerms { fall, rise }),
            };
            if suspicion.is_some() {
                suspected_until = Instant::now() + BETWEEN_SUSPICIONS;
            }
            untold += 1;
            let sign = result.as_ref().err().map(|failure| failure.sign);
            let dies = self.life.note(sign, began_at, Instant::now());
            // What the core knows may be from before an apply.
            let is_news = change.is_some() || dies || suspicion.is_some();
            if !is_news && untold < told_after {
                continue;
            }
            untold = 0;
            told_after = TOLD_EVERY;
            let news = HealthNews {
                service: self.target.service.clone(),
                endpoint: self.target.endpoint,
                health: self.checked.health,
                is_dead: self.life.is_dead,
                began_at: began_at.into_std(),
                evidence: evidence(self.checked.health, &result, fall, suspicion.as_ref()),
                refused_at: suspicion.and_then(|it| it.refused_at),
            };
            if self.news.send(news).await.is_err() {
                return;
            }
        }
    }

    /// Waits for the next check in turn, or for something that asks for one before: what, if it does. Who
    /// does not serve is not suspected.
    async fn wait(&self, next: Instant, suspected_until: Instant) -> Option<Suspicion> {
        loop {
            let is_time = Instant::now() >= suspected_until;
            let suspicion = self.bell.answer(is_time);
            if suspicion.is_some() && self.checked.health != Health::Unhealthy {
                return suspicion;
            }
            tokio::select! {
                () = sleep_until(next) => return None,
                () = self.bell.rung() => {}
                () = sleep_until(suspected_until), if self.bell.has_visitor() => {}
            }
        }
    }

    /// Asks the backend; `None`: it was suspected while it was asked in turn, and is to be asked again.
    async fn ask(&self, suspicion: Option<&Suspicion>) -> Option<Result<(), Failure>> {
        if let Some(certain) = suspicion.filter(|it| it.is_certain()) {
            return Some(Err(Failure {
                found: certain.to_string(),
                sign: Sign::Alive,
            }));
        }
        let ask = async {
            // Never closed; and a check that is not counted is one too.
            let _slot = self.slots.acquire().await;
            probe(&self.check, &self.tls, self.target.endpoint).await
        };
        let is_out = self.checked.health == Health::Unhealthy;
        tokio::select! {
            result = ask => Some(result),
            () = self.bell.rung(), if suspicion.is_none() && !is_out => None,
        }
    }
}

fn evidence(
    health: Health,
    newest: &Result<(), Failure>,
    fall: u32,
    suspicion: Option<&Suspicion>,
) -> String {
    match (health, newest, suspicion) {
        (Health::Unhealthy, Err(failure), Some(certain)) if certain.is_certain() => {
            failure.found.clone()
        }
        (Health::Unhealthy, Err(failure), Some(suspicion)) => {
            format!("{suspicion}, and a check right after: {}", failure.found)
        }
        (Health::Unhealthy, Err(failure), None) => {
            format!("{fall} checks in a row have failed: {}", failure.found)
        }
        (Health::Unhealthy, Ok(()), _) => format!("{fall} checks in a row have failed"),
        (Health::Healthy | Health::Unknown, ..) => "it passes its checks".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_is_dead_at_once_and_who_is_silent_after_a_syn_could_have_been_sent_again() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut life = Life::default();
        assert!(!life.note(Some(Sign::Silent), at(0), at(200)));
        assert!(
            !life.note(Some(Sign::Silent), at(900), at(1_100)),
            "a SYN lost"
        );
        assert!(
            !life.note(Some(Sign::Alive), at(1_150), at(1_200)),
            "it takes connections"
        );
        assert!(
            !life.note(Some(Sign::Silent), at(1_300), at(1_500)),
            "from the beginning"
        );
        assert!(
            life.note(Some(Sign::Silent), at(2_300), at(2_500)),
            "it dies"
        );
        assert!(!life.note(Some(Sign::Silent), at(2_600), at(2_800)), "once");
        assert!(life.is_dead);
        assert!(
            !life.note(None, at(3_000), at(3_001)) && !life.is_dead,
            "it is back"
        );
        assert!(
            life.note(Some(Sign::Refuses), at(3_200), at(3_201)),
            "refused"
        );
    }
}
