//! Where the project is, and how cargo is run in it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{process::run_kept_back, toolchain};

const METADATA_LIMIT: Duration = Duration::from_mins(2);

/// The project's folder. cargo names this crate's at run time; a clone may have been moved since
/// it was compiled.
pub(crate) fn root() -> Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .parent()
        .map(Path::to_path_buf)
        .with_context(|| format!("{} has no parent folder", package.display()))
}

/// A cargo command in the project.
pub(crate) fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(toolchain::cargo());
    command.args(args).current_dir(root);
    command
}

/// The folder that cargo builds into, wherever the user has put it.
pub(crate) fn target_dir(root: &Path) -> Result<PathBuf> {
    let mut command = cargo(root, &["metadata", "--format-version=1", "--no-deps"]);
    let text = run_kept_back(
        "asking cargo for the target folder",
        &mut command,
        METADATA_LIMIT,
    )?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("cargo metadata named no target_directory")
}
