//! What failed, as the API tells it.

use crate::{
    api::types::{ApiError, ErrorCode},
    datapath::DataPathError,
    switching::{Obstacle, Refusal},
};

/// The change stands, so none of the codes that promise otherwise.
pub(super) fn not_durable(is_configuration: bool, error: &ApiError) -> ApiError {
    // The switch state of a running kernel is in its maps, a configuration is not.
    let end = if is_configuration {
        "the agent's restart"
    } else {
        "a reboot"
    };
    ApiError::new(
        ErrorCode::Internal,
        format!("the change is in the kernel, but would not survive {end}: {error}"),
        error.next_step.clone(),
    )
}

/// The disk does not answer.
pub(super) fn disk_stalls() -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        "the disk does not answer",
        "it is still waited for; look at the disk of state_dir, then repeat the change to hear when it is durable",
    )
}

/// The collector has more to do than it takes.
pub(super) fn too_many_counts() -> ApiError {
    ApiError::new(
        ErrorCode::Refused,
        "too many changes wait for the flow tables to be counted",
        "try again",
    )
}

/// A change that the state machine refuses.
pub(super) fn refused(refusal: &Refusal) -> ApiError {
    let (code, next_step) = match &refusal.why {
        Obstacle::UnknownService => (ErrorCode::NotFound, "`switcher status` lists the services"),
        Obstacle::ActiveDiffers { .. } | Obstacle::GenerationDiffers { .. } => (
            ErrorCode::Conflict,
            "somebody else has changed it: look at `switcher status`, then decide again",
        ),
        Obstacle::NotPaused => (
            ErrorCode::Conflict,
            "pause again, for longer, and repeat what was to happen while nothing begins",
        ),
        Obstacle::NotEnoughBackends { .. } => (
            ErrorCode::Refused,
            "bring the backends of that color up, configure them, or insist with --force",
        ),
        Obstacle::NothingToUndo => (ErrorCode::Refused, "name the color: `switcher flip --to`"),
        Obstacle::AlreadyReverted { .. } => (
            ErrorCode::Refused,
            "flip again, with a longer --confirm-within",
        ),
        Obstacle::NoSplit => (
            ErrorCode::Refused,
            "give the standby a share with `switcher split`, or flip to it",
        ),
        Obstacle::StandbyDrains { .. } => (
            ErrorCode::Refused,
            "wait with `switcher drain SERVICE --wait`, or end it with --finish-now",
        ),
        Obstacle::NoDrain => (
            ErrorCode::Refused,
            "`switcher drain SERVICE` shows the newest one",
        ),
        Obstacle::DrillDisturbs { .. } => (
            ErrorCode::Refused,
            "let it end first: `switcher status` shows what is going on",
        ),
        Obstacle::PausedAsAWhole { .. } => (ErrorCode::Refused, "resume the service"),
    };
    ApiError::new(code, refusal.to_string(), next_step)
}

/// A failure of the kernel as the API tells it.
pub(in crate::agent) fn data_path(error: &DataPathError) -> ApiError {
    let (code, next_step) = match error {
        DataPathError::PinDir { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            (
                ErrorCode::Permission,
                "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            )
        }
        DataPathError::Locked { .. } => (ErrorCode::Conflict, "stop the other agent first"),
        DataPathError::Limits { .. } | DataPathError::Full { .. } => {
            (ErrorCode::Usage, "mend [agent.limits]")
        }
        DataPathError::ForeignProgram { .. } | DataPathError::NoInterface { .. } => (
            ErrorCode::Refused,
            "see what `switcher agent --check` finds",
        ),
        DataPathError::NotLoaded { .. } => (ErrorCode::NotFound, "start the agent first"),
        _ => (
            ErrorCode::DataPath,
            "see what `switcher agent --check` finds, and the agent's log",
        ),
    };
    ApiError::new(code, error.to_string(), next_step)
}
