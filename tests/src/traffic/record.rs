//! What the clients saw: counters, samples of errors, and every fresh connection.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use switcher_common::service::{Color, PerColor, Protocol};

use super::attempts::Attempt;
use super::identity::Identity;
use super::visits::Page;
use crate::lab::Family;

/// Fresh connections kept for each load; older ones are forgotten and counted.
pub const FRESH_CAPACITY: usize = 1 << 18;
/// Errors kept in words for each load.
pub const SAMPLES: usize = 10;

/// A connection or UDP flow that was fresh, from its beginning to its first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Just before `connect()`, or before the first datagram was sent.
    pub began: Instant,
    /// When the first answer was complete.
    pub answered: Instant,
    /// The color that answered.
    pub color: Color,
    /// The number of the backend that answered, within its color.
    pub backend: u32,
    /// IP version.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// A long-lived connection or UDP flow.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The backend of its first answer.
    pub identity: Option<Identity>,
    /// Messages that were answered.
    pub answered: u64,
    /// When the newest answer came: data went both ways then.
    pub last_answer: Option<Instant>,
    /// Why it is no longer usable; such a connection is not opened again.
    pub broken: Option<String>,
}

/// The record of one load.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Requests, messages or datagrams sent.
    pub requests: u64,
    /// Those that were answered as they should.
    pub answered: u64,
    /// Requests and connection attempts that ended with an error or without an answer in time.
    pub failed: u64,
    /// Connections and flows that ended unasked, or were answered out of sequence or by another
    /// backend than before.
    pub broken: u64,
    /// Datagrams without an answer in time.
    pub lost: u64,
    /// `answered`, by color.
    pub per_color: PerColor<u64>,
    /// The first errors in words, at most [`SAMPLES`].
    pub samples: Vec<String>,
    /// Fresh connections and flows in order of their answers, the newest [`FRESH_CAPACITY`].
    pub fresh: VecDeque<Fresh>,
    /// Fresh ones that no longer found room in `fresh`.
    pub fresh_forgotten: u64,
    /// Each connection of a load of attempts, in order of their ends.
    pub attempts: Vec<Attempt>,
    /// One entry for each connection of a long-lived load.
    pub connections: Vec<Connection>,
    /// What each visitor of a load of visits was shown, in order.
    pub visitors: Vec<Vec<Page>>,
}

impl Stats {
    /// Nothing failed, broke or was lost.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.failed == 0 && self.broken == 0 && self.lost == 0
    }

    /// Adds another load's record.
    pub fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.answered += other.answered;
        self.failed += other.failed;
        self.broken += other.broken;
        self.lost += other.lost;
        for color in Color::ALL {
            *self.per_color.get_mut(color) += other.per_color.get(color);
        }
        self.samples.extend(other.samples);
        self.fresh.extend(other.fresh);
        self.fresh_forgotten += other.fresh_forgotten;
        self.attempts.extend(other.attempts);
        self.connections.extend(other.connections);
        self.visitors.extend(other.visitors);
    }

    fn add_fresh(&mut self, fresh: Fresh) {
        if self.fresh.len() == FRESH_CAPACITY {
            self.fresh.pop_front();
            self.fresh_forgotten += 1;
        }
        self.fresh.push_back(fresh);
    }

    fn add_sample(&mut self, error: &anyhow::Error) {
        if self.samples.len() < SAMPLES {
            self.samples.push(format!("{error:#}"));
        }
    }
}

/// The shared record that the tasks of a load write.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stats: Mutex<Stats>,
    changed: Condvar,
}

impl Recorder {
    pub(super) fn with_connections(count: usize) -> Self {
        let recorder = Self::default();
        recorder.lock().connections = vec![Connection::default(); count];
        recorder
    }

    pub(super) fn with_visitors(count: usize) -> Self {
        let recorder = Self::default();
        recorder.lock().visitors = vec![Vec::new(); count];
        recorder
    }

    pub(super) fn snapshot(&self) -> Stats {
        self.lock().clone()
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Stats) -> T) -> T {
        read(&self.lock())
    }

    /// Waits at most `limit` until `done` holds.
    pub(super) fn wait_until(
        &self,
        limit: Duration,
        mut done: impl FnMut(&Stats) -> bool,
    ) -> Result<()> {
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.lock(), limit, |stats| !done(stats));
        let (stats, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            let Stats {
                requests,
                answered,
                failed,
                broken,
                lost,
                ..
            } = *stats;
            bail!(
                "not within {limit:?}: {requests} requests, {answered} answered, {failed} failed, \
                 {broken} broken, {lost} lost; errors: {:?}",
                stats.samples
            );
        }
        Ok(())
    }

    pub(super) fn sent(&self) {
        self.change(|stats| stats.requests += 1);
    }

    pub(super) fn answered(&self, identity: Identity) {
        self.change(|stats| {
            stats.answered += 1;
            *stats.per_color.get_mut(identity.color) += 1;
        });
    }

    pub(super) fn shown(&self, visitor: usize, page: Page) {
        self.change(|stats| {
            stats.answered += 1;
            if let Some(pages) = stats.visitors.get_mut(visitor) {
                pages.push(page);
            }
        });
    }

    pub(super) fn fresh(&self, fresh: Fresh) {
        self.change(|stats| stats.add_fresh(fresh));
    }

    pub(super) fn attempt(&self, attempt: Attempt) {
        self.change(|stats| stats.attempts.push(attempt));
    }

    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.change(|stats| {
            stats.failed += 1;
            stats.add_sample(error);
        });
    }

    pub(super) fn lost(&self, error: &anyhow::Error) {
        self.change(|stats| {
            stats.lost += 1;
            stats.add_sample(error);
        });
    }

    pub(super) fn broken(&self, error: &anyhow::Error) {
        self.change(|stats| {
            stats.broken += 1;
            stats.add_sample(error);
        });
    }

    /// Changes the entry of one long-lived connection.
    pub(super) fn connection(&self, index: usize, change: impl FnOnce(&mut Connection)) {
        self.change(|stats| {
            if let Some(connection) = stats.connections.get_mut(index) {
                change(connection);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.lock());
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Stats> {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
