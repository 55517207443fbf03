//! What was heard of a backend when it was sent a SYN: whether it accepts connections just now.

use bytemuck::{Pod, Zeroable};

use crate::{clock::elapsed, shared};

/// For how long a backend that has refused a SYN, and answered none since, is not tried for others'
/// second chance: 1 s.
pub const REFUSING_TICKS: u32 = 954;

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
    /// Tick at which it refused a SYN; 0: it never has.
    pub refused: u32,
}
shared!(Heard, 8);

impl Heard {
    /// Whether it has refused a SYN just now, and answered none since.
    #[inline(always)]
    #[must_use]
    pub const fn is_refusing(&self, now: u32) -> bool {
        let since_refusal = elapsed(now, self.refused);
        let has_answered = self.answered != 0 && elapsed(now, self.answered) <= since_refusal;
        self.refused != 0 && since_refusal <= REFUSING_TICKS && !has_answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_refuses_until_it_answers_or_for_a_second() {
        let refused = Heard {
            answered: 0,
            refused: 1_000,
        };
        assert!(refused.is_refusing(1_000));
        assert!(refused.is_refusing(1_000 + REFUSING_TICKS));
        assert!(!refused.is_refusing(1_001 + REFUSING_TICKS), "long ago");
        let answers = |answered| Heard {
            answered,
            ..refused
        };
        assert!(answers(999).is_refusing(1_500), "it answered before");
        assert!(!answers(1_000).is_refusing(1_500), "in the same tick");
        assert!(!answers(1_400).is_refusing(1_500), "it answers again");
        assert!(!Heard::default().is_refusing(5), "nothing is known");
    }

    #[test]
    fn ticks_wrap() {
        let before = Heard {
            answered: 0,
            refused: u32::MAX - 5,
        };
        assert!(before.is_refusing(7));
        assert!(
            !Heard {
                answered: 3,
                ..before
            }
            .is_refusing(7)
        );
    }
}
