//! A configuration as the agent carries it out.

use std::{collections::BTreeMap, sync::Arc};

use super::applied::Kept;
use crate::config::Config;

/// A configuration, the ids that the maps give its services, and which text holds after a restart.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) config: Arc<Config>,
    pub(super) ids: Arc<BTreeMap<String, u16>>,
    pub(super) kept: Kept,
}
