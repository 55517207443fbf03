//! What the program has seen of a backend, on its way to the task that checks it: the task is woken at
//! once, and many reports are one.

use std::{
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use switcher_common::report::Seen;
use tokio::sync::Notify;

use crate::{datapath::Reported, failover::Refusals};

/// Why a backend is to be checked out of turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// What the program saw first.
    what: What,
    /// When, if it was a refusal: the first of those that wait.
    pub(super) refused_at: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Refused(IpAddr),
    /// Refuses all of these, and answers nobody.
    RefusesAll(Vec<IpAddr>),
    Unanswered(IpAddr),
    Resets,
    Target,
}

impl Suspicion {
    /// Of a backend to which a failover would go: it may have failed with the others.
    pub(super) const fn of_target() -> Self {
        Self {
            what: What::Target,
            refused_at: None,
        }
    }

    /// Whether no check is needed.
    pub(super) const fn is_certain(&self) -> bool {
        matches!(self.what, What::RefusesAll(_))
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Refused(client) => write!(f, "refused the SYN of {client}"),
            What::RefusesAll(clients) => {
                let named: Vec<String> = clients.iter().map(ToString::to_string).collect();
                let (count, named) = (clients.len(), named.join(", "));
                write!(
                    f,
                    "refused the SYNs of {count} clients ({named}) and answered nobody in that time"
                )
            }
            What::Unanswered(client) => write!(f, "left the SYN of {client} unanswered"),
            What::Target => f.write_str("a failover would go to it"),
            What::Resets => f.write_str("reset many established connections in a short time"),
        }
    }
}

/// What waits for the task of a backend.
#[derive(Default)]
pub(super) struct Doorbell {
    waiting: Mutex<Option<Suspicion>>,
    rung: Notify,
}

impl Doorbell {
    /// Wakes the task, unless it is to wake for something already.
    pub(super) fn ring(&self, suspicion: Suspicion) {
        if cfg!(mutant = "report-wakes-nobody") {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *waiting {
            Some(known) if suspicion.is_certain() => known.what = suspicion.what,
            Some(_) => return,
            None => *waiting = Some(suspicion),
        }
        self.rung.notify_one();
    }

    /// Waits until it is rung, once for all times since.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// What waits, if there is `time` for it: what is certain takes none.
    pub(super) fn answer(&self, is_time: bool) -> Option<Suspicion> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.take_if(|it| is_time || it.is_certain())
    }

    /// Whether something waits.
    pub(super) fn has_visitor(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_some()
    }
}

/// Makes suspicions of a backend's reports.
#[derive(Debug, Default)]
pub(super) struct Suspecting(Refusals);

impl Suspecting {
    /// Takes in a report, and rings.
    pub(super) fn hear(&mut self, reported: &Reported, bell: &Doorbell) {
        let refused_at = (reported.seen == Seen::Refused).then_some(reported.at);
        let what = match reported.seen {
            Seen::Refused => {
                let all = self
                    .0
                    .refused(reported.client, reported.tick, reported.answered);
                all.map_or(What::Refused(reported.client), What::RefusesAll)
            }
            Seen::Unanswered => What::Unanswered(reported.client),
            Seen::Resets => What::Resets,
        };
        bell.ring(Suspicion { what, refused_at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(seen: Seen, last: u8) -> Reported {
        Reported {
            seen,
            service: "web".to_owned(),
            endpoint: ([10, 0, 3, 11], 8080).into(),
            client: [10, 0, 0, last].into(),
            at: Instant::now(),
            tick: 5,
            answered: None,
        }
    }

    #[test]
    fn many_reports_are_one_suspicion_and_three_clients_are_certain() {
        let (mut suspecting, bell) = (Suspecting::default(), Doorbell::default());
        let first = reported(Seen::Refused, 1);
        suspecting.hear(&first, &bell);
        suspecting.hear(&reported(Seen::Unanswered, 2), &bell);
        suspecting.hear(&reported(Seen::Refused, 2), &bell);
        assert_eq!(bell.answer(false), None, "it is not time");
        let suspicion = bell.answer(true).expect("the first one");
        assert_eq!(suspicion.to_string(), "refused the SYN of 10.0.0.1");
        assert_eq!(suspicion.refused_at, Some(first.at));
        assert_eq!(bell.answer(true), None, "once");
        suspecting.hear(&reported(Seen::Refused, 3), &bell);
        let suspicion = bell.answer(false).expect("it is certain");
        let told = suspicion.to_string();
        assert!(
            suspicion.is_certain() && told.contains("3 clients (10.0.0.1, 10.0.0.2, 10.0.0.3)"),
            "{told}"
        );
    }
}
