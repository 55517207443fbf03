//! The wire format: JSON bodies of the API, and the exit codes that follow from them.
//!
//! Durations are integers in `_ms`, instants RFC 3339 UTC in `_at`.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, PerColor, Protocol};

use super::failover::FailoverStatus;
use crate::{
    config::difference::Difference,
    failover::Health,
    switching::{AtDeadline, Origin},
};

/// What an answer that is not a success says. Serialized as `error` of every failed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Class of the failure; decides the CLI's exit code and the HTTP status.
    pub code: ErrorCode,
    /// What was attempted, on what, what was found, what was expected.
    pub message: String,
    /// What the caller can do now.
    pub next_step: String,
}

/// Classes of failure; each is one exit code of the CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 1: a defect or an unforeseen state of the system.
    Internal,
    /// 2: the request does not make sense.
    Usage,
    /// 3: a gate said no.
    Refused,
    /// 4: a condition such as `--if-generation` does not hold.
    Conflict,
    /// 5: waiting took too long; the change itself stands.
    Timeout,
    /// 6: no agent answers.
    Unreachable,
    /// 7: no such service, listener or backend.
    NotFound,
    /// 8: the data path failed or has another version.
    DataPath,
    /// 9: the caller may not.
    Permission,
}

impl ApiError {
    /// An error of class `code`.
    pub fn new(code: ErrorCode, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            next_step: next_step.into(),
        }
    }
}

impl ErrorCode {
    /// The CLI's exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Conflict => 4,
            Self::Timeout => 5,
            Self::Unreachable => 6,
            Self::NotFound => 7,
            Self::DataPath => 8,
            Self::Permission => 9,
        }
    }

    /// Whether a changing verb that ended with it has changed nothing (G5).
    #[must_use]
    pub const fn promises_no_change(self) -> bool {
        !matches!(self, Self::Internal | Self::Timeout | Self::Unreachable)
    }

    /// The HTTP status of an answer with this code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Internal => 500,
            Self::Usage => 400,
            Self::Refused => 422,
            Self::Conflict => 409,
            Self::Timeout => 504,
            Self::Unreachable => 503,
            Self::NotFound => 404,
            Self::DataPath => 502,
            Self::Permission => 403,
        }
    }
}

/// The answer to a changing verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeReply {
    /// Whether anything changed; `false` when it was already so, or on a dry run.
    pub changed: bool,
    /// The node's generation after the request.
    pub generation: u64,
    /// Active color of each named service after the request.
    pub active: BTreeMap<String, Color>,
    /// On a dry run: what would have changed. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_change: Option<bool>,
    /// Microseconds from the request's arrival to the store that made the change visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_us: Option<u64>,
    /// Microseconds from the request's arrival to the end of the barrier (G3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barrier_us: Option<u64>,
    /// Milliseconds from a drill's arrival to the store that made its failover visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_ms: Option<u64>,
    /// What an apply has changed of the configuration, or would. Absent in answers to other verbs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<Box<Difference>>,
    /// Set when the request failed. Then `changed` is `false`, but where the change stands all the
    /// same: the disk refused it (`internal`), or waiting for the drains took too long (`timeout`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// The answer to a changing verb that failed where the node's state may not be known: before the
/// agent read the request, or because no agent answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeFailure {
    /// `false`; `null` when nobody knows (the request was sent, no answer came).
    #[serde(default = "unchanged")]
    pub changed: Option<bool>,
    /// The node's generation, where known.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Active color of each named service, where known.
    #[serde(default)]
    pub active: BTreeMap<String, Color>,
    /// Why.
    pub error: ApiError,
}

// An answer without the field is one that was given before anything was tried.
#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn unchanged() -> Option<bool> {
    Some(false)
}

impl From<ApiError> for ChangeFailure {
    /// A failure that changed nothing, on a node whose state is not known.
    fn from(error: ApiError) -> Self {
        Self {
            changed: Some(false),
            generation: None,
            active: BTreeMap::new(),
            error,
        }
    }
}

/// The answer to any other request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Why.
    pub error: ApiError,
}

/// `GET /v1/version`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionReply {
    /// Version of the agent.
    pub agent: String,
    /// Version of the maps' layout that agent and program share.
    pub layout: u32,
}

/// `GET /v1/status`, and each line of `GET /v1/status/watch?services=web,api`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusReply {
    /// The agent.
    pub agent: AgentStatus,
    /// Newest committed change of the node.
    pub generation: u64,
    /// All services, by name, or those that were asked for.
    pub services: Vec<ServiceStatus>,
    /// Listeners that are configured no more, and whose last flows still run.
    #[serde(default)]
    pub removed: Vec<RemovedListenerStatus>,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets by verdict and reason since the data path was loaded; the ones that occurred.
    pub verdicts: Vec<VerdictCount>,
    /// Frames lost after their verdict; `null` where the kernel does not let them be counted.
    pub send_errors: Option<SendErrorStatus>,
    /// How full the flow tables are.
    pub tables: TableStatus,
}

/// The agent's part of [`StatusReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: String,
    /// Whether it took over a data path that was already there.
    pub adopted: bool,
}

/// A service in [`StatusReply`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The active color.
    pub active: Color,
    /// The standby color.
    pub standby: Color,
    /// Color of packets without a pin in the middle of a stream (G9).
    pub base: Color,
    /// Generation of its own newest change.
    pub generation: u64,
    /// How its active color came to be so; `null`: it never had another, as far as is known.
    #[serde(default)]
    pub newest_change: Option<NewestChange>,
    /// Until when its newest flip waits for a confirmation; `null`: it does not.
    #[serde(default)]
    pub confirm_until_at: Option<String>,
    /// Share of the clients, in percent, whose fresh flows go to the standby.
    #[serde(default)]
    pub split_percent: u8,
    /// Pauses that have not ended.
    #[serde(default)]
    pub pauses: Vec<PauseStatus>,
    /// Live flows, preview left out, at the newest scan.
    pub in_flight: PerColor<u64>,
    /// Live flows of preview listeners at the newest scan.
    pub preview_flows: u64,
    /// Traffic since the data path was loaded.
    pub traffic: PerColor<TrafficCount>,
    /// The drain that runs, or the newest one that ended.
    pub drain: Option<DrainStatus>,
    /// So long after a backend has failed or come back at the latest, its health says so; `null`: backends are
    /// not checked, their health is `unknown` and does not count.
    #[serde(default)]
    pub health_settles_ms: Option<u64>,
    /// Whether and when the agent changes its active color by itself; `null`: never.
    #[serde(default)]
    pub failover: Option<FailoverStatus>,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
}

/// How an active color came to be so, in [`ServiceStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewestChange {
    /// By what.
    pub by: Origin,
    /// The color that was active before.
    pub from: Color,
    /// The gate was not asked.
    pub forced: bool,
}

/// A pause in [`ServiceStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PauseStatus {
    /// The listener; `null`: all of the service.
    pub listener: Option<String>,
    /// When it ends by itself.
    pub until_at: String,
    /// Every packet is dropped, not only what begins a flow.
    pub hard: bool,
}

/// Traffic of one color of a service, both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficCount {
    /// Packets that were rewritten.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
    /// Flows that were recorded.
    pub new_flows: u64,
    /// Packets in the middle of a stream without a pin (G9).
    pub unpinned_packets: u64,
}

/// A listener in [`ServiceStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always selects the standby.
    pub preview: bool,
    /// Backends per color.
    pub backends: PerColor<Vec<BackendStatus>>,
}

/// A listener that is configured no more: what is of its flows goes on, and everything else to it is
/// dropped, until none of its flows is live or its time is over. Then its place is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RemovedListenerStatus {
    /// Its service.
    pub service: String,
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// It always selected the standby.
    pub preview: bool,
    /// Its live flows at the newest full scan; `null` until the first one.
    pub in_flight: Option<u64>,
    /// When it ends at the latest: its service's `drain_timeout` after it was removed.
    pub until_at: String,
    /// What happens then to the flows that are left; a preview's are kept.
    pub at_deadline: AtDeadline,
    /// How it ended: `drained`, or `deadline` with the flows that were left in `in_flight`; `null` while it is
    /// still known.
    pub ended: Option<DrainEnd>,
}

/// A backend in [`ListenerStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight.
    pub weight: u16,
    /// `unknown`, `healthy` or `unhealthy`; `unknown` without a check.
    pub health: Health,
    /// Taken out by hand: no fresh flows.
    pub drained: bool,
}

/// An interface in [`StatusReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether the program may redirect frames to it, or they go through the stack; `null` when the
    /// kernel does not tell (before 6.3, then it is assumed) or the interface is not there.
    #[serde(default)]
    pub takes_redirects: Option<bool>,
}

/// Packets with one verdict and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictCount {
    /// What happened: `tx`, `redirect`, `pass`, `drop`, or `note` for what was counted beside a verdict.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// How often.
    pub packets: u64,
}

/// Frames that were lost after a program's verdict, since the data path was loaded. The kernel tells
/// of the XDP programs of the whole node, in all network namespaces, not of the switcher's alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SendErrorStatus {
    /// Redirects that the kernel refused: the interface is gone or down, takes no redirected frames,
    /// or the frame is too large for it.
    pub redirect_refused: u64,
    /// Redirected frames that the outgoing interface's driver did not take.
    pub redirect_dropped: u64,
    /// Frames sent back out of the interface they came in by that its driver did not take.
    pub transmit_dropped: u64,
}

/// Flow tables at the newest scan, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableStatus {
    /// Entries of the established tables; a flow has two.
    pub established_entries: u64,
    /// Their capacity.
    pub established_capacity: u64,
    /// Entries of the unanswered tables; a flow has two.
    pub unanswered_entries: u64,
    /// Their capacity.
    pub unanswered_capacity: u64,
    /// Entries of unanswered flows that were evicted since the data path was loaded, to make room for
    /// newer ones: inserted − removed − present.
    #[serde(default)]
    pub evicted_entries: u64,
}

/// `GET /v1/drain/{service}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrainReply {
    /// The drain that runs, or the newest one that ended; `null`: none ran yet.
    pub drain: Option<DrainStatus>,
}

/// A drain: in [`ServiceStatus`] and [`DrainReply`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrainStatus {
    /// The service.
    pub service: String,
    /// The color that drains or drained.
    pub color: Color,
    /// Generation of the flip that began it.
    pub generation: u64,
    /// Live flows of the color at the newest full scan; `null` until the first one after the barrier.
    pub in_flight: Option<u64>,
    /// When it began.
    pub started_at: String,
    /// When it ends at the latest.
    pub deadline_at: String,
    /// What happens then to the flows that are left.
    pub at_deadline: AtDeadline,
    /// How it ended; `null` while it runs.
    pub ended: Option<DrainEnd>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// How long it took, or has taken so far.
    pub elapsed_ms: u64,
    /// Flows that were live at the deadline and live on.
    pub flows_left: Option<u64>,
    /// TCP flows that were cut at the deadline.
    pub flows_reset: Option<u64>,
    /// Of these, the ones that were silent then: the agent sent both sides a RST, where it may, and
    /// each side gets one in answer to its next packet in any case.
    pub flows_silent: Option<u64>,
    /// UDP flows that were made to select afresh.
    pub flows_moved: Option<u64>,
    /// When the first fresh flow began on the other color, while the drain ran; `null`: none has yet, or
    /// none did.
    #[serde(default)]
    pub first_new_flow_at: Option<String>,
    /// When the newest packet of the color came, in either direction, previews left out; it may have come
    /// before the drain began. Up to 10 ms too early: the program reads the kernel's coarse clock. `null`:
    /// none came since the data path was loaded, or not known yet.
    #[serde(default)]
    pub last_old_packet_at: Option<String>,
    /// Flows of the color that were in flight after the barrier and ended by themselves, so far: closed by
    /// both sides, reset by one, or silent for too long. With `flows_reset`, `flows_moved` and
    /// `flows_left` these are the flows that were in flight at the barrier, and those that were taken up
    /// in the middle of a stream since then (at most `unpinned_packets`). Half-open flows that a flood has
    /// pushed out of their table are in none of these, and what ends while the last scan runs may be
    /// counted as finished and as left. `null` until the first scan after the barrier.
    #[serde(default)]
    pub flows_finished: Option<u64>,
    /// Packets of the color in the middle of a stream without a pin (G9) since the barrier, so far: each
    /// pinned its flow. `null` until the first scan after the barrier.
    #[serde(default)]
    pub unpinned_packets: Option<u64>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainEnd {
    /// A full scan found no live flow of the color.
    Drained,
    /// The deadline passed; what was left is in `flows_left`.
    Deadline,
    /// As [`Self::Deadline`], which was set by hand.
    FinishedNow,
}
