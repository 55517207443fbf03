//! The API: HTTP/JSON on a Unix socket. Only this module knows HTTP and the wire format.
//!
//! The agent implements [`Control`] and hands it to [`server::serve`]; the CLI calls
//! [`client::Client`]; [`types`] is what both exchange.

pub mod check;
pub mod client;
pub mod events;
pub mod explain;
pub mod failover;
mod flow_list;
pub mod flows;
pub mod history;
pub mod instant;
mod openapi;
pub mod preview;
pub mod requests;
mod router;
mod routes;
pub mod server;
mod socket;
mod stall;
mod stop;
mod stream;
pub mod trace;
pub mod types;
mod watch;

use std::{fmt, future::Future, time::Duration};

use tokio::sync::{mpsc, watch::Receiver};

use self::{
    events::EventFeed,
    explain::{ExplainQuestion, Explanation},
    flows::{FlowsLine, FlowsRequest},
    history::{HistoryQuery, HistoryReply},
    preview::{PreviewQuery, PreviewReply},
    requests::{ApplyRequest, ChangeRequest},
    trace::{TraceFeed, TraceRequest},
    types::{ApiError, ChangeReply, DrainStatus, StatusReply, VersionReply},
};

/// What the agent does for the API.
///
/// The server checks form ([`check::change`], [`ExplainQuestion::check`]) and bounds time; everything else is decided here.
/// A read that takes longer than [`ANSWER_DEADLINE`] is dropped at an await; a change never is: it
/// runs to its end also when its client leaves.
pub trait Control: Send + Sync + 'static {
    /// The agent's version; answered also while the agent is busy.
    fn version(&self) -> VersionReply;

    /// Everything that `switcher status` shows.
    fn status(&self) -> impl Future<Output = Result<StatusReply, ApiError>> + Send;

    /// Where packets of a 5-tuple would go now; changes nothing. A handful of system calls.
    fn explain(&self, question: &ExplainQuestion) -> Result<Explanation, ApiError>;

    /// What has changed.
    fn history(&self, question: &HistoryQuery) -> Result<HistoryReply, ApiError>;

    /// What changes from now on, or since the entry of a number.
    fn events(&self, after: Option<u64>) -> EventFeed;

    /// A service's preview, with what a scan that is young enough saw of its flows.
    fn preview(
        &self,
        question: &PreviewQuery,
    ) -> impl Future<Output = Result<PreviewReply, ApiError>> + Send;

    /// The flows of a service, line by line; a reader that is slow holds up nobody else. Ends when the
    /// channel is dropped.
    fn flows(
        &self,
        service: &str,
        request: &FlowsRequest,
    ) -> Result<mpsc::Receiver<FlowsLine>, ApiError>;

    /// Begins to tell of packets; ready when the program does so. Ends when the feed is dropped.
    fn trace(
        &self,
        request: TraceRequest,
    ) -> impl Future<Output = Result<TraceFeed, ApiError>> + Send;

    /// Changes what `request` says. A failure is told in [`ChangeReply::error`], beside the generation
    /// and active colors as they are.
    fn change(
        &self,
        request: ChangeRequest,
        peer: Peer,
    ) -> impl Future<Output = ChangeReply> + Send;

    /// Makes another configuration the running one, as a whole or not at all. The answer has the active
    /// colors of all services, and the difference.
    fn apply(&self, request: ApplyRequest, peer: Peer) -> impl Future<Output = ChangeReply> + Send;

    /// The drain of `service` that runs, or the newest one that ended; `None`: none ran yet.
    fn drain(
        &self,
        service: &str,
    ) -> impl Future<Output = Result<Option<DrainStatus>, ApiError>> + Send;

    /// The status as far as it is known without looking, as a channel that tells each change: of
    /// `services`, or of all. What a change did, such as its drain, must be in it before
    /// [`Control::change`] returns, so that a client that flips and then watches finds it.
    fn watch_status(&self, services: Option<&[String]>) -> Result<Receiver<StatusReply>, ApiError>;
}

/// Who is on the other side of a connection, as the kernel says (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; absent when the process lives in a pid namespace that this one does not see.
    pub pid: Option<i32>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)?;
        match self.pid {
            Some(pid) => write!(f, " pid {pid}"),
            None => Ok(()),
        }
    }
}

/// Longest time from a complete request to its answer.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(8);
/// A watcher hears something at least this often, so that a dead agent is noticed.
pub const WATCH_HEARTBEAT: Duration = Duration::from_secs(5);
/// Largest body of a request in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Largest body of an apply in bytes: ten thousand listeners with hundreds of backends each fit.
pub const MAX_APPLY_BYTES: usize = 16 * 1024 * 1024;
