//! A change as it was asked for, what must hold before it, and why it may be refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use switcher_common::service::Color;

use super::{AtDeadline, Origin};

/// A change of one or several services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Services that are changed by one store.
    pub services: Vec<String>,
    /// What must hold before.
    pub conditions: Conditions,
    /// What the change is.
    pub change: Change,
    /// How a drain that it begins goes, by service.
    pub drains: BTreeMap<String, DrainTerms>,
}

/// What is changed of each service that an [`Order`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The active color.
    Flip {
        /// The new one; absent: each service's standby.
        to: Option<Color>,
        /// It is taken back unless it is confirmed within so many milliseconds.
        confirm_within_ms: Option<u64>,
        /// The gate is not asked.
        force: bool,
    },
    /// The newest change of the active color is undone.
    Rollback {
        /// The gate is not asked.
        force: bool,
    },
    /// The newest flip is undone, because it was not confirmed in time, or its color could not serve before.
    Revert,
    /// A flip that waits for its confirmation stands, in all its services.
    Confirm,
    /// A share of the clients goes to the standby.
    Split {
        /// In percent.
        percent: u8,
    },
    /// The standby, which has a share of the clients, becomes active and gets all.
    Promote {
        /// The gate is not asked.
        force: bool,
    },
    /// The standby's share ends, and it drains.
    Abort,
    /// Fresh flows are held for a time.
    Pause {
        /// Of one listener; absent: of all.
        listener: Option<String>,
        /// At most so many milliseconds.
        max_ms: u64,
        /// All packets, in both directions.
        hard: bool,
    },
    /// A pause ends.
    Resume {
        /// That of one listener; absent: all of the service.
        listener: Option<String>,
    },
    /// The running drain's deadline moves away.
    ExtendDrain {
        /// By so many milliseconds.
        by_ms: u64,
    },
    /// The running drain's deadline is now.
    FinishDrain {
        /// What happens to the flows that are left.
        at_deadline: AtDeadline,
    },
    /// A backend takes no fresh flows.
    DrainBackend {
        /// Its address and port.
        endpoint: SocketAddr,
        /// The gate is not asked.
        force: bool,
    },
    /// A backend takes fresh flows again.
    ResumeBackend {
        /// Its address and port.
        endpoint: SocketAddr,
    },
    /// The agent changes the active color by itself.
    FailOver {
        /// The new one.
        to: Color,
        /// As what: failover or failback.
        origin: Origin,
    },
    /// A failover that an operator wants to see.
    Drill {
        /// It is undone within so many milliseconds; absent: it stays.
        undone_within_ms: Option<u64>,
    },
    /// A drill's failover is undone.
    EndDrill,
    /// An operator switches automated failover on or off.
    SwitchFailover {
        /// On.
        on: bool,
    },
}

impl Change {
    /// As the CLI calls it.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Flip { .. } => "flip",
            Self::Rollback { .. } => "roll back",
            Self::Revert => "take back the unconfirmed flip of",
            Self::Confirm => "confirm the flip of",
            Self::Split { .. } => "split",
            Self::Promote { .. } => "promote",
            Self::Abort => "abort the split of",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::ExtendDrain { .. } => "extend the drain of",
            Self::FinishDrain { .. } => "finish the drain of",
            Self::DrainBackend { .. } => "drain a backend of",
            Self::ResumeBackend { .. } => "resume a backend of",
            Self::FailOver { .. } => "fail over",
            Self::Drill { .. } => "drill the failover of",
            Self::EndDrill => "end the drill of",
            Self::SwitchFailover { on: true } => "enable the failover of",
            Self::SwitchFailover { on: false } => "disable the failover of",
        }
    }
}

/// How a drain goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTerms {
    /// Longest time in milliseconds.
    pub timeout_ms: u64,
    /// What happens then to the flows that are left.
    pub at_deadline: AtDeadline,
}

/// What must hold before a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Every named service has this active color.
    pub expect_active: Option<Color>,
    /// Every named service's newest change has this generation.
    pub if_generation: Option<u64>,
    /// Fresh flows of every named service are held, and will be for a moment.
    pub while_paused: bool,
}

/// Answers how many backends could serve.
pub trait Gate {
    /// What a color of a service lacks while `drained` take no fresh flows; `None`: enough.
    fn shortage(
        &self,
        service: &str,
        color: Color,
        drained: &BTreeSet<SocketAddr>,
    ) -> Option<Shortage>;
}

/// A listener without enough eligible backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The listener.
    pub listener: String,
    /// How many it has.
    pub eligible: usize,
    /// How many it needs.
    pub min_healthy: u32,
}

/// Why a change is not carried out. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} {service}: {why}")]
pub struct Refusal {
    /// What was asked for.
    pub verb: &'static str,
    /// Of this service.
    pub service: String,
    /// The obstacle.
    pub why: Obstacle,
}

/// What stands in the way of a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// No such service.
    #[error("there is no such service")]
    UnknownService,
    /// `expect_active` does not hold.
    #[error("{found} is active, {expected} was expected", found = found.name(), expected = expected.name())]
    ActiveDiffers {
        /// Active.
        found: Color,
        /// Expected.
        expected: Color,
    },
    /// `if_generation` does not hold.
    #[error("its newest change is generation {found}, {expected} was expected")]
    GenerationDiffers {
        /// As it is.
        found: u64,
        /// As expected.
        expected: u64,
    },
    /// `while_paused` does not hold.
    #[error(
        "its pause has ended, or ends too soon for fresh flows to be held until the change is visible"
    )]
    NotPaused,
    /// The gate said no (G6).
    #[error("listener {listener} has {eligible} eligible backends on {color}, {min_healthy} are needed", listener = shortage.listener, eligible = shortage.eligible, color = color.name(), min_healthy = shortage.min_healthy)]
    NotEnoughBackends {
        /// The color that fresh flows would go to.
        color: Color,
        /// What it lacks.
        shortage: Shortage,
    },
    /// It never had another active color, as far as is known.
    #[error("no change of its active color is known that could be undone")]
    NothingToUndo,
    /// Its flip was taken back when the time to confirm it had passed.
    #[error("its flip has been taken back, as nobody had confirmed it; {active} is active", active = active.name())]
    AlreadyReverted {
        /// The active color.
        active: Color,
    },
    /// No share of the clients goes to the standby.
    #[error("no share of the clients goes to its standby")]
    NoSplit,
    /// Its standby still has flows that are to end.
    #[error("{color} drains still: a share of fresh flows would hold up the drain", color = color.name())]
    StandbyDrains {
        /// The standby.
        color: Color,
    },
    /// No drain runs.
    #[error("no drain runs")]
    NoDrain,
    /// A drill would end what an operator is trying out.
    #[error("{what}")]
    DrillDisturbs {
        /// What that is.
        what: &'static str,
    },
    /// The whole service is paused, not one listener.
    #[error("the whole service is paused, not the listener {listener} alone")]
    PausedAsAWhole {
        /// The listener that was named.
        listener: String,
    },
}
