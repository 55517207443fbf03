//! The color that a release updates.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use switcher_common::service::{Color, Protocol};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::api::types::{ApiError, ErrorCode, ServiceStatus};

/// How long one attempt to connect to a backend may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two attempts: nothing tells when a process begins to listen on another host.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Refuses a service whose standby is in use.
pub(super) fn may_begin(service: &ServiceStatus) -> Result<(), ApiError> {
    let (name, standby) = (&service.name, service.standby.name());
    let drains = service
        .drain
        .as_ref()
        .is_some_and(|drain| drain.ended.is_none());
    let refused =
        |why: String, next_step: &str| Err(ApiError::new(ErrorCode::Refused, why, next_step));
    if drains {
        return refused(
            format!(
                "look: {standby}, the standby of {name}, still has connections that are to end"
            ),
            "wait with `switcher drain SERVICE --wait`, or end it with --finish-now",
        );
    }
    if service.split_percent > 0 {
        return refused(
            format!(
                "look: {} % of the clients of {name} go to {standby}, the standby",
                service.split_percent
            ),
            "`switcher abort` or `switcher promote` first",
        );
    }
    is_decided(service)
}

/// Refuses a service whose newest flip may yet be taken back.
pub(super) fn is_decided(service: &ServiceStatus) -> Result<(), ApiError> {
    if service.confirm_until_at.is_none() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Refused,
        format!(
            "look: the newest flip of {} waits for its confirmation",
            service.name
        ),
        "`switcher confirm` or `switcher rollback` first",
    ))
}

/// Refuses to go on with `standby` unless it is `expected`.
pub(super) fn refuse_other(standby: &Standby, expected: Color) -> Result<(), ApiError> {
    if standby.color == expected {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Conflict,
        format!(
            "look: {} is active, {} was expected",
            expected.name(),
            standby.color.name()
        ),
        "somebody else has flipped: look at `switcher history`",
    ))
}

/// The color that is updated.
pub(super) struct Standby {
    pub(super) color: Color,
    backends: BTreeSet<SocketAddr>,
    /// Those that listen on TCP.
    tcp: BTreeSet<SocketAddr>,
    previews: BTreeSet<SocketAddr>,
    /// After which health tells of a change; absent: backends are not checked.
    pub(super) health_settles: Option<Duration>,
}

impl Standby {
    pub(super) fn of(service: &ServiceStatus) -> Self {
        let color = service.standby;
        let mut standby = Self {
            color,
            backends: BTreeSet::new(),
            tcp: BTreeSet::new(),
            previews: BTreeSet::new(),
            health_settles: service.health_settles_ms.map(Duration::from_millis),
        };
        for listener in &service.listeners {
            if listener.preview {
                standby
                    .previews
                    .insert((listener.vip, listener.port).into());
            }
            for backend in listener.backends.get(color) {
                let endpoint = SocketAddr::from((backend.address, backend.port));
                standby.backends.insert(endpoint);
                if listener.protocol == Protocol::Tcp && !backend.drained {
                    standby.tcp.insert(endpoint);
                }
            }
        }
        standby
    }

    pub(super) fn variables(&self, service: &str) -> [(&'static str, String); 4] {
        let list = |endpoints: &BTreeSet<SocketAddr>| {
            let each: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            each.join(" ")
        };
        [
            ("SWITCHER_SERVICE", service.to_owned()),
            ("SWITCHER_COLOR", self.color.name().to_owned()),
            ("SWITCHER_BACKENDS", list(&self.backends)),
            ("SWITCHER_PREVIEW", list(&self.previews)),
        ]
    }

    /// Waits until each TCP backend accepts a connection.
    pub(super) async fn is_ready(&self, limit: Duration) -> Result<(), ApiError> {
        let mut missing = self.tcp.clone();
        let all = async {
            while !missing.is_empty() {
                for endpoint in missing.clone() {
                    let connected = timeout(CONNECT_LIMIT, TcpStream::connect(endpoint)).await;
                    if matches!(connected, Ok(Ok(_))) {
                        missing.remove(&endpoint);
                    }
                }
                if !missing.is_empty() {
                    sleep(CONNECT_PAUSE).await;
                }
            }
        };
        if timeout(limit, all).await.is_ok() {
            return Ok(());
        }
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        Err(ApiError::new(
            ErrorCode::Refused,
            format!(
                "ready: within {limit:?} no connection to {} of {}",
                missing.join(", "),
                self.color.name()
            ),
            "start what listens there, or take it out of the configuration, then repeat the command",
        ))
    }
}
