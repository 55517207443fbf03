//! The wire format of `GET /v1/preview`.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, Protocol};

use super::types::BackendStatus;

/// `GET /v1/preview?service=web`: whose preview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewQuery {
    /// The service. One without a preview listener is refused.
    pub service: String,
}

/// `GET /v1/preview`: where the standby can be tried, and whether it could become active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewReply {
    /// The service.
    pub service: String,
    /// Its active color.
    pub active: Color,
    /// Its standby color, which the preview shows.
    pub standby: Color,
    /// Generation of its own newest change: a flip with it as `if_generation` makes active what was previewed.
    pub generation: u64,
    /// Live flows of its preview listeners at the newest scan.
    pub preview_flows: u64,
    /// Its preview listeners: where clients reach the standby now. At least one.
    pub previews: Vec<PreviewListener>,
    /// Its other listeners: what of the standby a flip would make active.
    pub listeners: Vec<PreviewListener>,
    /// Whether the gate (G6) would let a flip to the standby pass.
    pub passes_gate: bool,
    /// Why it would not.
    pub obstacle: Option<GateObstacle>,
}

/// A listener with its backends of the standby, in [`PreviewReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewListener {
    /// Its name.
    pub name: String,
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its backends of the standby.
    pub backends: Vec<PreviewBackend>,
}

/// A backend in [`PreviewListener`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewBackend {
    /// As `GET /v1/status` shows it.
    #[serde(flatten)]
    pub status: BackendStatus,
    /// It may get fresh flows.
    pub eligible: bool,
}

/// The first listener that has too few eligible backends, in [`PreviewReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GateObstacle {
    /// The listener.
    pub listener: String,
    /// How many it has of the standby.
    pub eligible: u64,
    /// How many it needs.
    pub min_healthy: u32,
}
