//! `cargo xtask build`.

use std::path::Path;

use anyhow::Result;

use crate::{process, setup, workspace};

/// Runs the command.
pub(crate) fn run(root: &Path) -> Result<()> {
    setup::ensure(root)?;
    process::run(&mut workspace::cargo(root, &["build", "--release"]))
}
