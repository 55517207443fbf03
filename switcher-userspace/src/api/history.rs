//! What has changed on a node: `GET /v1/history`, and `GET /v1/events` as it happens.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroUsize};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::Color;

use super::{
    Peer,
    types::{ApiError, DrainStatus, RemovedListenerStatus},
};

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
