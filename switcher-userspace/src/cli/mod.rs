//! The command line: one file per verb; a verb fills a request, calls the client, and shows the
//! answer. Standard output carries the answer alone; everything else goes to standard error.

pub mod agent;
mod answer;
mod apply;
mod arguments;
mod backend;
mod change;
mod console;
mod deploy;
pub mod detach;
mod difference;
mod drain;
mod drill;
mod examples;
mod explain;
mod failover;
mod flip;
mod flows;
mod follow;
mod history;
mod hook;
mod pause;
mod pre_flip;
mod preview;
mod progress;
mod receipt;
mod rollback;
mod split;
mod status;
mod status_watch;
mod table;
mod trace;
mod until;
mod version;
mod wait;

use std::{ffi::OsString, io, process::ExitCode};

pub use self::{
    agent::{AgentArgs, Checked},
    console::Console,
    detach::DetachArgs,
};
use self::{
    answer::Answer,
    arguments::{Arguments, Verb},
};
use crate::api::{
    client::Client,
    types::{ApiError, ChangeReply, ErrorCode},
};

/// What the command starts in its own process rather than asking the agent for it.
///
/// An error that carries an [`ApiError`] keeps its exit code; a rejected configuration is `usage`,
/// anything else `internal`.
#[derive(Clone, Copy)]
pub struct Local {
    /// `switcher agent`: runs until it is told to stop.
    pub agent: fn(&AgentArgs) -> anyhow::Result<()>,
    /// `switcher agent --check`: what was found, and the failure that it amounts to.
    pub check: fn(&AgentArgs) -> anyhow::Result<Checked>,
    /// `switcher detach`: writes nothing, answers what it did.
    pub detach: fn(DetachArgs) -> anyhow::Result<ChangeReply>,
}

/// The process's whole life: its arguments, its streams, its exit code.
#[must_use]
pub fn main(local: Local) -> ExitCode {
    // Handles without a lock held: the agent's threads write to the same streams.
    let mut input = io::BufReader::new(io::stdin());
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let mut console = Console::of_process(&mut input, &mut out, &mut err);
    ExitCode::from(run(std::env::args_os(), local, &mut console))
}

/// Carries out one command line (its first element is the program's name); the exit code.
pub fn run(
    command_line: impl IntoIterator<Item = OsString>,
    local: Local,
    console: &mut Console<'_>,
) -> u8 {
    let command_line: Vec<OsString> = command_line.into_iter().collect();
    match examples::parse(&command_line) {
        Ok(arguments) => {
            let json = arguments.json;
            carry_out(arguments, local, console).finish(json, console)
        }
        Err(refusal) => arguments::refuse(&refusal, &command_line, console),
    }
}

fn carry_out(arguments: Arguments, local: Local, console: &mut Console<'_>) -> Answer {
    let socket = match arguments.socket() {
        Ok(socket) => socket,
        Err(error) => return error.into(),
    };
    let client = Client::new(&socket);
    if arguments.version {
        return block_on(version::run(&client));
    }
    match arguments.verb {
        Some(Verb::Agent(args)) => agent::run(&args, local),
        Some(Verb::Detach(args)) => detach::run(args, local),
        Some(Verb::Status(args)) => {
            let json = arguments.json;
            block_on(status::run(&args, json, &client, console))
        }
        Some(Verb::Wait(args)) => block_on(wait::run(&args, &client, console)),
        Some(Verb::Explain(args)) => block_on(explain::run(&args, &client)),
        Some(Verb::Trace(args)) => {
            let json = arguments.json;
            block_on(trace::run(&args, json, &client, console))
        }
        Some(Verb::Flows(args)) => {
            let json = arguments.json;
            block_on(flows::run(&args, json, &client, console))
        }
        Some(Verb::Preview(args)) => block_on(preview::run(&args, &client)),
        Some(Verb::Flip(args)) => block_on(flip::run(&args, &client, console)),
        Some(Verb::Rollback(args)) => block_on(rollback::roll_back(&args, &client, console)),
        Some(Verb::Confirm(args)) => block_on(rollback::confirm(&args, &client)),
        Some(Verb::Split(args)) => block_on(split::split(&args, &client)),
        Some(Verb::Promote(args)) => block_on(split::promote(&args, &client, console)),
        Some(Verb::Abort(args)) => block_on(split::abort(&args, &client, console)),
        Some(Verb::Pause(args)) => block_on(pause::pause(&args, &client)),
        Some(Verb::Resume(args)) => block_on(pause::resume(&args, &client)),
        Some(Verb::Backend(args)) => block_on(backend::run(&args, &client)),
        Some(Verb::Failover(args)) => block_on(failover::run(&args, &client, console)),
        Some(Verb::Deploy(args)) => block_on(deploy::run(&args, &client, console)),
        Some(Verb::History(args)) => block_on(history::run(&args, &client)),
        Some(Verb::Apply(args)) => {
            let json = arguments.json;
            block_on(apply::apply(&args, json, &client, console))
        }
        Some(Verb::Check(args)) => block_on(apply::check(&args, &client)),
        Some(Verb::Drain(args)) => block_on(drain::run(&args, &client, console)),
        None => arguments::no_verb(),
    }
}

fn block_on(verb: impl Future<Output = Answer>) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(verb),
        Err(error) => ApiError::new(
            ErrorCode::Internal,
            format!("cannot start the command's event loop: {error}"),
            "free file descriptors or raise their limit, then try again",
        )
        .into(),
    }
}
