//! The wire format of `GET /v1/flows/{service}`.

use std::{net::SocketAddr, num::NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, Protocol};

use super::types::ApiError;

/// Flows that are listed where a request does not say how many.
pub const DEFAULT_FLOWS: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// `GET /v1/flows/{service}?color=blue&limit=10`: which flows to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowsRequest {
    /// Flows of this color alone; absent: of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
    /// So many at most; absent: [`DEFAULT_FLOWS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<NonZeroU32>,
}

impl FlowsRequest {
    /// How many flows are listed at most.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_FLOWS).get()
    }
}

/// A line of the answer. The list is not a picture of one moment: flows that begin, end or change tables
/// meanwhile may be missing, or be there twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FlowsLine {
    /// A flow.
    Flow(Box<FlowStatus>),
    /// The last line of a list.
    End {
        /// How many flows were listed.
        flows: u64,
        /// `false`: the limit was reached, there are more.
        complete: bool,
    },
    /// The last line of a list that broke off.
    Failed {
        /// Why.
        error: ApiError,
    },
}

/// A flow in [`FlowsLine`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowStatus {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client's endpoint.
    pub client: SocketAddr,
    /// The virtual endpoint that it talks to.
    pub vip: SocketAddr,
    /// The listener; `null` for one that is configured no more.
    pub listener: Option<String>,
    /// The color that it is pinned to.
    pub color: Color,
    /// The backend that it is pinned to.
    pub backend: SocketAddr,
    /// `unanswered`, `answered`, `established`, `closing`, `refused` or `cut`.
    pub state: String,
    /// Of a preview listener.
    pub preview: bool,
    /// It was recorded in the middle of a stream (G9).
    pub unpinned: bool,
    /// It is cut, by its state or by an order that has come due: no packet of it is sent on.
    pub cut: bool,
    /// Table of the entry of the client's packets, `established` or `unanswered`; `null`: it is missing.
    pub forward_table: Option<String>,
    /// The same of the backend's packets.
    pub reverse_table: Option<String>,
    /// Time since it began.
    pub age_ms: u64,
    /// Time since its newest packet in either direction.
    pub silent_ms: u64,
}
