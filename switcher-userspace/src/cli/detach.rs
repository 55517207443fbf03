//! `switcher detach`

use std::path::PathBuf;

use super::{
    Local,
    answer::{Answer, classify},
};
use crate::api::types::ChangeFailure;

/// Arguments of `switcher detach`.
#[derive(Clone, Debug, clap::Args)]
pub struct DetachArgs {
    /// The configuration file that names the pin directory
    #[arg(long, value_name = "FILE", conflicts_with = "pin_dir")]
    pub config: Option<PathBuf>,

    /// The pin directory
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,

    /// Detach although flows are in flight: they lose their backends
    #[arg(long)]
    pub force: bool,

    /// Whether standard output carries JSON.
    #[arg(from_global)]
    pub json: bool,
}

pub(super) fn run(args: DetachArgs, local: Local) -> Answer {
    match (local.detach)(args) {
        Ok(reply) => {
            let text = if reply.changed {
                "the data path is detached"
            } else {
                "no data path is attached"
            };
            Answer::new(&reply, text.to_owned()).failed(reply.error)
        }
        Err(error) => ChangeFailure::from(classify(&error)).into(),
    }
}
