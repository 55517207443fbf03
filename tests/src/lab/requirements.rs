//! What a lab needs from the machine, tried once for each process.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use anyhow::Context;

use super::directory::LabDirectory;
use super::host::Host;
use super::namespace::BaseMounts;

/// Why no lab can be built on this machine.
#[derive(Clone, Debug)]
pub struct Skip {
    /// What is missing, in words for the one who runs the tests.
    pub reason: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

impl std::error::Error for Skip {}

/// Whether a lab can be built here: root, network and mount namespaces, bpffs, veth.
///
/// The first call tries each of them; the answer is kept.
pub fn requirements() -> Result<(), Skip> {
    static ANSWER: OnceLock<Result<(), Skip>> = OnceLock::new();
    ANSWER.get_or_init(examine).clone()
}

fn examine() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return Err(Skip {
            reason: "needs root: run it with sudo".to_owned(),
        });
    }
    try_parts().map_err(|error| Skip {
        reason: format!("no lab can be built here: {error:#}"),
    })
}

/// The parts only: a mistake in how a lab is put together must fail its tests, not skip them.
fn try_parts() -> anyhow::Result<()> {
    let directory = LabDirectory::new()?;
    let bpffs = directory.path().join("bpf");
    std::fs::create_dir(&bpffs).with_context(|| format!("making {}", bpffs.display()))?;
    let base = Arc::new(BaseMounts::new(&bpffs)?);
    let (near, far) = (
        Host::start("near", &base, &bpffs)?,
        Host::start("far", &base, &bpffs)?,
    );
    super::add_link(&near, "near0", &far, "far0", 1500).context("is there a kernel with veth?")
}

/// Writes `SKIPPED <test>: <reason>` to the real standard output, past the test runner's capture.
///
/// `test` may end in the path that [`skip_unless_lab!`](crate::skip_unless_lab) passes.
pub fn report_skip(test: &str, skip: &Skip) {
    let test = test.strip_suffix("::here").unwrap_or(test);
    let test = test.strip_suffix("::{{closure}}").unwrap_or(test);
    // A closed standard output has nobody to tell.
    let _ = writeln!(std::io::stdout().lock(), "SKIPPED {test}: {skip}");
}
