//! What a verb ends with, for people and for scripts.

use serde::Serialize;
use serde_json::Value;

use super::Console;
use crate::{
    api::types::{ApiError, ChangeFailure, ErrorCode, Failure},
    config::ConfigError,
};

/// A verb's end.
pub(super) struct Answer {
    /// For scripts: the object on standard output, the error included. `None`: nothing to say.
    object: Option<Value>,
    /// For people: the text on standard output.
    text: String,
    /// Decides the exit code; told to people on standard error.
    error: Option<ApiError>,
}

impl Answer {
    /// A success that is `object` for scripts and `text` for people.
    pub(super) fn new(object: &impl Serialize, text: String) -> Self {
        match serde_json::to_value(object) {
            Ok(object) => Self {
                object: Some(object),
                text,
                error: None,
            },
            Err(error) => ApiError::new(
                ErrorCode::Internal,
                format!("cannot write the answer as JSON: {error}"),
                "report this defect; `switcher status` shows what stands",
            )
            .into(),
        }
    }

    /// A success without an answer.
    pub(super) fn silent() -> Self {
        Self {
            object: None,
            text: String::new(),
            error: None,
        }
    }

    /// The same answer as a failure; its object already has the error.
    pub(super) fn failed(mut self, error: Option<ApiError>) -> Self {
        self.error = error;
        self
    }

    /// Shows it; the exit code.
    pub(super) fn finish(self, json: bool, console: &mut Console<'_>) -> u8 {
        let code = self
            .error
            .as_ref()
            .map_or(0, |error| error.code.exit_code());
        let text = match self.object {
            Some(object) if json => object.to_string(),
            _ if json => String::new(),
            _ => self.text,
        };
        let code = console.print(&text, code);
        if let Some(error) = self.error.filter(|_| !json) {
            console.note(&format!(
                "error: {}\nnext step: {}",
                error.message, error.next_step
            ));
        }
        code
    }
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        let failure = Failure { error };
        Self {
            object: serde_json::to_value(&failure).ok(),
            text: String::new(),
            error: Some(failure.error),
        }
    }
}

impl From<ChangeFailure> for Answer {
    fn from(failure: ChangeFailure) -> Self {
        Self {
            object: serde_json::to_value(&failure).ok(),
            text: String::new(),
            error: Some(failure.error),
        }
    }
}

/// The class of what went wrong in this process.
pub(super) fn classify(error: &anyhow::Error) -> ApiError {
    let message = format!("{error:#}");
    if let Some(known) = error.downcast_ref::<ApiError>() {
        return ApiError::new(known.code, message, known.next_step.clone());
    }
    if error.is::<ConfigError>() {
        let next_step = "mend the file, then check it with `switcher agent --check --config FILE`";
        return ApiError::new(ErrorCode::Usage, message, next_step);
    }
    let next_step = "see what `switcher agent --check --config FILE` finds";
    ApiError::new(ErrorCode::Internal, message, next_step)
}
