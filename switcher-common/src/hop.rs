//! The next hop that a direction of a flow keeps: the kernel's answer to where its packets go, so that it is
//! not asked for each of them.
//!
//! An answer serves the packets that ask the same, and only while the epoch stands, which the agent raises when
//! anything changes that the answer depends on. Where no agent watches, it serves for a second at most: so after a
//! change no packet goes astray for longer than that, whether there is an agent or not.

use bytemuck::{Pod, Zeroable};

use crate::{address::Address, clock::ticks_from_ms, shared};

/// For how long a hop serves where no agent watches, in ticks, and for how long an agent's word that it does
/// counts: 1 s.
pub const LIFETIME: u32 = ticks_from_ms(1_000);
/// How far the program's clock may be behind the agent's, and a CPU's behind another's, in ticks: a period of the
/// kernel's timer, 10 ms at most.
const CLOCK_LAG: u32 = 16;
/// For how long a hop serves while an agent watches: 10 s. A million flows at one packet a second each ask for every
/// tenth one.
pub const WATCHED_LIFETIME: u32 = ticks_from_ms(10_000);

/// Bits of the type of service that routes may depend on: without those of congestion (RFC 3168).
const DSCP: u8 = 0xfc;

/// What the kernel's routing tables are asked about a packet, as far as they may answer differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<A> {
    /// Source address, after translation.
    pub src: A,
    /// Destination address, after translation.
    pub dst: A,
    /// IP protocol number.
    pub protocol: u8,
    /// Index of the interface that it came in by.
    pub ingress: u32,
    /// Type of service.
    pub tos: u8,
    /// Length of the IP packet in bytes; 0: whatever the MTU.
    pub ip_len: u16,
}

/// What the agent says of hops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HopWatch {
    /// Hops from before it was raised serve no more.
    pub epoch: u32,
    /// Tick until which it is certain that an agent watches; it comes again and again.
    pub until: u32,
}
shared!(HopWatch, 8);

impl HopWatch {
    /// The next epoch. The number wraps; a hop of one turn before is older than hops get.
    #[must_use]
    pub const fn raised(self) -> Self {
        Self {
            epoch: self.epoch.wrapping_add(1),
            ..self
        }
    }

    /// An agent watches at tick `now`.
    #[must_use]
    pub const fn renewed(self, now: u32) -> Self {
        Self {
            until: now.wrapping_add(LIFETIME),
            ..self
        }
    }

    /// For how long a hop serves, in ticks, as far as is known at tick `now`.
    #[inline(always)]
    const fn lifetime(self, now: u32) -> u32 {
        let is_watched = self.until != 0 && self.until.wrapping_sub(now) <= LIFETIME + CLOCK_LAG;
        if is_watched || (self.until != 0 && cfg!(mutant = "hop-watched-for-good")) {
            WATCHED_LIFETIME
        } else {
            LIFETIME
        }
    }
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// Out of the interface that it came in by.
    Transmit = 1,
    /// Out of another one.
    Redirect = 2,
}

/// An answer, and what it was the answer to. All zero is none.
///
/// Sixteen bytes, so that an IPv4 flow's entry is a cache line. What two CPUs have torn that wrote it at once, and
/// what belongs to another flow, which had the entry's place before, is not believed: [`Self::check`] is of all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NextHop {
    /// Link address of the neighbour.
    pub dmac: [u8; 6],
    /// [`Question::tos`] without congestion, whose two bits are a [`Way`] as its number; there 0: none is kept.
    pub class: u8,
    /// Low bits of the epoch before the kernel was asked.
    pub epoch: u8,
    /// Index of the interface that the neighbour is reached by.
    pub egress: u16,
    /// Longest IP packet in bytes that goes there.
    pub mtu: u16,
    /// Low bits of the tick at which the kernel was asked.
    pub looked_at: u16,
    /// Sum of all else, of the whole epoch, and of what the kernel was asked.
    pub check: u16,
}
shared!(NextHop, 16);

/// The bits of [`NextHop::class`] that are a [`Way`].
const WAY: u8 = !DSCP;

impl NextHop {
    /// The answer with what makes it serve packets that ask as `question` does, by `way`.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "low bits are kept, the check is of all"
    )]
    pub fn kept<A: Address>(self, question: &Question<A>, way: Way, epoch: u32) -> Self {
        let mut hop = Self {
            class: (question.tos & DSCP) | way as u8,
            epoch: epoch as u8,
            ..self
        };
        hop.check = hop.sum(question, epoch);
        hop
    }

    /// How a packet that asks `question` at tick `now` leaves by it; `None`: the kernel is to be asked. `last_seen` is
    /// the tick of the direction's packet before: the low bits of an older one's tick may look young again.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "as in `kept`")]
    pub fn serves<A: Address>(
        &self,
        question: &Question<A>,
        last_seen: u32,
        now: u32,
        watch: HopWatch,
    ) -> Option<Way> {
        let (epoch, lifetime) = (watch.epoch, watch.lifetime(now));
        let is_forever = cfg!(mutant = "hop-for-good");
        // Another CPU may have written either, and be ahead.
        let ahead = now.wrapping_add(CLOCK_LAG);
        let age = u32::from((ahead as u16).wrapping_sub(self.looked_at));
        let oldest = lifetime + CLOCK_LAG;
        let is_young = age < oldest && ahead.wrapping_sub(last_seen) < oldest;
        let fits = question.ip_len <= self.mtu || cfg!(mutant = "hop-any-length");
        let is_of_class = (self.class ^ question.tos) & DSCP == 0;
        let is_of_epoch = self.epoch == epoch as u8 || is_forever;
        let is_whole = self.check == self.sum(question, epoch) || cfg!(mutant = "hop-torn");
        if !(is_young || is_forever) || !fits || !is_of_class || !is_of_epoch || !is_whole {
            return None;
        }
        // Untagged packets are transmitted if and only if they leave by the interface that they came in by. The sum of
        // one of 65 536 flows is the same with another interface, and its packets would leave by the wrong one.
        let is_back = u32::from(self.egress) == question.ingress || cfg!(mutant = "hop-any-way");
        match self.class & WAY {
            1 if is_back => Some(Way::Transmit),
            2 if !is_back || cfg!(mutant = "hop-any-way") => Some(Way::Redirect),
            _ => None,
        }
    }

    /// Each word counts by a factor of its own, so that none makes up for another one.
    #[inline(always)]
    fn sum<A: Address>(&self, question: &Question<A>, epoch: u32) -> u16 {
        let [first, second]: [u64; 2] = bytemuck::cast(Self { check: 0, ..*self });
        let epoch = if cfg!(mutant = "hop-for-good") {
            0
        } else {
            epoch
        };
        let ingress = if cfg!(mutant = "hop-any-ingress") {
            0
        } else {
            question.ingress
        };
        let asked = u64::from(ingress) | u64::from(epoch) << 32;
        let asked = asked.rotate_left(8) ^ u64::from(question.protocol);
        let [words, src, dst] = FACTORS;
        let sum = (first.wrapping_mul(words[0]))
            .wrapping_add(second.wrapping_mul(words[1]))
            .wrapping_add(asked.wrapping_mul(words[2]))
            .wrapping_add(question.src.product([src[0], src[1]]))
            .wrapping_add(question.dst.product([dst[0], dst[1]]));
        // Folded, and multiplied once more: what differs in the high bits of a word alone works on few bits of a sum.
        let folded = (sum ^ (sum >> 32)).wrapping_mul(words[0]);
        (folded >> 48) as u16
    }
}

/// Odd numbers without a pattern: multiples of 2^64 divided by the golden ratio, each mixed.
const FACTORS: [[u64; 3]; 3] = {
    let mut factors = [[0; 3]; 3];
    let mut at = 0;
    while at < 9 {
        let seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(at as u64 + 1);
        factors[at / 3][at % 3] = crate::select::mix(seed) | 1;
        at += 1;
    }
    factors
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Ipv4, Ipv6};

    const NOW: u32 = 7;
    const EPOCH: u32 = 0x1_0003;
    /// Nobody watches at any tick that is looked at here.
    const WATCH: HopWatch = HopWatch {
        epoch: EPOCH,
        until: 0x7654_3210,
    };

    #[expect(clippy::cast_possible_truncation, reason = "the low bits")]
    const fn low(tick: u32) -> u16 {
        tick as u16
    }

    fn question() -> Question<Ipv4> {
        Question {
            src: Ipv4(0x0100_000a),
            dst: Ipv4(0x0200_000a),
            protocol: 6,
            ingress: 4,
            tos: 0x28,
            ip_len: 1_500,
        }
    }

    fn hop() -> NextHop {
        NextHop {
            dmac: [2, 0, 0, 0, 0, 1],
            egress: 5,
            looked_at: low(NOW),
            mtu: 1_500,
            ..NextHop::default()
        }
        .kept(&question(), Way::Redirect, EPOCH)
    }

    #[test]
    fn a_hop_serves_what_it_was_looked_up_for() {
        let hop = hop();
        assert_eq!(
            hop.serves(&question(), NOW, NOW, WATCH),
            Some(Way::Redirect)
        );
        let from_there = Question {
            ingress: hop.egress.into(),
            ..question()
        };
        let back = hop.kept(&from_there, Way::Transmit, EPOCH);
        assert_eq!(
            back.serves(&from_there, NOW, NOW, WATCH),
            Some(Way::Transmit)
        );
        let shorter = Question {
            ip_len: 20,
            ..question()
        };
        assert!(hop.serves(&shorter, NOW, NOW, WATCH).is_some());
        let congested = Question {
            tos: 0x2b,
            ..question()
        };
        assert!(hop.serves(&congested, NOW, NOW, WATCH).is_some());
    }

    #[test]
    fn none_serves_nothing() {
        let nothing = Question {
            src: Ipv4(0),
            dst: Ipv4(0),
            protocol: 0,
            ingress: 0,
            tos: 0,
            ip_len: 0,
        };
        assert_eq!(
            NextHop::default().serves(&nothing, 0, 0, HopWatch::default()),
            None
        );
        assert_eq!(
            NextHop::default().serves(&question(), NOW, NOW, WATCH),
            None
        );
    }

    #[test]
    fn a_hop_serves_for_a_second_across_the_wrap_of_ticks_and_never_again() {
        let ages = [
            (0, true),
            (LIFETIME - 1, true),
            (LIFETIME, false),
            (0xffff, false),
            (0x1_0000, false),
            (0x1_0000 + LIFETIME - 1, false),
            (u32::MAX / 2, false),
            // Ahead, as another CPU's clock may be.
            (u32::MAX, true),
            (CLOCK_LAG.wrapping_neg(), true),
            (CLOCK_LAG.wrapping_neg() - 1, false),
        ];
        for looked_at in [NOW, 0xfffe, u32::MAX - 3, u32::MAX / 2] {
            let answer = NextHop {
                looked_at: low(looked_at),
                ..hop()
            };
            let hop = answer.kept(&question(), Way::Redirect, EPOCH);
            for (age, serves) in ages {
                let now = looked_at.wrapping_add(age);
                let served = hop.serves(&question(), looked_at, now, WATCH);
                assert_eq!(served.is_some(), serves, "{looked_at} {age}");
            }
        }
    }

    #[test]
    fn while_an_agent_watches_a_hop_serves_for_longer_and_for_a_second_once_it_is_gone() {
        for looked_at in [NOW, u32::MAX - 3] {
            let answer = NextHop {
                looked_at: low(looked_at),
                ..hop()
            };
            let hop = answer.kept(&question(), Way::Redirect, EPOCH);
            let serves = |age, word| {
                let watch = WATCH.renewed(looked_at.wrapping_add(word));
                let now = looked_at.wrapping_add(age);
                hop.serves(&question(), looked_at, now, watch).is_some()
            };
            for (age, word, expected) in [
                (LIFETIME, LIFETIME, true),
                (WATCHED_LIFETIME - 1, WATCHED_LIFETIME - 1, true),
                (WATCHED_LIFETIME, WATCHED_LIFETIME, false),
                (LIFETIME, 0, true),
                (LIFETIME + 1, 0, false),
                (5 * LIFETIME, 4 * LIFETIME, true),
                (5 * LIFETIME + 1, 4 * LIFETIME, false),
                // The program's clock is behind.
                (LIFETIME, LIFETIME + 10, true),
            ] {
                assert_eq!(serves(age, word), expected, "{looked_at} {age} {word}");
            }
        }
    }

    #[test]
    fn another_epoch_ingress_class_or_greater_length_is_asked_anew() {
        let hop = hop();
        for epoch in [EPOCH + 1, EPOCH - 1, EPOCH + 0x100, EPOCH - 0x1_0000] {
            let watch = HopWatch { epoch, ..WATCH };
            assert_eq!(hop.serves(&question(), NOW, NOW, watch), None, "{epoch:#x}");
        }
        let same = question();
        for other in [
            Question {
                protocol: 17,
                ..same
            },
            Question { ingress: 5, ..same },
            Question { tos: 0x2c, ..same },
            Question {
                ip_len: 1_501,
                ..same
            },
            Question {
                dst: Ipv4(9),
                ..same
            },
            Question {
                src: Ipv4(9),
                ..same
            },
        ] {
            assert_eq!(hop.serves(&other, NOW, NOW, WATCH), None, "{other:?}");
        }
    }

    #[test]
    fn no_packet_is_transmitted_by_another_interface_or_redirected_to_its_own() {
        // A sum of 16 bits alone would believe a few of so many.
        for flow in 0..300_000_u32 {
            let by = |ingress| Question {
                src: Ipv4(flow.wrapping_mul(0x9e37_79b1)),
                ingress,
                ..question()
            };
            let egress = hop().egress.into();
            for (kept_for, way, comes_by) in [
                (egress, Way::Transmit, egress + 1),
                (egress + 1, Way::Redirect, egress),
            ] {
                let hop = hop().kept(&by(kept_for), way, EPOCH);
                let served = hop.serves(&by(comes_by), NOW, NOW, WATCH);
                assert_eq!(served, None, "{way:?} {flow}");
            }
        }
    }

    #[test]
    fn a_hop_that_is_made_of_two_is_not_believed() {
        let other = NextHop {
            dmac: [6, 1, 7, 2, 9, 8],
            egress: 6,
            looked_at: low(NOW - 1),
            mtu: 9_000,
            ..hop()
        }
        .kept(&question(), Way::Redirect, EPOCH);
        let (one, two): ([u16; 8], [u16; 8]) = (bytemuck::cast(hop()), bytemuck::cast(other));
        for torn in 0..=255_u8 {
            let mix: [u16; 8] = core::array::from_fn(|at| {
                let source = if torn >> at & 1 == 1 { one } else { two };
                source[at]
            });
            // A word that both have alike tears nothing.
            if mix == one || mix == two {
                continue;
            }
            let hop: NextHop = bytemuck::cast(mix);
            let served = hop.serves(&question(), NOW, NOW, WATCH);
            assert_eq!(served, None, "{torn:#b}");
        }
    }

    #[test]
    fn a_hop_of_another_flow_is_not_believed() {
        let hop = hop();
        for last in 3..=255_u32 {
            let other = Question {
                dst: Ipv4(0x0000_000a | last << 24),
                ..question()
            };
            assert_eq!(hop.serves(&other, NOW, NOW, WATCH), None, "{last}");
        }
        let to = |last: u32| Question {
            src: Ipv6([1, 0, 0, 1]),
            dst: Ipv6([1, 0, 0, last]),
            protocol: 6,
            ingress: 4,
            tos: 0,
            ip_len: 1,
        };
        let hop = hop.kept(&to(2), Way::Redirect, EPOCH);
        assert!(hop.serves(&to(2), NOW, NOW, WATCH).is_some());
        assert_eq!(hop.serves(&to(3), NOW, NOW, WATCH), None);
        let turned = Question {
            src: to(2).dst,
            dst: to(2).src,
            ..to(2)
        };
        assert_eq!(hop.serves(&turned, NOW, NOW, WATCH), None);
    }
}
