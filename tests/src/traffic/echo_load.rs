//! Long-lived TCP connections that check every answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
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
    let connection = move |task: LoadTask, index| async move {
        if let Err(error) = converse(&task, index, options).await {
            task.broken(index, "long-lived connection", error);
        }
    };
    task.each(options.connections, connection).await;
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
        match first.replace(by) {
            None => task.fresh(began, by, Protocol::Tcp),
            Some(before) => ensure!(
                before == by,
                "message {number} was answered by {by}, earlier ones by {before}"
            ),
        }
        task.answered(index, by);
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
