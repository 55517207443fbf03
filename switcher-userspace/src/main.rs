//! The command `switcher`: agent and CLI.

use std::process::ExitCode;

use switcher_userspace::{
    agent,
    cli::{self, Local},
};

fn main() -> ExitCode {
    cli::main(Local {
        agent: agent::run,
        check: agent::check,
        detach: agent::detach,
    })
}
