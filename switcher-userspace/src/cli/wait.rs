//! Waiting for drains to end.

use std::{future, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, Interval, interval, sleep_until},
};

use super::{
    Console,
    progress::{self, Progress},
};
use crate::{
    api::{
        client::Client,
        types::{ApiError, DrainStatus, ErrorCode},
    },
    duration::Span,
};

/// How often the live line's clock moves.
const TICK: Duration = Duration::from_millis(100);

/// How waiting ended.
pub(super) struct Waited {
    /// Each service's newest drain, in the order of the request.
    pub(super) drains: Vec<Option<DrainStatus>>,
    /// Absent when every drain ended with no flow left, or none ran.
    pub(super) error: Option<ApiError>,
}

enum News {
    State(usize, DrainStatus),
    Over(Result<(), ApiError>),
}

/// Waits until the drains of all `services` have ended, at most `limit`.
pub(super) async fn for_drains(
    client: &Client,
    services: &[String],
    limit: Option<Span>,
    console: &mut Console<'_>,
) -> Waited {
    let mut waiting = Waiting {
        services,
        drains: vec![None; services.len()],
        progress: Progress::new(console),
    };
    let ended = waiting.run(client, limit).await;
    waiting.progress.clear();
    let error = ended.err().or_else(|| waiting.not_drained());
    let drains = waiting.drains;
    Waited { drains, error }
}

struct Waiting<'a, 'b> {
    services: &'a [String],
    drains: Vec<Option<DrainStatus>>,
    progress: Progress<'a, 'b>,
}

impl Waiting<'_, '_> {
    async fn run(&mut self, client: &Client, limit: Option<Span>) -> Result<(), ApiError> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit.into()));
        let (tell, mut news) = mpsc::channel(self.services.len().max(1));
        // Aborts the watchers when it goes out of scope.
        let mut watchers = JoinSet::new();
        for (index, service) in self.services.iter().enumerate() {
            watchers.spawn(watch(client.clone(), service.clone(), index, tell.clone()));
        }
        let mut running = self.services.len();
        let mut ticks = self.progress.live().then(|| interval(TICK));
        while running > 0 {
            tokio::select! {
                biased;
                heard = news.recv() => match heard {
                    Some(News::State(index, drain)) => self.heard(index, drain),
                    Some(News::Over(result)) => {
                        result?;
                        running -= 1;
                    }
                    None => break,
                },
                () = passed(deadline) => return Err(self.too_long(limit)),
                () = tick(&mut ticks) => self.progress.tick(self.drains.iter().flatten()),
            }
        }
        Ok(())
    }

    fn heard(&mut self, index: usize, drain: DrainStatus) {
        self.progress.changed(self.drains[index].as_ref(), &drain);
        self.drains[index] = Some(drain);
    }

    fn too_long(&self, limit: Option<Span>) -> ApiError {
        let waited = limit
            .map(|limit| format!(" within {limit}"))
            .unwrap_or_default();
        let running: Vec<&str> = self
            .services
            .iter()
            .zip(&self.drains)
            .filter(|(_, drain)| drain.as_ref().is_none_or(|drain| drain.ended.is_none()))
            .map(|(service, _)| service.as_str())
            .collect();
        ApiError::new(
            ErrorCode::Timeout,
            format!("the drain of {} did not end{waited}", running.join(", ")),
            "the drain goes on: wait again with `switcher drain SERVICE --wait`",
        )
    }

    fn not_drained(&self) -> Option<ApiError> {
        let left: Vec<String> = self
            .drains
            .iter()
            .flatten()
            .filter(|drain| drain.flows_left.is_some_and(|left| left > 0))
            .map(progress::left)
            .collect();
        (!left.is_empty()).then(|| {
            ApiError::new(
                ErrorCode::Timeout,
                format!("not drained at the deadline: {}", left.join("; ")),
                "the flip stands and the flows that are left live on; see them with `switcher status`",
            )
        })
    }
}

/// Tells each state of one drain, then that it is over.
async fn watch(client: Client, service: String, index: usize, tell: mpsc::Sender<News>) {
    let followed = async {
        let mut drain = client.watch_drain(&service).await?;
        while let Some(state) = drain.next().await? {
            if tell.send(News::State(index, state)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    // Fails only when nobody waits any more.
    let _ = tell.send(News::Over(followed.await)).await;
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => future::pending().await,
    }
}
