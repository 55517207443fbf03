//! Connections to an echo server, one question each, that remember how far each of them came.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{LoadTask, within};
use super::dial;
use super::identity::{ANSWER, Identity, read_answer};

/// Options of [`Client::attempts`](super::Client::attempts).
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    /// Connections begun per second.
    pub per_second: NonZeroU32,
    /// Time within which `connect()` must return.
    pub connect_limit: Duration,
    /// Time within which the answer must be there, from then on.
    pub answer_limit: Duration,
}

/// One connection, from `connect()` to the answer to its only question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Just before `connect()`.
    pub began: Instant,
    /// When `connect()` returned a connection; `None`: it did not.
    pub connected: Option<Instant>,
    /// When the answer came; `None`: it did not.
    pub answered: Option<Instant>,
    /// Who answered.
    pub by: Option<Identity>,
}

impl Attempt {
    /// Whether it was answered.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.answered.is_some()
    }
}

pub(super) async fn run(task: LoadTask, options: Attempts) {
    let attempt = move |task: LoadTask| async move {
        task.recorder.sent();
        let mut attempt = Attempt {
            began: Instant::now(),
            connected: None,
            answered: None,
            by: None,
        };
        match once(&task, options, &mut attempt).await {
            Ok(by) => task.recorder.answered(by),
            Err(error) => failed(&task, error),
        }
        task.recorder.attempt(attempt);
    };
    task.repeat(options.per_second, attempt).await;
}

fn failed(task: &LoadTask, error: Error) {
    task.recorder.failed(&task.named("connection", error));
}

async fn once(task: &LoadTask, options: Attempts, attempt: &mut Attempt) -> Result<Identity> {
    let socket = dial::tcp_socket(&task.ports, task.target)?;
    attempt.began = Instant::now();
    let connect = dial::connect(socket, task.target);
    let mut stream = within(options.connect_limit, connect).await?;
    attempt.connected = Some(Instant::now());
    let by = within(options.answer_limit, ask(&mut stream)).await?;
    attempt.answered = Some(Instant::now());
    attempt.by = Some(by);
    // The client closes first, so that `TIME_WAIT` stays on its side.
    stream.shutdown().await.context("closing").map(|()| by)
}

async fn ask(stream: &mut TcpStream) -> Result<Identity> {
    const NUMBER: u64 = 1;
    let question = NUMBER.to_be_bytes();
    stream.write_all(&question).await.context("asking")?;
    let mut bytes = [0; ANSWER];
    let read = stream.read_exact(&mut bytes).await;
    read.context("reading an answer")?;
    let (answered, by) = read_answer(bytes)?;
    ensure!(answered == NUMBER, "the answer is to question {answered}");
    Ok(by)
}
