//! `switcher agent`

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Local,
    answer::{Answer, classify},
};
use crate::{api::types::ApiError, config::defaults, preflight::Report};

/// Arguments of `switcher agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = defaults::CONFIG)]
    pub config: PathBuf,

    /// Check the configuration and the node, change nothing
    #[arg(long)]
    pub check: bool,
}

pub(super) fn run(args: &AgentArgs, local: Local) -> Answer {
    if args.check {
        return check(args, local);
    }
    match (local.agent)(args) {
        Ok(()) => Answer::silent(),
        Err(error) => classify(&error).into(),
    }
}

/// What `agent --check` found: its object with `--json`.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// All of it.
    #[serde(flatten)]
    pub report: Report,
    /// What stands in the way of a start, as one error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

fn check(args: &AgentArgs, local: Local) -> Answer {
    match (local.check)(args) {
        Ok(checked) => Answer::new(&checked, checked.report.to_string()).failed(checked.error),
        Err(error) => classify(&error).into(),
    }
}
