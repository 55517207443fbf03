//! The command `switcher`: agent and CLI.

use std::process::ExitCode;

use switcher_userspace::{
    api::types::{ApiError, ChangeReply, ErrorCode},
    cli::{self, AgentArgs, DetachArgs, Local},
};

fn main() -> ExitCode {
    cli::main(Local { agent, detach })
}

// To be replaced by the library's agent module.
fn agent(_args: AgentArgs) -> anyhow::Result<()> {
    Err(not_there().into())
}

fn detach(_args: DetachArgs) -> anyhow::Result<ChangeReply> {
    Err(not_there().into())
}

fn not_there() -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        "this build has no agent",
        "build a newer version",
    )
}
