//! The server's loop: accepts connections, bounds each, stops when it is told to.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

pub use super::socket::ApiSocket;
use super::{
    Control, Peer,
    router::router,
    routes::{self, Shared},
    stall::StallGuard,
    stop::{self, Stop},
};

/// Connections that are served at once; further ones are refused with an answer.
pub const MAX_CONNECTIONS: usize = 256;
/// Connections that are refused with an answer at once; further ones are closed without.
const MAX_REFUSALS: usize = 32;
/// Longest time for a request's head, and longest idle time between requests.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Longest time in which a client takes nothing of its answer.
pub const WRITE_STALL: Duration = Duration::from_secs(10);
/// Time that running requests have to finish when the server stops.
const STOP_GRACE: Duration = Duration::from_millis(1_500);
/// Largest head of a request, and largest unsent part of an answer, per connection.
const BUFFER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// Pause after a failed accept (no free file descriptor): there is no event to wait for.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `control` on `socket` until `shutdown` is ready; then the socket's file is removed,
/// watchers are told goodbye, and running requests get 1.5 s to finish.
pub async fn serve<C: Control>(
    socket: ApiSocket,
    control: Arc<C>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (stopper, stop) = stop::pair();
    let (changes, mut running_changes) = mpsc::channel::<Infallible>(1);
    let acceptor = Acceptor {
        router: router(Shared::new(control, stop.clone(), changes)),
        slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        refusing: routes::refusing(MAX_CONNECTIONS),
        refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
        stop,
    };
    let mut connections = JoinSet::new();
    acceptor.run(&socket, &mut connections, shutdown).await;

    drop(socket);
    drop(acceptor);
    stopper.stop();
    let deadline = Instant::now() + STOP_GRACE;
    if timeout_at(deadline, join_all(&mut connections))
        .await
        .is_err()
    {
        tracing::warn!(open = connections.len(), "API connections are cut off");
        connections.shutdown().await;
    }
    if timeout_at(deadline, running_changes.recv()).await.is_err() {
        tracing::warn!("a change still runs while the API stops");
    }
}

async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

struct Acceptor {
    router: Router,
    slots: Arc<Semaphore>,
    /// For connections beyond the slots.
    refusing: Router,
    refusals: Arc<Semaphore>,
    stop: Stop,
}

impl Acceptor {
    async fn run(
        &self,
        socket: &ApiSocket,
        connections: &mut JoinSet<()>,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "an API connection failed");
                    }
                }
                accepted = socket.listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(stream, connections),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept an API connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn admit(&self, stream: UnixStream, connections: &mut JoinSet<()>) {
        let (slot, router) = if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            (slot, &self.router)
        } else if let Ok(slot) = self.refusals.clone().try_acquire_owned() {
            (slot, &self.refusing)
        } else {
            return tracing::warn!("an API connection was closed: too many are refused already");
        };
        let peer = match peer(&stream) {
            Ok(peer) => peer,
            Err(error) => return tracing::warn!(%error, "cannot tell who connected to the API"),
        };
        let connection = serve_connection(stream, peer, router.clone(), self.stop.clone());
        connections.spawn(hold(slot, connection));
    }
}

async fn hold(slot: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(slot);
}

fn peer(stream: &UnixStream) -> std::io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    Ok(Peer {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: credentials.pid(),
    })
}

async fn serve_connection(stream: UnixStream, peer: Peer, router: Router, mut stop: Stop) {
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(StallGuard::new(stream, WRITE_STALL)), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // A client that leaves or stalls is its own business.
        tracing::debug!(%peer, %error, "an API connection ended early");
    }
}
