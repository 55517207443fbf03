//! What was heard of a backend when it was sent a SYN: whether it accepts connections just now.

use bytemuck::{Pod, Zeroable};

use crate::shared;

/// For how long a backend that has refused a SYN, and answered none since, is not tried for others'
/// second chance: 1 s.
pub const REFUSING_TICKS: u32 = 954;

/// How far ahead a refusal may lie that another CPU has just noted. What is further away was noted long ago:
/// ticks wrap.
const AHEAD_TICKS: u32 = 16;

/// A SYN that is repeated sooner than this after the one before was not left unanswered: 100 ms. Networks
/// send packets twice, and the first retransmission of a client comes after 1 s (RFC 6298, 2.1).
pub const UNANSWERED_TICKS: u32 = 96;

/// A backend's answers; index is its id. All CPUs write it, in handshakes alone, and each field is valid on
/// its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Heard {
    /// Tick of its newest SYN-ACK; 0: none came.
    pub answered: u32,
    /// Tick at which it refused a SYN; 0: it has not, or has answered one since.
    pub refused: u32,
}
shared!(Heard, 8);

impl Heard {
    /// Whether it has refused a SYN just now, and answered none since.
    #[inline(always)]
    #[must_use]
    pub const fn is_refusing(&self, now: u32) -> bool {
        let since = now.wrapping_sub(self.refused).wrapping_add(AHEAD_TICKS);
        self.refused != 0
            && since <= REFUSING_TICKS + AHEAD_TICKS
            && !cfg!(mutant = "refusing-unknown")
    }

    /// It refuses a SYN at tick `now`.
    #[inline(always)]
    pub const fn hear_refusal(&mut self, now: u32) {
        // All CPUs share the memory: it is written only where that changes something.
        if self.refused != now {
            self.refused = now;
        }
    }

    /// It answers a SYN at tick `now`.
    #[inline(always)]
    pub const fn hear_answer(&mut self, now: u32) {
        if self.answered != now {
            self.answered = now;
        }
        if self.refused != 0 {
            self.refused = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_at(tick: u32) -> Heard {
        let mut heard = Heard::default();
        heard.hear_refusal(tick);
        heard
    }

    #[test]
    fn a_backend_refuses_until_it_answers_or_for_a_second() {
        let mut heard = refused_at(1_000);
        assert!(heard.is_refusing(1_000));
        assert!(heard.is_refusing(1_000 + REFUSING_TICKS));
        assert!(!heard.is_refusing(1_001 + REFUSING_TICKS), "long ago");
        heard.hear_answer(1_000);
        assert!(!heard.is_refusing(1_500), "it answers again");
        heard.hear_refusal(1_200);
        assert!(heard.is_refusing(1_500), "it answered before");
        assert!(!Heard::default().is_refusing(5), "nothing is known");
    }

    #[test]
    fn ticks_wrap_and_an_old_refusal_does_not_come_back() {
        let mut heard = refused_at(u32::MAX - 5);
        assert!(heard.is_refusing(7));
        heard.hear_answer(3);
        assert!(!heard.is_refusing(7));
        let old = refused_at(1_000);
        assert!(old.is_refusing(1_000 - AHEAD_TICKS), "of another CPU");
        for days in [1_u32, 25, 26, 27, 40, 51] {
            let ticks = days * 82_397_461;
            assert!(!old.is_refusing(ticks.wrapping_add(1_000)), "{days} days");
        }
    }
}
