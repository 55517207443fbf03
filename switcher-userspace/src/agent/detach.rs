//! `switcher detach`: takes the data path away while no agent runs.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::bail;

use super::core::data_path;
use crate::{
    api::types::{ApiError, ChangeReply, ErrorCode},
    cli::DetachArgs,
    config::{Config, defaults},
    datapath::{self, DataPathError, Pinned},
};

/// Detaches as `args` say. Refuses while flows are in flight, unless forced.
pub fn detach(args: DetachArgs) -> anyhow::Result<ChangeReply> {
    let pin_dir = pin_dir(args.pin_dir, args.config)?;
    let detached = if args.force {
        datapath::remove_pinned(&pin_dir)
    } else {
        match Pinned::open(&pin_dir) {
            Ok(mut pinned) => {
                refuse_while_in_flight(&mut pinned)?;
                pinned.remove()
            }
            Err(error) => Err(error),
        }
    };
    match detached {
        Ok(()) => Ok(reply(true)),
        Err(DataPathError::NotLoaded { .. }) => Ok(reply(false)),
        Err(error) => bail!(data_path(&error)),
    }
}

fn pin_dir(named: Option<PathBuf>, config: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    Ok(match (named, config) {
        (Some(dir), _) => dir,
        (None, Some(file)) => Config::load(&file)?.agent.pin_dir,
        (None, None) => defaults::PIN_DIR.into(),
    })
}

fn refuse_while_in_flight(pinned: &mut Pinned) -> Result<(), ApiError> {
    let in_flight = pinned.in_flight().map_err(|error| data_path(&error))?;
    let busy: Vec<String> = in_flight
        .into_iter()
        .filter(|(_, flows)| *flows > 0)
        .map(|(service, flows)| format!("{service} has {flows}"))
        .collect();
    if busy.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Refused,
        format!("cannot detach: flows are in flight: {}", busy.join(", ")),
        "wait until they have finished, or `switcher detach --force`, which cuts them",
    ))
}

fn reply(changed: bool) -> ChangeReply {
    ChangeReply {
        changed,
        generation: 0,
        active: BTreeMap::new(),
        would_change: None,
        visible_us: None,
        barrier_us: None,
        detect_ms: None,
        difference: None,
        error: None,
    }
}
