//! What the demo does, and how much of it must happen to count.

use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use switcher_tests::node::LabService;

/// Flips that must happen at least.
pub(crate) const MIN_FLIPS: u32 = 6;
/// HTTP requests that must be made at least.
pub(crate) const MIN_REQUESTS: u64 = 1_000;
/// Long-lived connections that there must be at least.
pub(crate) const MIN_LONG_LIVED: usize = 10;
/// New flows of each IP version and protocol that must begin between two flips.
pub(crate) const MIN_NEW_FLOWS: u64 = 100;
/// How long the drain of a service whose flows end by themselves may take.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Flips services between blue and green under load, in network namespaces of its own.
///
/// Shows on standard error who gets the traffic, and ends with a summary on standard output. The
/// exit code is 0 when nothing failed, broke or was lost, and enough happened to tell.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "demo")]
pub(crate) struct Plan {
    /// How many times to flip
    #[arg(long, default_value_t = MIN_FLIPS, value_parser = clap::value_parser!(u32).range(i64::from(MIN_FLIPS)..=1_000))]
    pub(crate) flips: u32,

    /// Seconds from one flip to the next; a drain takes up to 3
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(3..=60))]
    pub(crate) seconds_between: u64,

    /// Print exactly one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl Plan {
    pub(crate) const fn between(self) -> Duration {
        Duration::from_secs(self.seconds_between)
    }
}

/// The services of the demo, each on a virtual address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Service {
    /// HTTP.
    Web,
    /// TCP connections that outlive all flips.
    Stream,
    /// UDP.
    Datagram,
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Web, Self::Stream, Self::Datagram];
    /// Those whose old flows end soon after a flip.
    pub(crate) const THAT_DRAIN: [Self; 2] = [Self::Web, Self::Datagram];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Stream => "stream",
            Self::Datagram => "datagram",
        }
    }

    pub(crate) fn in_lab(self) -> LabService {
        match self {
            Self::Web => LabService::web(0),
            // Its connections outlive the drain, which ends at its deadline and leaves them alone.
            Self::Stream => LabService {
                options: "drain_timeout = \"2s\"".to_owned(),
                ..LabService::stream(1)
            },
            Self::Datagram => LabService::datagram(2),
        }
    }
}
