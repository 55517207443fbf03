//! A configuration on its way to the core: read and checked as a whole, beside everything else.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use tokio::{
    signal::unix::Signal,
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

use super::{
    applied::Kept,
    core::{AskedApply, By, Command},
};
use crate::{
    api::{
        Peer,
        requests::ApplyRequest,
        types::{ApiError, ChangeReply, ErrorCode},
    },
    config::{Config, ConfigError, ConfigFile},
    issuers,
};

/// Name of a file that was given none.
const NAMELESS: &str = "configuration";

/// The way of configurations to the core.
#[derive(Clone)]
pub(super) struct Applier {
    core: mpsc::Sender<Command>,
    /// The agent's own configuration file.
    own: PathBuf,
}

/// A configuration without fault.
struct Sound {
    config: Config,
    kept: Kept,
    has_own_hooks: bool,
}

impl Applier {
    pub(super) fn new(core: mpsc::Sender<Command>, own: &Path) -> Self {
        Self {
            core,
            own: own.to_owned(),
        }
    }

    /// Applies what a client sends; `None`: the core has ended.
    pub(super) async fn apply(
        &self,
        request: ApplyRequest,
        peer: Peer,
    ) -> Result<Option<ChangeReply>, ApiError> {
        let arrived = Instant::now();
        let (reply, answer) = oneshot::channel();
        let file = request.file.unwrap_or_else(|| NAMELESS.to_owned());
        let (named, own) = (PathBuf::from(&file), self.own.clone());
        let Sound {
            config,
            kept,
            has_own_hooks,
        } = read(move || sound(&named, request.config, &own)).await?;
        let asked = AskedApply {
            config: Arc::new(config),
            kept,
            has_own_hooks,
            file,
            if_generation: request.if_generation,
            dry_run: request.dry_run,
            reason: request.reason,
            by: By::Client(peer),
            arrived,
            reply,
        };
        Ok(self.carried_out(asked, answer).await)
    }

    /// Applies the agent's own file whenever `hangup` says so, and tells the log.
    pub(super) async fn follow(self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            match self.reload().await {
                Ok(None) if self.core.is_closed() => return,
                Ok(None) => {
                    tracing::error!(
                        "SIGHUP: what flows refer to could not be counted; nothing changed, send it again"
                    );
                }
                Ok(Some(ChangeReply {
                    error: Some(error),
                    changed,
                    ..
                })) => {
                    tracing::error!(changed, %error, next_step = error.next_step, "SIGHUP");
                }
                Ok(Some(reply)) => {
                    tracing::info!(changed = reply.changed, "SIGHUP: the own file holds");
                }
                Err(error) => {
                    tracing::error!(%error, next_step = error.next_step, "SIGHUP: nothing changed");
                }
            }
        }
    }

    async fn reload(&self) -> Result<Option<ChangeReply>, ApiError> {
        let arrived = Instant::now();
        let (reply, answer) = oneshot::channel();
        let own = self.own.clone();
        let config = read(move || {
            let config = Config::load(&own).map_err(|error| rejected(&error))?;
            expect_issuers(&own, &config).map(|()| config)
        })
        .await?;
        let asked = AskedApply {
            config: Arc::new(config),
            kept: Kept::File,
            has_own_hooks: true,
            file: self.own.display().to_string(),
            if_generation: None,
            dry_run: false,
            reason: None,
            by: By::Signal,
            arrived,
            reply,
        };
        Ok(self.carried_out(asked, answer).await)
    }

    async fn carried_out(
        &self,
        asked: AskedApply,
        answer: oneshot::Receiver<ChangeReply>,
    ) -> Option<ChangeReply> {
        self.core.send(Command::Apply(Box::new(asked))).await.ok()?;
        answer.await.ok()
    }
}

/// Large files take long to parse: beside the event loop.
async fn read<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(work).await.map_err(|error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("the agent failed while it read the configuration: {error}"),
            "look into the agent's log",
        )
    })?
}

fn sound(file: &Path, text: String, own: &Path) -> Result<Sound, ApiError> {
    let config = Config::parse(file, &text).map_err(|error| rejected(&error))?;
    expect_issuers(file, &config)?;
    let own = ConfigFile::read(own).map_err(|error| {
        ApiError::new(
            ErrorCode::Refused,
            format!(
                "cannot apply {}: the agent's own file decides after a restart whether it holds still, and: {error}",
                file.display()
            ),
            "put the agent's own file back",
        )
    })?;
    let has_own_hooks = own
        .config()
        .is_ok_and(|own| own.agent.hooks == config.agent.hooks);
    Ok(Sound {
        config,
        kept: Kept::applied(text, &own.text),
        has_own_hooks,
    })
}

/// Checks that need issuers which are not there would fail, and with them every backend.
fn expect_issuers(file: &Path, config: &Config) -> Result<(), ApiError> {
    let Some((service, why)) = issuers::missing(config).into_iter().next() else {
        return Ok(());
    };
    Err(ApiError::new(
        ErrorCode::Usage,
        format!(
            "cannot apply {}: the checks of {service} would fail: {why}; nothing changed",
            file.display()
        ),
        "mend ca_file in [service.check]: a PEM file with the certificates of the issuers",
    ))
}

fn rejected(error: &ConfigError) -> ApiError {
    ApiError::new(
        ErrorCode::Usage,
        error.to_string(),
        "mend the file; `switcher check FILE` finds the same",
    )
}
