//! What has changed on a node: `GET /v1/history`, and `GET /v1/events` as it happens.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroUsize};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, PerColor};

use super::{
    Peer,
    types::{ApiError, DrainStatus, RemovedListenerStatus},
};
use crate::failover::{AlarmKind, Cause, Fitness, ListenerCount};

/// Entries that are kept, in memory and at least so many on disk.
pub const MAX_ENTRIES: usize = 1_000;

/// One change. Requests that changed nothing leave none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// Grows by one with each entry, over restarts too.
    pub number: u64,
    /// When.
    pub at: String,
    /// The verb, or what the agent did by itself.
    pub what: What,
    /// Of these services.
    pub services: Vec<String>,
    /// Who asked, as the kernel says; `null`: the agent by itself.
    pub by: Option<Who>,
    /// Why, as it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The node's generation before.
    pub from_generation: u64,
    /// The node's generation after.
    pub generation: u64,
    /// Active color of each of the services after.
    pub active: BTreeMap<String, Color>,
    /// The end of a drain: its receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
    /// The listeners whose removal has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<RemovedListenerStatus>,
    /// The backend whose health has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthEntry>,
    /// What an automated change, a drill or an alarm was decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceEntry>,
    /// Which alarm was raised or cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<AlarmKind>,
    /// What failed: the change stands, but would not survive a reboot; or why the agent did not do
    /// what was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// A change of a backend's health, in [`HistoryEntry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthEntry {
    /// Its address and port.
    pub backend: SocketAddr,
    /// Whether it can serve from now on.
    pub is_healthy: bool,
    /// Where it was taken out of its tables because it refused a connection: the time in milliseconds, rounded up, from
    /// when the program saw the refusal to the store that took it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_to_ejected_ms: Option<u64>,
}

/// What a decision was made on, in [`HistoryEntry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceEntry {
    /// Why a change was due; `null`: none was.
    pub cause: Option<Cause>,
    /// The color that was active.
    pub active: Color,
    /// What was known of each color.
    pub sides: PerColor<SideEntry>,
}

/// A color as it was seen, in [`EvidenceEntry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SideEntry {
    /// Whether it could serve.
    pub fitness: Fitness,
    /// Since when it was so.
    pub since_at: String,
    /// The listener that decided; `null`: the service has none but previews.
    pub listener: Option<ListenerCount>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// `flip`
    Flip,
    /// `rollback`
    Rollback,
    /// `confirm`
    Confirm,
    /// `split`
    Split,
    /// `promote`
    Promote,
    /// `abort`
    Abort,
    /// `pause`
    Pause,
    /// `resume`
    Resume,
    /// `drain --extend`
    ExtendDrain,
    /// `drain --finish-now`
    FinishDrain,
    /// `backend drain`
    DrainBackend,
    /// `backend resume`
    ResumeBackend,
    /// `apply`, or SIGHUP: another configuration
    Apply,
    /// A flip was not confirmed in time: taken back, or, with an error, not.
    Unconfirmed,
    /// A pause has ended by itself.
    PauseEnded,
    /// A drain has ended.
    DrainEnded,
    /// Listeners that an apply had removed are known no more.
    RemovalEnded,
    /// A backend has become unhealthy, or healthy again.
    Health,
    /// The agent has left a color that could not serve any more.
    Failover,
    /// The agent has gone back to a color that it had left.
    Failback,
    /// A flip that waited for its confirmation was taken back, as its color could not serve any more; or,
    /// with an error, not.
    Revert,
    /// Something is due that the agent does not do.
    AlarmRaised,
    /// An alarm is over.
    AlarmCleared,
    /// `failover enable`
    FailoverEnabled,
    /// `failover disable`
    FailoverDisabled,
    /// `failover drill`: the failover
    Drill,
    /// A drill's failover was undone; or, with an error, stands.
    DrillEnded,
}

impl What {
    /// As the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flip => "flip",
            Self::Rollback => "rollback",
            Self::Confirm => "confirm",
            Self::Split => "split",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::ExtendDrain => "extend_drain",
            Self::FinishDrain => "finish_drain",
            Self::DrainBackend => "drain_backend",
            Self::ResumeBackend => "resume_backend",
            Self::Apply => "apply",
            Self::Unconfirmed => "unconfirmed",
            Self::PauseEnded => "pause_ended",
            Self::DrainEnded => "drain_ended",
            Self::RemovalEnded => "removal_ended",
            Self::Health => "health",
            Self::Failover => "failover",
            Self::Failback => "failback",
            Self::Revert => "revert",
            Self::AlarmRaised => "alarm_raised",
            Self::AlarmCleared => "alarm_cleared",
            Self::FailoverEnabled => "failover_enabled",
            Self::FailoverDisabled => "failover_disabled",
            Self::Drill => "drill",
            Self::DrillEnded => "drill_ended",
        }
    }
}

/// Who asked for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Who {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id, where it can be seen.
    pub pid: Option<i32>,
}

impl From<Peer> for Who {
    fn from(peer: Peer) -> Self {
        Self {
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
        }
    }
}

/// Which entries, in the query of `GET /v1/history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// At most so many, the newest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<NonZeroUsize>,
}

/// `GET /v1/history`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryReply {
    /// The newest first.
    pub entries: Vec<HistoryEntry>,
}
