//! The agent: brings configuration, kernel, disk and API together, and keeps them so.
//!
//! Three threads have a task each: the *core* owns the switch state and is the only writer, the
//! *collector* scans the flow tables, and the event loop serves the API.

mod adopt;
mod applied;
mod applier;
mod checks;
mod clock;
mod collector;
mod configured;
mod control;
mod core;
mod detach;
mod durable;
mod explain;
mod flows;
mod gate;
mod history;
mod hooks;
mod interfaces;
mod outlook;
mod preview;
mod resetter;
mod start;
mod state_file;
mod statuses;
mod trace;
mod unsaved;
mod view;
mod writer;

use std::{io::IsTerminal as _, path::Path, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::timeout,
};

pub use self::detach::detach;
use self::{
    applied::Chosen, applier::Applier, control::AgentControl, core::Command, hooks::Hooks,
    start::Started, statuses::Statuses,
};
use crate::{
    api::{
        server::{self, ApiSocket},
        types::{ApiError, ErrorCode},
    },
    cli::{AgentArgs, Checked},
    config::Config,
    datapath,
    preflight::{self, Report, Severity},
};

/// How long a stopping agent waits until tracing is off.
const TRACE_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the agent until SIGTERM or SIGINT.
pub fn run(args: &AgentArgs) -> anyhow::Result<()> {
    let chosen = applied::choose(&args.config)?;
    log_to_stderr();
    match &chosen.kept {
        applied::Kept::Applied { .. } => tracing::info!(
            "the configuration that was applied holds: {} has not changed since; SIGHUP returns to it",
            args.config.display()
        ),
        applied::Kept::File if chosen.is_overruled => tracing::warn!(
            "{} has changed since a configuration was applied: the file holds, and what was applied is forgotten",
            args.config.display()
        ),
        applied::Kept::File => {}
    }
    let report = look(&chosen.config);
    for finding in &report.findings {
        tracing::warn!(
            check = finding.check,
            "{}; mend: {}",
            finding.what,
            finding.mend
        );
    }
    if let Some(error) = obstacle(&report) {
        return Err(error.into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the agent's event loop")?;
    runtime.block_on(serve(chosen, &args.config))
}

/// Looks at the configuration and the node, and changes nothing.
pub fn check(args: &AgentArgs) -> anyhow::Result<Checked> {
    let report = look(&applied::choose(&args.config)?.config);
    let error = obstacle(&report);
    Ok(Checked { report, error })
}

fn look(config: &Config) -> Report {
    let ours = datapath::own_program_ids(&config.agent.pin_dir);
    preflight::run(config, &|id| ours.contains(&id))
}

/// What stands in the way of a start, as one error.
fn obstacle(report: &Report) -> Option<ApiError> {
    let mut fatal = report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Fatal);
    let first = fatal.next()?;
    let more = match fatal.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let code = match first.check {
        "rights" => ErrorCode::Permission,
        _ => ErrorCode::Refused,
    };
    let message = format!("cannot start the agent: {}{more}", first.what);
    Some(ApiError::new(code, message, first.mend.clone()))
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SWITCHER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second start within one process keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

async fn serve(chosen: Chosen, own: &Path) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let socket = ApiSocket::bind(&chosen.config.agent.socket).await?;
    let (commands, mut received) = mpsc::channel(64);
    let Started {
        core,
        collector,
        history,
        view,
        counters,
        explainer,
        lister,
        tracer,
        reports,
        proofs,
        log,
    } = start::start(chosen, commands.clone())?;
    let (stop_hooks, stop) = oneshot::channel();
    let configured = view.clone();
    let hooks = Hooks::new(history.clone(), move || configured.borrow().config.clone());
    let hooks = tokio::spawn(hooks.run(stop));
    let runtime = Handle::current();
    // Dropped when the core's thread ends, however it does.
    let (alive, core_ended) = oneshot::channel::<()>();
    let core = thread::Builder::new()
        .name("core".to_owned())
        .spawn(move || {
            let _alive = alive;
            core.run(&mut received, &runtime);
        })
        .context("cannot start the core's thread")?;
    tokio::spawn(async {
        if let Err(error) = log.follow().await {
            tracing::error!(%error, "the program's warnings are not shown");
        }
    });
    // Before anything that takes time: what is known of health is from the agent before.
    tokio::spawn(checks::run(reports, proofs, view.clone(), commands.clone()));
    // Deadlines that passed without an agent are carried out before the first request (G4). A queue
    // that is full, or a core that has ended, shows in that request.
    if let Some(taken_in) = collector.scan() {
        let _ = taken_in.await;
        let mut view = view.clone();
        let on_disk = view.wait_for(|view| view.is_settled);
        if timeout(core::DISK_PATIENCE, on_disk).await.is_err() {
            tracing::error!("the disk does not answer; serving all the same");
        }
    }
    // A few may wait: each is served at once.
    let (subscribe, subscriptions) = mpsc::channel(8);
    let traces = tokio::spawn(trace::run(tracer, subscriptions, view.clone()));
    let applier = Applier::new(commands.clone(), own);
    tokio::spawn(applier.clone().follow(hangup));
    let control = Arc::new(AgentControl {
        core: commands.clone(),
        subscribe,
        collector,
        history,
        view,
        statuses: Arc::new(Statuses::new(counters)),
        explainer,
        applier,
        lister: Arc::new(lister),
    });
    tracing::info!(socket = %socket.path().display(), "serving");
    server::serve(socket, control, async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            // An agent that cannot switch must not look alive: it ends, and is started again.
            _ = core_ended => {}
        }
    })
    .await;
    tracing::info!("stopping; the data path stays");
    match timeout(TRACE_PATIENCE, traces).await {
        Ok(Ok(Ok(()))) => {}
        // The program turns tracing off by itself then.
        ended => tracing::warn!(?ended, "tracing did not end in order"),
    }
    let _ = commands.send(Command::Stop).await;
    tokio::task::spawn_blocking(move || core.join())
        .await
        .context("cannot wait for the core's thread")?
        .map_err(|_| anyhow::anyhow!("the core's thread panicked; its message is in the log"))?;
    // Its last entries are there now.
    let _ = stop_hooks.send(());
    hooks.await.context("cannot wait for the hooks")
}
