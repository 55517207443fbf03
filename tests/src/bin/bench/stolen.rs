//! How much of its time the machine did not get while it was measured: a virtual one shares its processors with others.

use std::fs;

const FILE: &str = "/proc/stat";

/// Time of all processors since the machine has started, in the kernel's ticks (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Processors {
    /// They did something, or would have.
    wanted: u64,
    /// They would have, and the host ran somebody else.
    stolen: u64,
}

impl Processors {
    /// Until now; `None` where the kernel does not say.
    pub(crate) fn now() -> Option<Self> {
        Self::read(&fs::read_to_string(FILE).ok()?)
    }

    fn read(text: &str) -> Option<Self> {
        let all = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Result<Vec<u64>, _> = all.split_whitespace().map(str::parse).collect();
        let [user, nice, system, _idle, _waiting, hard, soft, stolen, ..] = ticks.ok()?[..] else {
            return None;
        };
        Some(Self {
            wanted: user + nice + system + hard + soft + stolen,
            stolen,
        })
    }

    /// What part of the time that was wanted since `before` others had.
    pub(crate) fn stolen_since(self, before: Self) -> f64 {
        let [stolen, wanted] = [
            self.stolen.saturating_sub(before.stolen),
            self.wanted.saturating_sub(before.wanted),
        ];
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
        let share = stolen as f64 / wanted.max(1) as f64;
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_nobody_wanted_was_stolen_from_nobody() {
        let of = |busy: u64, idle: u64, stolen: u64| {
            let text = format!("cpu  {busy} 0 0 {idle} 7 0 0 {stolen} 0 0\ncpu0 1 1 1 1\n");
            Processors::read(&text).expect("it is as the kernel writes it")
        };
        let before = of(100, 100, 10);
        assert!((of(160, 900, 30).stolen_since(before) - 0.25).abs() < 1e-9);
        assert!(of(100, 900, 10).stolen_since(before).abs() < 1e-9);
        assert_eq!(Processors::read("intr 1 2 3"), None);
    }
}
