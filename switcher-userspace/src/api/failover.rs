//! Automated failover in a service's status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::Color;

use crate::failover::{AlarmKind, StayReason};

/// Automated failover of a service, in [`ServiceStatus`](super::types::ServiceStatus).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailoverStatus {
    /// Whether the agent changes the active color by itself.
    pub enabled: bool,
    /// Who has switched it off; `null`: nobody.
    pub switched_off_by: Option<SwitchedOffBy>,
    /// What it would do if it were asked now, and why not more.
    pub now: FailoverOutlook,
    /// The same if the active color failed now.
    pub if_active_failed: FailoverOutlook,
    /// Since the newest automated change the agent makes no further one until then; `null`: none is that
    /// recent.
    pub hold_down_until_at: Option<String>,
    /// Automated changes that this hour has left.
    pub flips_left: u32,
    /// The alarm that stands; `null`: none.
    pub alarm: Option<AlarmStatus>,
    /// The drill whose failover is going to be undone; `null`: none.
    pub drill: Option<DrillStatus>,
}

/// Who has switched failover off, in [`FailoverStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SwitchedOffBy {
    /// `enabled = false` of `[service.failover]`.
    Configuration,
    /// `switcher failover disable`.
    Operator,
}

/// What the policy would do, in [`FailoverStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailoverOutlook {
    /// That.
    pub action: FailoverAction,
    /// Why the active color stays; `null` where it does not.
    pub why: Option<StayReason>,
    /// When that ends by itself; `null`: it does not, or nothing forbids a change.
    pub until_at: Option<String>,
}

/// What the policy may do, in [`FailoverOutlook`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailoverAction {
    /// Nothing.
    Stay,
    /// The standby becomes active.
    FailOver,
    /// The flip that awaits its confirmation is taken back.
    Revert,
    /// The standby's share of the clients ends.
    EndSplit,
}

/// An alarm that stands, in [`FailoverStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AlarmStatus {
    /// Which.
    pub kind: AlarmKind,
    /// In words.
    pub message: String,
    /// Since when.
    pub since_at: String,
}

/// A drill on its way, in [`FailoverStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrillStatus {
    /// The color that becomes active again.
    pub back_to: Color,
    /// Generation of the failover that is going to be undone.
    pub generation: u64,
    /// When it is undone at the latest; before that, when the failover's drain has ended.
    pub until_at: String,
}
