//! Visitors of a web server that is not the lab's own: what they are shown, in the order in which they see it.

use std::time::Duration;

use anyhow::Result;

use super::client::{LoadTask, ticks, within};
use super::http_load::Connection;

/// Options of [`Client::visits`](super::Client::visits).
#[derive(Clone, Copy, Debug)]
pub struct Visits {
    /// How many visitors there are.
    pub visitors: usize,
    /// Time from one visit of a visitor to the next, which begins after the answer.
    pub interval: Duration,
    /// Time within which a visit must be answered, from `connect()` on.
    pub timeout: Duration,
}

/// The answer to one visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// The body; what is no UTF-8 is replaced.
    pub body: String,
}

/// Each visit has a connection of its own, and a visitor begins one only after the one before has ended:
/// what a visitor sees first was also decided first.
pub(super) async fn run(task: LoadTask, options: Visits) {
    let visitor = move |task: LoadTask, number| async move {
        let mut ticks = ticks(options.interval);
        while task.tick(&mut ticks).await {
            task.recorder.sent();
            match within(options.timeout, visit(&task)).await {
                Ok(page) => task.recorder.shown(number, page),
                Err(error) => task.recorder.failed(&task.named("visit", error)),
            }
        }
    };
    task.each(options.visitors, visitor).await;
}

async fn visit(task: &LoadTask) -> Result<Page> {
    let (mut connection, _) = Connection::open(task).await?;
    let (head, body) = connection.exchange().await?;
    connection.close().await?;
    Ok(Page {
        status: head.status.as_u16(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
