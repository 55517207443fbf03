//! `switcher agent`

use std::path::PathBuf;

use super::{
    Local,
    answer::{Answer, classify},
};
use crate::config::defaults;

/// Arguments of `switcher agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = defaults::CONFIG)]
    pub config: PathBuf,

    /// Check the configuration and the node, change nothing
    #[arg(long)]
    pub check: bool,

    /// Whether standard output carries JSON.
    #[arg(from_global)]
    pub json: bool,
}

pub(super) fn run(args: AgentArgs, local: Local) -> Answer {
    match (local.agent)(args) {
        Ok(()) => Answer::silent(),
        Err(error) => classify(&error).into(),
    }
}
