//! Caps on what a flood could make the program do: so often in each window of 2^7 ticks.

/// One cap, and how often it was used in the current window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cap {
    /// How often in a window.
    pub budget: u32,
    window: u32,
    used: u32,
}

impl Cap {
    /// Once more at tick `now`; `false`: not in this window.
    pub fn take(&mut self, now: u32) -> bool {
        if self.window != now >> 7 {
            self.window = now >> 7;
            self.used = 0;
        }
        let is_free = self.used < self.budget;
        self.used += u32::from(is_free);
        is_free
    }

    /// Forgets what was used.
    pub fn clear(&mut self) {
        (self.window, self.used) = (0, 0);
    }
}
