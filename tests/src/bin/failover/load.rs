//! The load: new connections from both clients over both IP versions, and some that live long.

use std::{
    num::NonZeroU32,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use switcher_tests::{
    lab::{Family, Lab},
    node::LabService,
    traffic::{Attempt, Attempts, Client, Connection, Load, LongLived},
};

use crate::plan::{LIMIT, RATE};

/// Clients times IP versions.
const SOURCES: u32 = 4;
/// Long-lived connections of each.
const LONG_LIVED: usize = 5;
/// Time within which a connection must be there.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Time within which its answer must be there.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// All of it.
pub(crate) struct Loads {
    attempts: Vec<Load>,
    long_lived: Vec<Load>,
}

/// What clients saw.
pub(crate) struct Seen {
    /// In order of their beginning.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) long_lived: Vec<Connection>,
    /// The first errors in words.
    pub(crate) samples: Vec<String>,
}

impl Loads {
    /// Starts the load, and waits until each long-lived connection was answered.
    pub(crate) fn start(lab: &Lab, service: &LabService) -> Result<Self> {
        let (mut attempts, mut long_lived) = (Vec::new(), Vec::new());
        for host in [lab.client(), lab.client2()] {
            for family in Family::ALL {
                let target = service.target(lab, family);
                let client = Client::new(host);
                attempts.push(client.attempts(target, options()));
                let options = LongLived {
                    connections: LONG_LIVED,
                    interval: Duration::from_millis(20),
                    ..LongLived::default()
                };
                long_lived.push(client.long_lived(target, options));
                // Not all at the same moments.
                thread::sleep(Duration::from_secs(1) / RATE);
            }
        }
        for load in &long_lived {
            load.wait_until(LIMIT, |stats| {
                stats.connections.iter().all(|it| it.answered > 0)
            })?;
        }
        let loads = Self {
            attempts,
            long_lived,
        };
        Ok(loads)
    }

    /// Waits until `count` connections in a row that began later were answered, in each load.
    pub(crate) fn wait_for_answers(&self, count: usize) -> Result<()> {
        let since = Instant::now();
        for load in &self.attempts {
            load.wait_until(LIMIT, |stats| {
                let later = stats.attempts.iter().rev();
                let later = later.take_while(|it| it.began >= since && it.is_answered());
                later.take(count).count() == count
            })?;
        }
        Ok(())
    }

    /// Ends it, when what is in flight has ended.
    pub(crate) fn finish(self) -> Result<Seen> {
        for load in self.attempts.iter().chain(&self.long_lived) {
            load.stop();
        }
        let mut seen = Seen {
            attempts: Vec::new(),
            long_lived: Vec::new(),
            samples: Vec::new(),
        };
        for load in self.attempts.into_iter().chain(self.long_lived) {
            let stats = load.finish();
            seen.attempts.extend(stats.attempts);
            seen.long_lived.extend(stats.connections);
            seen.samples.extend(stats.samples);
        }
        seen.attempts.sort_by_key(|it| it.began);
        ensure!(!seen.attempts.is_empty(), "no connection was tried");
        Ok(seen)
    }
}

fn options() -> Attempts {
    Attempts {
        per_second: NonZeroU32::new(RATE / SOURCES).unwrap_or(NonZeroU32::MIN),
        connect_limit: CONNECT_LIMIT,
        answer_limit: ANSWER_LIMIT,
    }
}
