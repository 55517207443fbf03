//! The bodies of the changing verbs: each is one flat JSON object, and an unknown field is an error.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::Color;

use crate::switching::AtDeadline;

/// What every changing verb may be told beside its own fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Services that are changed by one store.
    pub services: Vec<String>,
    /// Refuse with a conflict unless every service has this active color.
    pub expect_active: Option<Color>,
    /// Refuse with a conflict unless every service's newest change has this generation.
    pub if_generation: Option<u64>,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// Why, for the log.
    pub reason: Option<String>,
}

/// The body of one changing verb.
pub trait Body:
    Serialize + for<'de> Deserialize<'de> + JsonSchema + Clone + Into<ChangeRequest> + Send
{
    /// The verb, which is also the last part of its path.
    const VERB: &'static str;
    /// What it does.
    const SUMMARY: &'static str;

    /// What it has in common with all others.
    fn terms(&self) -> Terms;
}

/// Defines the bodies, each with the fields of [`Terms`] and its own, and an enum of all of them.
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident($variant:ident, $verb:literal, $summary:literal) {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            pub struct $name {
                /// Services that are changed by one store.
                pub services: Vec<String>,
                /// Refuse with a conflict unless every service has this active color.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub expect_active: Option<Color>,
                /// Refuse with a conflict unless every service's newest change has this generation.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub if_generation: Option<u64>,
                /// Check everything, change nothing.
                #[serde(default)]
                pub dry_run: bool,
                /// Why, for the log.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub reason: Option<String>,
                $(
                    $(#[$field_doc])*
                    pub $field: $type,
                )*
            }

            impl Body for $name {
                const VERB: &'static str = $verb;
                const SUMMARY: &'static str = $summary;

                fn terms(&self) -> Terms {
                    Terms {
                        services: self.services.clone(),
                        expect_active: self.expect_active,
                        if_generation: self.if_generation,
                        dry_run: self.dry_run,
                        reason: self.reason.clone(),
                    }
                }
            }

            impl From<$name> for ChangeRequest {
                fn from(body: $name) -> Self {
                    Self::$variant(body)
                }
            }
        )*

        /// Any change that the agent may be asked for.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum ChangeRequest {
            $(
                $(#[$doc])*
                $variant($name),
            )*
        }

        impl ChangeRequest {
            /// The verb.
            #[must_use]
            pub const fn verb(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name::VERB,)*
                }
            }

            /// What it has in common with all others.
            #[must_use]
            pub fn terms(&self) -> Terms {
                match self {
                    $(Self::$variant(body) => body.terms(),)*
                }
            }
        }
    };
}

bodies! {
    /// `POST /v1/flip`
    FlipRequest(Flip, "flip", "Makes the other color active, of several services by one store") {
        /// The new active color; absent: the standby of each service.
        #[serde(default)]
        to: Option<Color>,
        /// Longest drain in milliseconds; absent: as configured.
        #[serde(default)]
        drain_timeout_ms: Option<u64>,
        /// What happens then to the flows that are left; absent: as configured.
        #[serde(default)]
        at_deadline: Option<AtDeadline>,
        /// The flip is taken back unless it is confirmed within so many milliseconds.
        #[serde(default)]
        confirm_within_ms: Option<u64>,
        /// Refuse with a conflict unless fresh flows of every service are held, and still will be when
        /// packets see the flip.
        #[serde(default)]
        while_paused: bool,
        /// Flip also to a color without enough eligible backends (G6).
        #[serde(default)]
        force: bool,
    }
    /// `POST /v1/rollback`
    RollbackRequest(Rollback, "rollback", "Undoes the newest change of the active color") {
        /// Longest drain in milliseconds; absent: as configured.
        #[serde(default)]
        drain_timeout_ms: Option<u64>,
        /// What happens then to the flows that are left; absent: as configured.
        #[serde(default)]
        at_deadline: Option<AtDeadline>,
        /// Roll back also to a color without enough eligible backends (G6).
        #[serde(default)]
        force: bool,
    }
    /// `POST /v1/confirm`
    ConfirmRequest(Confirm, "confirm", "Lets a flip stand that waits for its confirmation, in all its services") {
    }
    /// `POST /v1/split`
    SplitRequest(Split, "split", "Gives the standby a share of the clients") {
        /// Share of the clients, in percent, whose fresh flows go to the standby.
        standby_percent: u8,
    }
    /// `POST /v1/promote`
    PromoteRequest(Promote, "promote", "Makes the standby active that has a share of the clients") {
        /// Longest drain in milliseconds; absent: as configured.
        #[serde(default)]
        drain_timeout_ms: Option<u64>,
        /// What happens then to the flows that are left; absent: as configured.
        #[serde(default)]
        at_deadline: Option<AtDeadline>,
        /// Promote also a standby without enough eligible backends (G6).
        #[serde(default)]
        force: bool,
    }
    /// `POST /v1/abort`
    AbortRequest(Abort, "abort", "Ends the standby's share, and drains it") {
        /// Longest drain of the standby in milliseconds; absent: as configured.
        #[serde(default)]
        drain_timeout_ms: Option<u64>,
        /// What happens then to the flows that are left; absent: as configured.
        #[serde(default)]
        at_deadline: Option<AtDeadline>,
    }
    /// `POST /v1/pause`
    PauseRequest(Pause, "pause", "Holds fresh flows for a time") {
        /// One listener of the one service alone; absent: all.
        #[serde(default)]
        listener: Option<String>,
        /// Longest time in milliseconds; absent: 5 000.
        #[serde(default)]
        max_ms: Option<u64>,
        /// Drop every packet, in both directions.
        #[serde(default)]
        hard: bool,
    }
    /// `POST /v1/resume`
    ResumeRequest(Resume, "resume", "Ends a pause") {
        /// One listener of the one service alone; absent: all.
        #[serde(default)]
        listener: Option<String>,
    }
    /// `POST /v1/extend-drain`
    ExtendDrainRequest(ExtendDrain, "extend-drain", "Moves the running drain's deadline away") {
        /// By so many milliseconds.
        by_ms: u64,
    }
    /// `POST /v1/finish-drain`
    FinishDrainRequest(FinishDrain, "finish-drain", "Makes the running drain's deadline now") {
        /// What happens to the flows that are left.
        at_deadline: AtDeadline,
    }
    /// `POST /v1/drain-backend`
    DrainBackendRequest(DrainBackend, "drain-backend", "Gives a backend no fresh flows") {
        /// Address and port, as configured.
        backend: Endpoint,
        /// Also when the active color cannot serve without it (G6).
        #[serde(default)]
        force: bool,
    }
    /// `POST /v1/resume-backend`
    ResumeBackendRequest(ResumeBackend, "resume-backend", "Gives a backend fresh flows again") {
        /// Address and port, as configured.
        backend: Endpoint,
    }
    /// `POST /v1/enable-failover`
    EnableFailoverRequest(EnableFailover, "enable-failover", "Lets the agent change the active color by itself") {
    }
    /// `POST /v1/disable-failover`
    DisableFailoverRequest(DisableFailover, "disable-failover", "Lets the agent change no active color by itself") {
    }
    /// `POST /v1/drill`: the failover has happened when it is answered; what it drains is undone later.
    DrillRequest(Drill, "drill", "Fails over as if the active color had failed, and undoes that when its drain has ended") {
        /// Longest time in milliseconds until that is undone; absent: 30 000.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// It is not undone.
        #[serde(default)]
        stay: bool,
    }
}

/// The body of `POST /v1/apply`: another configuration, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// Text of the configuration file.
    pub config: String,
    /// Name of the file, for messages; absent: `configuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Refuse with a conflict unless the node has this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
    /// Check everything, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ApplyRequest {
    /// The verb, which is also the last part of its path.
    pub const VERB: &'static str = "apply";
    /// What it does.
    pub const SUMMARY: &'static str =
        "Makes another configuration the running one, as a whole or not at all";
}

/// A backend as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The color that it serves.
    pub color: Color,
    /// Its address and port.
    pub address: SocketAddr,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            color: Color::Blue,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        }
    }
}
