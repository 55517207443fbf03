//! HTTP requests: over a connection each, or over connections that are kept for a bounded time.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::http::response::Parts;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use switcher_common::service::Protocol;
use tokio_util::task::AbortOnDropHandle;

use super::client::{LoadTask, ticks, within};
use super::dial;
use super::identity::Identity;

/// Options of [`Client::http_new`](super::Client::http_new).
#[derive(Clone, Copy, Debug)]
pub struct HttpNew {
    /// Requests, and so connections, begun per second; at most 1 000 in all per client host.
    pub per_second: NonZeroU32,
    /// Time within which a request must be answered, from `connect()` on.
    pub timeout: Duration,
}

impl HttpNew {
    /// A bounded rate with the default timeout of 5 s; 0 is taken as 1.
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        let per_second = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        Self {
            per_second,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Options of [`Client::http_keepalive`](super::Client::http_keepalive).
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// Connections open at a time.
    pub connections: usize,
    /// Time between two requests of one connection.
    pub interval: Duration,
    /// A connection is closed and opened anew after so many requests, where given ...
    pub requests_per_connection: Option<u64>,
    /// ... and at the latest after this time.
    pub lifetime: Duration,
    /// Time within which a request must be answered, from `connect()` on for the first.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            connections: 4,
            interval: Duration::from_millis(10),
            requests_per_connection: None,
            lifetime: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
        }
    }
}

pub(super) async fn run_new(task: LoadTask, options: HttpNew) {
    let request = move |task: LoadTask| async move {
        task.recorder.sent();
        let once = within(options.timeout, request_once(&task)).await;
        if let Err(error) = once {
            task.recorder.failed(&task.named("HTTP request", error));
        }
    };
    task.repeat(options.per_second, request).await;
}

async fn request_once(task: &LoadTask) -> Result<()> {
    let (mut connection, began) = Connection::open(task).await?;
    let by = connection.request().await?;
    task.recorder.answered(by);
    task.fresh(began, by, Protocol::Tcp);
    connection.close().await
}

pub(super) async fn run_keepalive(task: LoadTask, options: KeepAlive) {
    let connections = move |task: LoadTask, _| async move {
        // A failed connection is opened anew, no faster than requests are sent.
        let mut pace = ticks(options.interval);
        while task.tick(&mut pace).await {
            if let Err(error) = keep_alive(&task, options).await {
                task.recorder
                    .failed(&task.named("HTTP keep-alive connection", error));
            }
        }
    };
    task.each(options.connections, connections).await;
}

async fn keep_alive(task: &LoadTask, options: KeepAlive) -> Result<()> {
    task.recorder.sent();
    let first = async {
        let (mut connection, began) = Connection::open(task).await?;
        let by = connection.request().await?;
        Ok((connection, began, by))
    };
    let (mut connection, began, by) = within(options.timeout, first).await?;
    task.recorder.answered(by);
    task.fresh(began, by, Protocol::Tcp);
    let mut ticks = ticks(options.interval);
    ticks.reset();
    let more = options.requests_per_connection.unwrap_or(u64::MAX);
    for _ in 1..more {
        if !task.tick(&mut ticks).await || began.elapsed() >= options.lifetime {
            break;
        }
        task.recorder.sent();
        let now_by = within(options.timeout, connection.request()).await?;
        task.recorder.answered(now_by);
        if now_by != by {
            let error = anyhow::anyhow!("answered by {now_by}, earlier requests by {by}");
            task.recorder
                .broken(&task.named("HTTP keep-alive connection", error));
            break;
        }
    }
    within(options.timeout, connection.close()).await
}

/// A client connection; the client closes first, so that `TIME_WAIT` stays on its side.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: AbortOnDropHandle<hyper::Result<()>>,
    host: String,
}

impl Connection {
    /// Connects; the instant is the one just before.
    pub(super) async fn open(task: &LoadTask) -> Result<(Self, Instant)> {
        let socket = dial::tcp_socket(&task.ports, task.target)?;
        let began = Instant::now();
        let stream = dial::connect(socket, task.target).await?;
        let (sender, driver) = handshake(TokioIo::new(stream))
            .await
            .context("starting HTTP")?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok((
            Self {
                sender,
                driver,
                host: task.target.to_string(),
            },
            began,
        ))
    }

    /// Asks for `/`; who answered, as the lab's own server says.
    async fn request(&mut self) -> Result<Identity> {
        let (head, _) = self.exchange().await?;
        ensure!(
            head.status == StatusCode::OK,
            "answered with status {}",
            head.status
        );
        let header = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.with_context(|| format!("an answer without the header {name}"))
        };
        Identity::from_names(header("x-color")?, header("x-backend")?)
    }

    /// Asks for `/`; the whole answer, whatever its status.
    pub(super) async fn exchange(&mut self) -> Result<(Parts, Bytes)> {
        let request = Request::get("/")
            .header(HOST, &self.host)
            .body(Empty::new());
        let request = request.context("making a request")?;
        self.sender
            .ready()
            .await
            .context("waiting for the connection")?;
        let answer = self
            .sender
            .send_request(request)
            .await
            .context("sending a request")?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.context("reading the body")?;
        Ok((head, body.to_bytes()))
    }

    pub(super) async fn close(self) -> Result<()> {
        let Self { sender, driver, .. } = self;
        drop(sender);
        driver
            .await
            .context("ending the connection")?
            .context("closing")
    }
}
