//! A client host and the loads that it runs.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use switcher_common::service::Protocol;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::record::{Fresh, Recorder, Stats};
use super::{Attempts, HttpNew, Identity, KeepAlive, LongLived, UdpFlows, UdpLongLived, Visits};
use super::{attempts, echo_load, http_load, udp_load, visits};
use crate::lab::{Family, Host, Ports};

/// Requests of one load that may wait for their answer at a time; the load slows down there.
const IN_FLIGHT: usize = 1000;

/// Starts loads on one host. Several clients of one host share its source ports.
#[derive(Clone)]
pub struct Client {
    runtime: Handle,
    ports: Arc<Ports>,
}

impl Client {
    /// A client on `host`.
    #[must_use]
    pub fn new(host: &Host) -> Self {
        Self {
            runtime: host.runtime().clone(),
            ports: Arc::clone(host.ports()),
        }
    }

    /// TCP connections to an echo server that stay open and exchange numbered messages.
    #[must_use]
    pub fn long_lived(&self, target: SocketAddr, options: LongLived) -> Load {
        let recorder = Recorder::with_connections(options.connections);
        self.start(target, recorder, |task| echo_load::run(task, options))
    }

    /// Connections to an echo server, one question each.
    #[must_use]
    pub fn attempts(&self, target: SocketAddr, options: Attempts) -> Load {
        self.start(target, Recorder::default(), |task| {
            attempts::run(task, options)
        })
    }

    /// HTTP requests to a web server, each over a connection of its own.
    #[must_use]
    pub fn http_new(&self, target: SocketAddr, options: HttpNew) -> Load {
        self.start(target, Recorder::default(), |task| {
            http_load::run_new(task, options)
        })
    }

    /// HTTP requests to a web server over connections that are kept for a bounded time.
    #[must_use]
    pub fn http_keepalive(&self, target: SocketAddr, options: KeepAlive) -> Load {
        self.start(target, Recorder::default(), |task| {
            http_load::run_keepalive(task, options)
        })
    }

    /// Visitors of any web server, each with one visit after the other.
    #[must_use]
    pub fn visits(&self, target: SocketAddr, options: Visits) -> Load {
        let recorder = Recorder::with_visitors(options.visitors);
        self.start(target, recorder, |task| visits::run(task, options))
    }

    /// UDP flows to an echo server, each of a few numbered datagrams from a port of its own.
    #[must_use]
    pub fn udp_flows(&self, target: SocketAddr, options: UdpFlows) -> Load {
        self.start(target, Recorder::default(), |task| {
            udp_load::run_flows(task, options)
        })
    }

    /// UDP flows to an echo server that go on and on.
    #[must_use]
    pub fn udp_long_lived(&self, target: SocketAddr, options: UdpLongLived) -> Load {
        let recorder = Recorder::with_connections(options.flows);
        self.start(target, recorder, |task| {
            udp_load::run_long_lived(task, options)
        })
    }

    fn start<F>(
        &self,
        target: SocketAddr,
        recorder: Recorder,
        load: impl FnOnce(LoadTask) -> F,
    ) -> Load
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = LoadTask {
            target,
            ports: Arc::clone(&self.ports),
            recorder: recorder.clone(),
            stop: stop.clone(),
            parts: TaskTracker::new(),
        };
        let (finished, done) = mpsc::channel::<()>();
        let (load, parts) = (load(task.clone()), task.parts);
        self.runtime.spawn(async move {
            load.await;
            parts.close();
            parts.wait().await;
            drop(finished);
        });
        Load {
            recorder,
            _guard: stop.clone().drop_guard(),
            stop,
            done,
        }
    }
}

/// A running load; it stops when dropped.
pub struct Load {
    recorder: Recorder,
    stop: CancellationToken,
    done: mpsc::Receiver<()>,
    _guard: DropGuard,
}

impl Load {
    /// The record so far.
    #[must_use]
    pub fn snapshot(&self) -> Stats {
        self.recorder.snapshot()
    }

    /// What `read` takes from the record so far, without a copy of all of it; should be quick.
    pub fn read<T>(&self, read: impl FnOnce(&Stats) -> T) -> T {
        self.recorder.read(read)
    }

    /// Waits, blocking the caller, until `done` holds for the record, at most `limit`.
    ///
    /// `done` is called after each change while the load waits for it, so it should be quick.
    pub fn wait_until(&self, limit: Duration, done: impl FnMut(&Stats) -> bool) -> Result<()> {
        self.recorder
            .wait_until(limit, done)
            .context("waiting for a load")
    }

    /// Begins nothing more; what is in flight goes on. [`Load::finish`] waits for it.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// A token that stops this load, for tasks elsewhere.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Stops, waits for what is in flight (or for the end of the lab), and returns the record.
    #[must_use]
    pub fn finish(self) -> Stats {
        self.stop();
        // Nothing is ever sent: the other end is dropped when all is done.
        let _ = self.done.recv();
        self.recorder.snapshot()
    }
}

/// What the tasks of one load share.
#[derive(Clone)]
pub(super) struct LoadTask {
    pub(super) target: SocketAddr,
    pub(super) ports: Arc<Ports>,
    pub(super) recorder: Recorder,
    pub(super) stop: CancellationToken,
    pub(super) parts: TaskTracker,
}

impl LoadTask {
    /// Runs `part` at a bounded rate until stopped, each beside the others.
    pub(super) async fn repeat<F>(self, per_second: NonZeroU32, part: impl Fn(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut ticks = ticks(Duration::from_secs(1) / per_second.get());
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        while self.tick(&mut ticks).await {
            let next = self
                .stop
                .run_until_cancelled(Arc::clone(&room).acquire_owned())
                .await;
            let Some(Ok(permit)) = next else { return };
            let part = part(self.clone());
            self.parts.spawn(async move {
                part.await;
                drop(permit);
            });
        }
    }

    /// Runs `part` for each number below `count` at the same time, and waits for all.
    pub(super) async fn each<F>(self, count: usize, part: impl Fn(Self, usize) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let parts = (0..count).map(|index| part(self.clone(), index));
        parts.collect::<JoinSet<_>>().join_all().await;
    }

    /// Waits for the next tick; false when stopped.
    pub(super) async fn tick(&self, ticks: &mut tokio::time::Interval) -> bool {
        self.stop.run_until_cancelled(ticks.tick()).await.is_some()
    }

    /// Counts long-lived connection or flow `index` as broken and notes why.
    pub(super) fn broken(&self, index: usize, what: &str, error: Error) {
        let error = self.named(what, error);
        self.recorder.broken(&error);
        self.recorder.connection(index, |connection| {
            connection.broken = Some(format!("{error:#}"));
        });
    }

    /// Records an answer on long-lived connection or flow `index`.
    pub(super) fn answered(&self, index: usize, by: Identity) {
        self.recorder.answered(by);
        self.recorder.connection(index, |connection| {
            connection.identity.get_or_insert(by);
            connection.answered += 1;
            connection.last_answer = Some(std::time::Instant::now());
        });
    }

    /// The record of a first answer that just arrived.
    pub(super) fn fresh(&self, began: std::time::Instant, by: Identity, protocol: Protocol) {
        self.recorder.fresh(Fresh {
            began,
            answered: std::time::Instant::now(),
            color: by.color,
            backend: by.backend,
            family: Family::of(self.target.ip()),
            protocol,
        });
    }

    /// Names the target in an error.
    pub(super) fn named(&self, what: &str, error: Error) -> Error {
        error.context(format!("{what} to {}", self.target))
    }
}

/// Ticks of at least a microsecond. After a delay the missed ones are left out: there is no burst,
/// and loads that began at different moments do not fall into step.
pub(super) fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period.max(Duration::from_micros(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Waits for `work` at most `limit`.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .with_context(|| format!("no answer in {limit:?}"))?
}
