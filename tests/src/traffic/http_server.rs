//! The web server: HTTP/1.1 with keep-alive, whose headers say who answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::identity::Identity;
use super::serving::{Serving, Tasks};
use crate::lab::Host;

/// Which answers of a server are slow.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// Each so many-th connection of an address ...
    pub every: u64,
    /// ... waits so long for its answer.
    pub by: Duration,
}

/// Answers every request with a line that names the backend, as do the headers `x-color` and
/// `x-backend`. Stops when dropped.
pub struct HttpServer(Serving);

impl HttpServer {
    /// Serves HTTP on each of `addresses` of `host`; ready when this returns.
    pub fn start(host: &Host, identity: Identity, addresses: &[SocketAddr]) -> Result<Self> {
        let (serving, tasks) = Serving::new();
        for &address in addresses {
            let tasks = tasks.clone();
            host.block_on(serve(address, identity, None, tasks))
                .with_context(|| format!("serving HTTP at {address} on host {}", host.name()))?;
        }
        Ok(Self(serving))
    }

    /// As [`HttpServer::start`], in the network and the runtime of the caller; some answers may be slow.
    pub async fn start_here(
        identity: Identity,
        addresses: &[SocketAddr],
        slow: Option<Slow>,
    ) -> Result<Self> {
        let (serving, tasks) = Serving::new();
        for &address in addresses {
            serve(address, identity, slow, tasks.clone())
                .await
                .with_context(|| format!("serving HTTP at {address}"))?;
        }
        Ok(Self(serving))
    }

    /// Stops listening, ends all connections, and returns when that is done.
    pub fn end(self) {
        self.0.end();
    }
}

async fn serve(
    address: SocketAddr,
    identity: Identity,
    slow: Option<Slow>,
    tasks: Tasks,
) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .context("listening on TCP")?;
    tasks.spawn(accept(listener, identity, slow, tasks.clone()));
    Ok(())
}

async fn accept(listener: TcpListener, identity: Identity, slow: Option<Slow>, tasks: Tasks) {
    let mut connections = 0_u64;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections += 1;
                let slow = slow.filter(|slow| connections.is_multiple_of(slow.every));
                let delay = slow.map_or(Duration::ZERO, |slow| slow.by);
                tasks.spawn(answer_requests(stream, identity, delay));
            }
            // The connection ended before it was accepted, or descriptors are short for a moment.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Answers until the client closes; what went wrong is the client's to notice.
async fn answer_requests(stream: TcpStream, identity: Identity, delay: Duration) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |_: Request<Incoming>| async move {
        tokio::time::sleep(delay).await;
        Ok::<_, Infallible>(respond(identity))
    });
    let connection = hyper::server::conn::http1::Builder::new();
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn respond(identity: Identity) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{identity}\n"))));
    let color = HeaderValue::from_static(identity.color.name());
    response.headers_mut().insert("x-color", color);
    response
        .headers_mut()
        .insert("x-backend", HeaderValue::from(identity.backend));
    response
}
