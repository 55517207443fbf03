//! `switcher deploy`: a whole release. The agent knows nothing of it: each step is a verb of its own, so
//! that whatever happens to this process, the old color stays until the flip, and the agent's own deadlines
//! hold after it.

mod release;
mod rolling;
mod standby;
mod steps;

use clap::Args;

use self::steps::Steps;
use super::{Console, answer::Answer, arguments::at_deadline, hook::Hook};
use crate::{
    api::{client::Client, types::ApiError},
    duration::Span,
    switching::AtDeadline,
};

/// Arguments of `switcher deploy`.
#[derive(Debug, Args)]
#[command(
    after_help = "Commands run with your rights and without a shell. They see SWITCHER_SERVICE, \
                  SWITCHER_COLOR (the color that is updated), SWITCHER_BACKENDS (its ADDR:PORTs, separated by \
                  spaces) and SWITCHER_PREVIEW (ADDR:PORTs of preview listeners). The node itself does not reach its \
                  VIPs: have another host ask them.\n\n\
                  With --after, the flip is taken back by itself if this command does not live to confirm it."
)]
pub(super) struct DeployArgs {
    /// The service
    service: String,

    /// Updates the standby's backends
    #[arg(last = true, required = true, value_name = "COMMAND")]
    update: Vec<String>,

    /// Update both colors, one after the other, each while the other one serves all clients; then share the
    /// clients between them
    #[arg(long)]
    rolling: bool,

    /// Share of the clients that the standby has after --rolling [default: the one that it had, or 50]
    #[arg(
        long,
        value_name = "PERCENT",
        requires = "rolling",
        value_parser = clap::value_parser!(u8).range(..=100)
    )]
    split: Option<u8>,

    /// Longest time that COMMAND may take
    #[arg(long, value_name = "TIME", default_value = "30m")]
    update_timeout: Span,

    /// Longest time until each backend of the standby accepts a TCP connection
    #[arg(long, value_name = "TIME", default_value = "60s")]
    ready_timeout: Span,

    /// Tries the standby before the flip, against the preview; a failure keeps the old color
    #[arg(long, value_name = "COMMAND", value_parser = Hook::parse)]
    smoke: Option<Hook>,

    /// Looks at the service after the flip; a failure brings the old color back
    #[arg(long, value_name = "COMMAND", value_parser = Hook::parse)]
    after: Option<Hook>,

    /// Longest time that each of these two may take
    #[arg(long, value_name = "TIME", default_value = "60s")]
    hook_timeout: Span,

    /// Take the flip back by itself unless `switcher confirm` comes within this time, at most 1h
    #[arg(long, value_name = "TIME")]
    confirm_within: Option<Span>,

    /// Wait for that confirmation; code 4 if the flip was taken back. --rolling always waits for it
    #[arg(long, requires = "confirm_within")]
    wait_confirmed: bool,

    /// Longest drain of the old color [default: as configured]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<Span>,

    /// What happens then to the flows that are left [default: as configured]
    #[arg(long, value_name = "POLICY", value_parser = at_deadline())]
    at_deadline: Option<AtDeadline>,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl DeployArgs {
    /// Why, for the log of each step.
    fn reason(&self) -> String {
        self.reason.clone().unwrap_or_else(|| "deploy".to_owned())
    }
}

pub(super) async fn run(args: &DeployArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    let mut steps = Steps::new(args, client, console);
    let done: Result<(), ApiError> = if args.rolling {
        rolling::carry_out(&mut steps).await
    } else {
        release::carry_out(&mut steps).await
    };
    let outcome = steps.end(done.err());
    let error = outcome.error.clone();
    Answer::new(&outcome, outcome.describe()).failed(error)
}
