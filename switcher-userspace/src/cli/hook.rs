//! Commands that a verb runs for its caller: with the caller's rights, without a shell, for a bounded time.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::api::types::{ApiError, ErrorCode};

/// A command and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook(Vec<String>);

impl Hook {
    /// The words of a command line.
    pub(super) fn of_words(words: &[String]) -> Self {
        Self(words.to_vec())
    }

    /// Parses a command line: quotes and backslashes as a shell reads them, nothing else of one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match shlex::split(text) {
            Some(words) if !words.is_empty() => Ok(Self(words)),
            _ => Err(format!(
                "`{text}` is no command: it is empty, or a quote is not closed"
            )),
        }
    }

    /// Runs it with `variables` beside the environment, for at most `limit`; its output goes to standard
    /// error. Killed when this process ends first.
    pub(super) async fn run(
        &self,
        step: &str,
        variables: &[(&str, String)],
        limit: Duration,
    ) -> Result<(), ApiError> {
        let (program, arguments) = self.0.split_first().ok_or_else(|| {
            ApiError::new(
                ErrorCode::Usage,
                format!("{step}: there is no command to run"),
                "name one behind --",
            )
        })?;
        let failed = |what: String| {
            ApiError::new(
                ErrorCode::Refused,
                format!("{step}: `{}` {what}", self.0.join(" ")),
                "mend what it says on standard error, then repeat the command",
            )
        };
        let mut child = Command::new(program)
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            // A group of its own, so that what it has started ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let group = child.id();
        let waited = tokio::select! {
            waited = timeout(limit, child.wait()) => waited,
            () = interrupted() => {
                kill(group);
                return Err(failed("was ended, because this command was interrupted".to_owned()));
            }
        };
        match waited {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(failed(ended(status))),
            Ok(Err(error)) => Err(failed(format!("cannot be waited for: {error}"))),
            Err(_) => {
                kill(group);
                Err(failed(format!(
                    "did not end within {limit:?}, and was killed"
                )))
            }
        }
    }
}

/// Ready when somebody interrupts this process.
async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without it the signal ends this process as it always did.
        Err(_) => std::future::pending().await,
    }
}

/// Kills a process group; one that has ended meanwhile is nobody's.
fn kill(group: Option<u32>) {
    let group = group.and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was ended: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn quotes_hold_words_together_and_nothing_else_is_a_shells() {
        let hook = Hook::parse("curl -H 'a: b c' http://[::1]/ ; $HOME").expect("a command");
        let words = ["curl", "-H", "a: b c", "http://[::1]/", ";", "$HOME"];
        assert_eq!(hook.0, words);
        for broken in ["", "  ", "echo 'x"] {
            assert!(Hook::parse(broken).is_err(), "{broken:?}");
        }
    }

    #[tokio::test]
    async fn a_command_sees_its_variables_and_its_failure_is_told() {
        let run = |text: &str| {
            let hook = Hook::parse(text).expect("a command");
            async move {
                hook.run("smoke", &[("SWITCHER_COLOR", "green".to_owned())], LIMIT)
                    .await
            }
        };
        assert_eq!(run("sh -c 'test $SWITCHER_COLOR = green'").await, Ok(()));
        let failed = run("sh -c 'exit 7'").await.expect_err("it fails");
        assert_eq!(failed.code, ErrorCode::Refused);
        assert!(failed.message.contains("smoke") && failed.message.contains("exit code 7"));
        let missing = run("/nonexistent/command")
            .await
            .expect_err("it is not there");
        assert!(missing.message.contains("cannot be started"), "{missing}");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed() {
        let hook = Hook::parse("sleep 600").expect("a command");
        let late = hook.run("update", &[], Duration::from_millis(20)).await;
        assert!(
            late.expect_err("it is killed")
                .message
                .contains("was killed")
        );
    }
}
