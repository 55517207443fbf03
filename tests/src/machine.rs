//! Where figures come from.

use std::fs;

use serde::Serialize;

/// The machine that something was measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the first processor.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// Tasks that wanted to run, over a minute: who else was there.
    pub load_average: String,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let models = || {
            cpu.lines()
                .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        };
        let first = models().next().map(|(_, name)| name.to_owned());
        let load = read("/proc/loadavg");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: first.unwrap_or_default(),
            processors: models().count(),
            load_average: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}
