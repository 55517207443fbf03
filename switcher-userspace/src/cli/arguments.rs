//! What may stand on the command line.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use switcher_common::service::{Color, Protocol};

use super::{
    AgentArgs, Console, DetachArgs,
    answer::Answer,
    apply::{ApplyArgs, CheckArgs},
    backend::BackendArgs,
    deploy::DeployArgs,
    drain::DrainArgs,
    explain::ExplainArgs,
    failover::FailoverArgs,
    flip::FlipArgs,
    flows::FlowsArgs,
    history::HistoryArgs,
    pause::{PauseArgs, ResumeArgs},
    preview::PreviewArgs,
    rollback::{ConfirmArgs, RollbackArgs},
    split::{AbortArgs, PromoteArgs, SplitArgs},
    status::StatusArgs,
    trace::TraceArgs,
    wait::WaitArgs,
};
use crate::{
    api::types::{ApiError, ChangeFailure, ErrorCode},
    config::defaults,
    switching::AtDeadline,
};

/// Switches services between blue and green inside the kernel of a load-balancer node.
#[derive(Debug, Parser)]
#[command(
    name = "switcher",
    disable_version_flag = true,
    after_help = "Exit codes: 0 done or already so, 1 internal, 2 usage, 3 refused, 4 conflict, \
                  5 timeout while waiting, 6 agent unreachable, 7 no such thing, 8 data path or \
                  version, 9 permission."
)]
pub(super) struct Arguments {
    /// The agent's socket [default: `SWITCHER_SOCKET`, else /run/switcher/switcher.sock]
    #[arg(long, global = true, value_name = "PATH", display_order = 900)]
    socket: Option<PathBuf>,

    /// Print exactly one JSON object on standard output; what goes on, one object per line
    #[arg(long, global = true, display_order = 900)]
    pub(super) json: bool,

    /// Print the versions of this command and of the agent
    #[arg(short = 'V', long)]
    pub(super) version: bool,

    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Load the data path, attach it, serve the API until SIGTERM
    Agent(AgentArgs),
    /// Take the data path off the node, also without an agent
    Detach(DetachArgs),
    /// Show services, flows, drains, backends and what was dropped
    Status(StatusArgs),
    /// Wait until services are as wanted
    Wait(WaitArgs),
    /// Change the active color of one service, or of several at once
    Flip(FlipArgs),
    /// Undo the newest flip or promotion of one service, or of several at once
    Rollback(RollbackArgs),
    /// Let a flip stand that would be taken back by itself
    Confirm(ConfirmArgs),
    /// Send a share of the clients to the standby
    Split(SplitArgs),
    /// Make the standby active that has a share of the clients
    Promote(PromoteArgs),
    /// End the standby's share and drain it
    Abort(AbortArgs),
    /// Hold fresh connections for a time, at most 30s
    Pause(PauseArgs),
    /// End a pause
    Resume(ResumeArgs),
    /// Give a backend no fresh flows, or give it some again
    Backend(BackendArgs),
    /// Switch automated failover on or off, see what it would do, prove the standby by a drill
    Failover(FailoverArgs),
    /// Carry out a whole release: update the standby, try it, flip, drain
    Deploy(DeployArgs),
    /// Show what has changed, when, and who asked for it
    History(HistoryArgs),
    /// Make another configuration the running one, as a whole, and show what differs
    Apply(ApplyArgs),
    /// Check a configuration, and show what applying it would change
    Check(CheckArgs),
    /// Show where a packet would go now, and why; changes nothing
    Explain(ExplainArgs),
    /// Show where the standby of a service can be tried, and whether it could become active
    Preview(PreviewArgs),
    /// Show the flows of a service: whose, where to, how old
    Flows(FlowsArgs),
    /// Show packets and what is decided about them, live
    Trace(TraceArgs),
    /// Show the drain of a service, wait for its end, extend or end it
    Drain(DrainArgs),
}

impl Arguments {
    /// The socket that the verb asks: from the command line, the environment, or the default.
    pub(super) fn socket(&self) -> Result<PathBuf, ApiError> {
        match (&self.socket, &self.verb) {
            (Some(_), Some(Verb::Agent(_) | Verb::Detach(_))) => Err(ApiError::new(
                ErrorCode::Usage,
                "--socket does not apply: agent and detach ask no agent",
                "name the agent's socket in the configuration, `socket` of [agent]",
            )),
            (Some(socket), _) => Ok(socket.clone()),
            (None, _) => Ok(env::var_os("SWITCHER_SOCKET")
                .filter(|socket| !socket.is_empty())
                .map_or_else(|| defaults::SOCKET.into(), PathBuf::from)),
        }
    }
}

/// Parses `blue` and `green`.
pub(super) fn color() -> impl TypedValueParser<Value = Color> {
    PossibleValuesParser::new(Color::ALL.map(Color::name)).map(|name| {
        // The parser lets only the two names through.
        if name == Color::Blue.name() {
            Color::Blue
        } else {
            Color::Green
        }
    })
}

/// Parses `tcp` and `udp`.
pub(super) fn protocol() -> impl TypedValueParser<Value = Protocol> {
    const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
    PossibleValuesParser::new(BOTH.map(Protocol::name)).map(|name| {
        // The parser lets only the two names through.
        if name == Protocol::Tcp.name() {
            Protocol::Tcp
        } else {
            Protocol::Udp
        }
    })
}

/// Parses `keep`, `reset` and `move`.
pub(super) fn at_deadline() -> impl TypedValueParser<Value = AtDeadline> {
    PossibleValuesParser::new(AtDeadline::ALL.map(AtDeadline::name)).map(|name| {
        let named = AtDeadline::ALL.into_iter().find(|it| it.name() == name);
        // The parser lets only the three names through.
        named.unwrap_or_default()
    })
}

/// The answer to a command line without a verb.
pub(super) fn no_verb() -> Answer {
    ApiError::new(
        ErrorCode::Usage,
        "the command line names no verb",
        "see `switcher --help`",
    )
    .into()
}

/// Verbs whose answers tell whether something changed, and options that make another verb one of them.
const CHANGING: [&str; 15] = [
    "deploy",
    "flip",
    "rollback",
    "confirm",
    "split",
    "promote",
    "abort",
    "pause",
    "resume",
    "backend",
    "failover",
    "apply",
    "detach",
    "--extend",
    "--finish-now",
];

/// Shows what clap has to say instead of a parsed command line: help, or what is wrong with it.
pub(super) fn refuse(
    refusal: &clap::Error,
    command_line: &[OsString],
    console: &mut Console<'_>,
) -> u8 {
    let json = before_dashes(command_line).any(|argument| argument == "--json");
    if !refusal.use_stderr() {
        let help = refusal.to_string();
        return Answer::new(&serde_json::json!({ "help": help }), help).finish(json, console);
    }
    if !json {
        console.note(refusal.to_string().trim_end());
        return ErrorCode::Usage.exit_code();
    }
    let rendered = refusal.to_string();
    // clap adds its usage text below an empty line; the first paragraph is the finding.
    let finding = rendered.split("\n\n").next().unwrap_or(&rendered);
    let message = finding.trim_start_matches("error: ").trim();
    let error = ApiError::new(ErrorCode::Usage, message, "see `switcher --help`");
    let is_changing = |word: &OsStr| {
        let word = word.to_string_lossy();
        let name = word.split('=').next().unwrap_or_default();
        CHANGING.contains(&name)
    };
    let changing = before_dashes(command_line).any(is_changing);
    let answer = if changing {
        Answer::from(ChangeFailure::from(error))
    } else {
        Answer::from(error)
    };
    answer.finish(true, console)
}

fn before_dashes(command_line: &[OsString]) -> impl Iterator<Item = &OsStr> {
    let arguments = command_line.iter().skip(1).map(OsString::as_os_str);
    arguments.take_while(|argument| *argument != "--")
}
