//! Long-lived TCP connections that check every answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};
use switcher_common::service::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{LoadTask, ticks, within};
use super::dial;
use super::identity::{ANSWER, Identity, read_answer};

/// Options of [`Client::long_lived`](super::Client::long_lived).
#[derive(Clone, Copy, Debug)]
pub struct LongLived {
    /// How many connections.
    pub connections: usize,
    /// Time between two messages of one connection.
    pub interval: Duration,
    /// Time within which an answer must come, else the connection counts as broken.
    pub timeout: Duration,
}

impl Default for LongLived {
    fn default() -> Self {
        Self {
            connections: 10,
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(5),
        }
    }
}

pub(super) async fn run(task: LoadTask, options: LongLived) {
    for index in 0..options.connections {
        let part = task.clone();
        task.parts.spawn(async move {
            if let Err(error) = converse(&part, index, options).await {
                report(&part, index, error);
            }
        });
    }
}

fn report(task: &LoadTask, index: usize, error: Error) {
    let error = task.named("long-lived connection", error);
    task.recorder.broken(&error);
    task.recorder.connection(index, |connection| {
        connection.broken = Some(format!("{error:#}"))
    });
}

async fn converse(task: &LoadTask, index: usize, options: LongLived) -> Result<()> {
    let socket = dial::tcp_socket(&task.ports, task.target)?;
    let began = Instant::now();
    let mut stream = within(options.timeout, dial::connect(socket, task.target)).await?;
    let mut ticks = ticks(options.interval);
    let mut first = None;
    for number in 0_u64.. {
        if !task.tick(&mut ticks).await {
            break;
        }
        task.recorder.sent();
        let by = within(options.timeout, exchange(&mut stream, number)).await?;
        let Some(before) = first.replace(by) else {
            task.fresh(began, by, Protocol::Tcp);
            record(task, index, by);
            continue;
        };
        ensure!(
            before == by,
            "message {number} was answered by {by}, earlier ones by {before}"
        );
        record(task, index, by);
    }
    stream.shutdown().await.context("closing")
}

async fn exchange(stream: &mut TcpStream, number: u64) -> Result<Identity> {
    stream
        .write_all(&number.to_be_bytes())
        .await
        .context("sending a message")?;
    let mut bytes = [0; ANSWER];
    stream
        .read_exact(&mut bytes)
        .await
        .context("reading an answer")?;
    let (answered, by) = read_answer(bytes)?;
    ensure!(
        answered == number,
        "the answer to message {number} says {answered}"
    );
    Ok(by)
}

/// Records an answer on a long-lived connection or flow.
pub(super) fn record(task: &LoadTask, index: usize, by: Identity) {
    task.recorder.answered(by);
    task.recorder.connection(index, |connection| {
        connection.identity.get_or_insert(by);
        connection.answered += 1;
        connection.last_answer = Some(Instant::now());
    });
}
