//! Caps per CPU on what a flood could make the program do.

use bytemuck::{Pod, Zeroable};

use crate::{clock::TICK_SHIFT, shared};

/// What is capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Capped {
    /// Recording a flow.
    Insert = 0,
    /// Telling a sender that the time to live is over.
    TimeExceeded = 1,
    /// Telling a sender the next hop's MTU: a budget of its own, so that no flood of the others leaves
    /// path MTU discovery without an answer.
    TooBig = 2,
    /// Telling the agent something of a backend.
    Report = 3,
}

impl Capped {
    /// Number of things that are capped.
    pub const LEN: u32 = 4;
}

/// Ticks of a window as a power of two: 134 ms.
const WINDOW_SHIFT: u32 = 7;

/// The current window of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Window {
    /// Number of the window.
    pub number: u32,
    /// How often it happened in it.
    pub used: u32,
}
shared!(Window, 8);

impl Window {
    /// Counts one more at tick `now`; `false`: the window's `budget` is used up.
    #[inline(always)]
    #[must_use]
    pub const fn take(&mut self, now: u32, budget: u32) -> bool {
        let number = now >> WINDOW_SHIFT;
        if self.number != number {
            self.number = number;
            self.used = 0;
        }
        if self.used >= budget {
            return false;
        }
        self.used += 1;
        true
    }
}

/// What `per_second` allows in one window; at least 1.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a window is shorter than a second, so the budget is the smaller number"
)]
pub const fn budget(per_second: u32) -> u32 {
    let window_ns = 1_u64 << (TICK_SHIFT + WINDOW_SHIFT);
    let budget = per_second as u64 * window_ns / 1_000_000_000;
    if budget == 0 { 1 } else { budget as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_allows_its_budget_and_the_next_one_begins_anew() {
        let mut window = Window::default();
        let allowed = (0..10).filter(|_| window.take(5, 3)).count();
        assert_eq!(allowed, 3);
        assert!(window.take(5 + (1 << WINDOW_SHIFT), 3));
    }

    #[test]
    fn a_second_of_windows_allows_about_the_cap() {
        let windows = 1_000_000_000 >> (TICK_SHIFT + WINDOW_SHIFT);
        assert!((110_000..=125_000).contains(&(budget(125_000) * windows)));
        assert_eq!(budget(1), 1);
    }
}
