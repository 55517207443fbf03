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
use tokio_util::sync::{CancellationToken, DropGuard};

use super::identity::Identity;
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
pub struct HttpServer {
    stop: CancellationToken,
    _guard: DropGuard,
}

impl HttpServer {
    /// Serves HTTP on each of `addresses` of `host`; ready when this returns.
    pub fn start(host: &Host, identity: Identity, addresses: &[SocketAddr]) -> Result<Self> {
        let stop = CancellationToken::new();
        for &address in addresses {
            let stop = stop.clone();
            host.block_on(serve(address, identity, None, stop))
                .with_context(|| format!("serving HTTP at {address} on host {}", host.name()))?;
        }
        Ok(Self {
            _guard: stop.clone().drop_guard(),
            stop,
        })
    }

    /// As [`HttpServer::start`], in the network and the runtime of the caller; some answers may be slow.
    pub async fn start_here(
        identity: Identity,
        addresses: &[SocketAddr],
        slow: Option<Slow>,
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        for &address in addresses {
            serve(address, identity, slow, stop.clone())
                .await
                .with_context(|| format!("serving HTTP at {address}"))?;
        }
        Ok(Self {
            _guard: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Stops listening and ends all connections.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn serve(
    address: SocketAddr,
    identity: Identity,
    slow: Option<Slow>,
    stop: CancellationToken,
) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .context("listening on TCP")?;
    let accepting = accept(listener, identity, slow, stop.clone());
    tokio::spawn(stop.run_until_cancelled_owned(accepting));
    Ok(())
}

async fn accept(
    listener: TcpListener,
    identity: Identity,
    slow: Option<Slow>,
    stop: CancellationToken,
) {
    let mut connections = 0_u64;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections += 1;
                let slow = slow.filter(|slow| connections.is_multiple_of(slow.every));
                let delay = slow.map_or(Duration::ZERO, |slow| slow.by);
                let serving = answer_requests(stream, identity, delay);
                tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
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
