//! The collector's thread: scans the flow tables at its own pace, so that a long scan holds up no
//! flip. More often while something drains, less often on large tables.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use switcher_common::scan::CutFlow;
use tokio::sync::oneshot;

use super::{
    clock,
    core::{Command, Counting},
    resetter::Resetter,
};
use crate::datapath::{Busy, Scan, Scanner};

/// Requests for a scan that may wait at once; as many as the API serves connections.
const MAX_WAITING: usize = 256;

/// Ids of services.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceIds {
    /// The highest of those that are configured.
    pub(super) highest: u16,
    /// The highest that one may have.
    pub(super) limit: u16,
}

/// What the collector is told.
pub(super) enum Order {
    /// Scan now, and answer when the agent has taken the scan in.
    Scan(oneshot::Sender<()>),
    /// Count what flows refer to, for a change.
    Count(Counting),
    /// The pace has changed.
    Pace,
}

/// A finished scan on its way to the agent's core.
pub(super) struct Scanned {
    /// What it saw.
    pub(super) scan: Scan,
    /// When it began, in milliseconds of `CLOCK_BOOTTIME`.
    pub(super) began_boot_ms: u64,
    /// Who waits for it.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// What the flows that are left refer to, while removed listeners are known.
    pub(super) busy: Option<Busy>,
}

/// What flows refer to, for a change that waits for it.
pub(super) struct Counted {
    /// The change.
    pub(super) asked: Counting,
    /// What must keep its meaning.
    pub(super) busy: Busy,
}

/// The way to the collector's thread.
#[derive(Clone)]
pub(super) struct Collector {
    orders: SyncSender<Order>,
    pace: Arc<Pace>,
}

/// What the thread looks up before each scan.
struct Pace {
    draining: AtomicBool,
    /// Removed listeners are known: flows are counted by backend too.
    removing: AtomicBool,
    /// Of the services that are configured.
    highest_service: AtomicU16,
}

impl Collector {
    /// Starts the thread. It ends when the core does, or when nobody can order any more.
    pub(super) fn start(
        scanner: Scanner,
        ids: ServiceIds,
        core: tokio::sync::mpsc::Sender<Command>,
    ) -> std::io::Result<Self> {
        let (orders, received) = sync_channel(MAX_WAITING);
        let shared = Arc::new(Pace {
            draining: AtomicBool::new(false),
            removing: AtomicBool::new(false),
            highest_service: AtomicU16::new(ids.highest),
        });
        let pace = shared.clone();
        thread::Builder::new()
            .name("collector".to_owned())
            .spawn(move || run(scanner, ids.limit, &received, &core, &pace))?;
        Ok(Self {
            orders,
            pace: shared,
        })
    }

    /// Tells the highest id of the services that are configured.
    pub(super) fn set_highest_service(&self, id: u16) {
        self.pace.highest_service.store(id, Ordering::Relaxed);
    }

    /// Tells whether removed listeners are known.
    pub(super) fn set_removing(&self, removing: bool) {
        self.pace.removing.store(removing, Ordering::Relaxed);
    }

    /// Tells the pace. One more scan comes at once: it also finds the flows that packets have cut while
    /// a drain's last scan ran.
    pub(super) fn pace(&self, draining: bool) {
        self.pace.draining.store(draining, Ordering::Relaxed);
        // A full queue means that a scan is due at once anyway.
        let _ = self.orders.try_send(Order::Pace);
    }

    /// Asks for a count, after which [`Command::Counted`] has the change again. `Err`: too many wait.
    pub(super) fn count_for(&self, asked: Counting) -> Result<(), Counting> {
        let sent = self.orders.try_send(Order::Count(asked));
        sent.map_err(|refused| match refused {
            TrySendError::Full(Order::Count(asked))
            | TrySendError::Disconnected(Order::Count(asked)) => asked,
            // What comes back is what was sent.
            TrySendError::Full(_) | TrySendError::Disconnected(_) => unreachable!("another order"),
        })
    }

    /// Asks for a scan; ready when its result is published. `None` when too many wait.
    pub(super) fn scan(&self) -> Option<oneshot::Receiver<()>> {
        let (done, ready) = oneshot::channel();
        match self.orders.try_send(Order::Scan(done)) {
            Ok(()) => Some(ready),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }
}

fn run(
    mut scanner: Scanner,
    service_limit: u16,
    orders: &Receiver<Order>,
    core: &tokio::sync::mpsc::Sender<Command>,
    shared: &Pace,
) {
    let mut pause = Duration::ZERO;
    let mut resetter = Resetter::open();
    loop {
        let (mut waiting, mut counts) = (Vec::new(), Vec::new());
        if !collect_orders(orders, pause, &mut waiting, &mut counts) {
            return;
        }
        for asked in counts {
            // Flows of removed services count too.
            match scanner.busy(service_limit) {
                Ok(busy) => {
                    let counted = Command::Counted(Counted { asked, busy });
                    if core.blocking_send(counted).is_err() {
                        return;
                    }
                }
                // Whoever asked hears that the agent failed: its answer is dropped.
                Err(error) => tracing::error!(%error, "flows are not counted for an apply"),
            }
        }
        let began_boot_ms = clock::boot_ms();
        let removing = shared.removing.load(Ordering::Relaxed);
        let highest_service = shared.highest_service.load(Ordering::Relaxed);
        let on_cut = |flow: &CutFlow| resetter.reset(flow);
        let seen = if removing {
            let seen = scanner.scan_busy(service_limit, true, on_cut);
            seen.map(|(scan, busy)| (scan, Some(busy)))
        } else {
            let seen = scanner.scan(highest_service, true, on_cut);
            seen.map(|scan| (scan, None))
        };
        match seen {
            Ok((scan, busy)) => {
                pause = pause_after(
                    scan.ended_at - scan.began_at,
                    removing || shared.draining.load(Ordering::Relaxed),
                );
                let result = Scanned {
                    scan,
                    began_boot_ms,
                    waiting,
                    busy,
                };
                if core.blocking_send(Command::Scanned(result)).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "flows are not counted");
                pause = Duration::from_secs(1);
            }
        }
    }
}

/// Waits for `pause`, or until a scan is asked for. `false`: nobody can order any more.
fn collect_orders(
    orders: &Receiver<Order>,
    pause: Duration,
    waiting: &mut Vec<oneshot::Sender<()>>,
    counts: &mut Vec<Counting>,
) -> bool {
    let first = match orders.recv_timeout(pause) {
        Err(RecvTimeoutError::Timeout) => return true,
        Err(RecvTimeoutError::Disconnected) => return false,
        Ok(order) => order,
    };
    for order in std::iter::once(first).chain(orders.try_iter()) {
        match order {
            Order::Scan(done) => waiting.push(done),
            Order::Count(asked) => counts.push(asked),
            Order::Pace => {}
        }
    }
    true
}

/// While something drains, at most a fifth of a core's time goes into scans; otherwise at most 2 %.
fn pause_after(scan: Duration, draining: bool) -> Duration {
    if draining {
        (scan * 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    } else {
        (scan * 50).clamp(Duration::from_secs(1), Duration::from_secs(30))
    }
}
