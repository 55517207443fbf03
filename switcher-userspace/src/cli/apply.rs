//! `switcher apply` and `switcher check`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    Console,
    answer::{Answer, classify},
    change::{Words, describe},
    difference,
};
use crate::{
    api::{
        client::Client,
        requests::ApplyRequest,
        types::{ApiError, ChangeFailure, ChangeReply, ErrorCode},
    },
    config::{ConfigFile, difference::Difference},
};

const WORDS: Words = Words {
    done: "applied",
    would: "apply it",
};

/// Arguments of `switcher apply`.
#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// The configuration, as a whole
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Only if this is the node's generation
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,

    /// Show the difference, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Arguments of `switcher check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Shows the difference, then applies; for scripts, which get one object, at once.
pub(super) async fn apply(
    args: &ApplyArgs,
    json: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Answer {
    let request = match request(args) {
        Ok(request) => request,
        Err(error) => return ChangeFailure::from(error).into(),
    };
    let mut shown = None;
    if !json && !args.dry_run {
        let dry_run = ApplyRequest {
            dry_run: true,
            ..request.clone()
        };
        match client.apply(&dry_run).await {
            Ok(reply) => shown = reply.difference,
            Err(failure) => return failure.into(),
        }
        if let Some(shown) = &shown {
            console.note(&difference::describe(shown));
        }
    }
    match client.apply(&request).await {
        Ok(reply) => {
            let is_shown = shown.is_some() && shown == reply.difference;
            Answer::new(&reply, text(&reply, is_shown))
        }
        Err(failure) => failure.into(),
    }
}

fn text(reply: &ChangeReply, is_shown: bool) -> String {
    let difference = reply.difference.as_deref().filter(|_| !is_shown);
    let difference = difference.map(difference::describe);
    let parts = difference.into_iter().chain([describe(reply, WORDS)]);
    parts.collect::<Vec<_>>().join("\n")
}

fn request(args: &ApplyArgs) -> Result<ApplyRequest, ApiError> {
    Ok(ApplyRequest {
        config: read(&args.file)?.text,
        file: Some(args.file.display().to_string()),
        if_generation: args.if_generation,
        dry_run: args.dry_run,
        reason: args.reason.clone(),
    })
}

fn read(file: &Path) -> Result<ConfigFile, ApiError> {
    ConfigFile::read(file).map_err(|error| {
        ApiError::new(
            ErrorCode::Usage,
            error.to_string(),
            "name a file that can be read",
        )
    })
}

/// What `check` found.
#[derive(Serialize)]
struct Checked {
    /// The file is without fault.
    valid: bool,
    /// What applying it would change; `null`: no agent answers.
    difference: Option<Box<Difference>>,
    /// Why the agent would not apply it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

/// Checks the file; with an agent also what applying it would do.
pub(super) async fn check(args: &CheckArgs, client: &Client) -> Answer {
    let file = match read(&args.file) {
        Ok(file) => file,
        Err(error) => return error.into(),
    };
    if let Err(error) = file.config() {
        return rejected(&error.into());
    }
    let request = ApplyRequest {
        config: file.text,
        file: Some(args.file.display().to_string()),
        dry_run: true,
        ..ApplyRequest::default()
    };
    let valid = format!("{} is valid", args.file.display());
    match client.apply(&request).await {
        Ok(reply) => {
            let difference = reply.difference.as_deref().map(difference::describe);
            let text = format!("{valid}\n{}", difference.unwrap_or_default());
            let checked = Checked {
                valid: true,
                difference: reply.difference,
                error: None,
            };
            Answer::new(&checked, text)
        }
        Err(failure) if is_nobody(failure.error.code) => {
            let checked = Checked {
                valid: true,
                difference: None,
                error: None,
            };
            let why = failure.error.message;
            Answer::new(&checked, format!("{valid}\nnot compared: {why}"))
        }
        Err(failure) => {
            let checked = Checked {
                valid: true,
                difference: None,
                error: Some(failure.error.clone()),
            };
            Answer::new(&checked, valid).failed(Some(failure.error))
        }
    }
}

/// Whether there is no agent that this user may ask.
const fn is_nobody(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Unreachable | ErrorCode::Permission)
}

fn rejected(error: &anyhow::Error) -> Answer {
    let error = ApiError {
        next_step: "mend the file, then check it again".to_owned(),
        ..classify(error)
    };
    error.into()
}
