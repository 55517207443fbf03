//! What is asked for, and how much of it must happen to count.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Parser;

/// New connections per second, of both clients and IP versions together.
pub(crate) const RATE: u32 = 300;
/// Answers before the fault, and as many connections after it, that there must be at least.
pub(crate) const MIN_ATTEMPTS: usize = 150;
/// Successful connections in a row that count as recovered.
pub(crate) const RECOVERED: usize = 100;
/// Load before the fault.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
/// Time for what must be decided or seen.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Makes servers fail in a lab of network namespaces, under load, and prints what clients noticed.
///
/// The exit code is 0 when each scenario ended as it must. HAProxy goes through one of them in the same lab, for
/// comparison.
#[derive(Clone, Debug, Parser)]
#[command(name = "failover")]
pub(crate) struct Plan {
    /// Print exactly one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,

    /// A short run of a few scenarios, without HAProxy
    #[arg(long)]
    pub(crate) quick: bool,

    /// Only these scenarios
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// HAProxy's program
    #[arg(long, value_name = "FILE", conflicts_with = "no_haproxy")]
    pub(crate) haproxy: Option<PathBuf>,

    /// Folders with the libraries that HAProxy needs, as `LD_LIBRARY_PATH` takes them
    #[arg(long, value_name = "FOLDERS", requires = "haproxy")]
    pub(crate) haproxy_libraries: Option<OsString>,

    /// Why there is no HAProxy
    #[arg(long, value_name = "TEXT")]
    pub(crate) no_haproxy: Option<String>,
}

impl Plan {
    /// Load after the decision: a connection whose first SYN was lost sends the next one after a second.
    pub(crate) const fn cool_down(&self) -> Duration {
        Duration::from_millis(if self.quick { 1_500 } else { 3_000 })
    }

    /// A check that takes longer has failed. A short run may be one of many on a busy machine.
    pub(crate) const fn check_timeout_ms(&self) -> u64 {
        if self.quick { 1_000 } else { 200 }
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}
