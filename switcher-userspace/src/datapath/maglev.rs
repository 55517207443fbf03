//! Weighted Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4), filled in userspace, read by the program.
//!
//! A table depends only on the addresses, ports and weights of the backends, so every node with the
//! same configuration fills it alike.

use switcher_common::{address::WideAddress, select::mix};

/// One backend of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// What the slots hold.
    pub(super) id: u32,
    /// Its address.
    pub(super) address: WideAddress,
    /// Its port in network byte order.
    pub(super) port_be: u16,
    /// Its share of the slots relative to the others, at least 1.
    pub(super) weight: u16,
}

impl Member {
    fn weight(&self) -> u64 {
        u64::from(self.weight.max(1))
    }
}

/// Slots per backend in small tables. The fewer slots, the more of them move beside those of a
/// backend that is removed: with 2 000 per backend at most 1 % of all (0.95 % was the most among
/// thousands of random sets), with 100 up to 4 %.
const SLOTS_PER_BACKEND: usize = 2_000;
/// Of two backends each removal leaves one, which gets all slots: a small table does as well.
const SLOTS_OF_TWO: usize = 211;
/// From here on, 100 slots per backend are enough. The prime below 2^16.
const LARGE_TABLE: usize = 65_521;
/// Slots per backend in any table.
const LEAST_SLOTS_PER_BACKEND: usize = 100;
/// Slots of the lightest backend, up to [`LARGE_TABLE`]: its share is within a tenth of its weight's.
const LEAST_SLOTS_OF_ONE: usize = 10;

/// Number of slots for these backends: a prime, so that every step visits all slots.
pub(super) fn slots(members: &[Member]) -> usize {
    let backends = members.len();
    let for_moves = match backends {
        0 | 1 => return backends,
        2 => SLOTS_OF_TWO,
        _ => backends.saturating_mul(SLOTS_PER_BACKEND).min(LARGE_TABLE),
    };
    let weights = || members.iter().map(Member::weight);
    let lightest = weights().min().unwrap_or(1);
    let for_weights = weights().sum::<u64>().div_ceil(lightest);
    let for_weights = usize::try_from(for_weights)
        .unwrap_or(LARGE_TABLE)
        .saturating_mul(LEAST_SLOTS_OF_ONE)
        .min(LARGE_TABLE);
    next_prime(
        for_moves
            .max(for_weights)
            .max(backends.saturating_mul(LEAST_SLOTS_PER_BACKEND)),
    )
}

/// The first prime that is not below `at_least`, which is at least 2.
fn next_prime(at_least: usize) -> usize {
    let is_prime = |n: usize| {
        (2..n)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
    };
    let mut candidate = at_least;
    while !is_prime(candidate) {
        candidate += 1;
    }
    candidate
}

/// Fills a table: the id for each slot. Empty without members.
///
/// A member gets its weight's share of the slots, rounded up or down, and at least one slot.
pub(super) fn fill(members: &[Member]) -> Vec<u32> {
    fill_sized(members, slots(members))
}

fn fill_sized(members: &[Member], len: usize) -> Vec<u32> {
    debug_assert!(len >= members.len(), "a slot for each backend");
    if let [only] = members {
        return vec![only.id; len];
    }
    let order = shuffled(len);
    let mut walks: Vec<Walk> = members
        .iter()
        .map(|member| Walk::new(member, len))
        .collect();
    // The order of the list must not matter.
    walks.sort_by_key(|walk| walk.digest);
    share_out(&mut walks, len);
    let heaviest = walks.iter().map(|walk| walk.weight).max().unwrap_or(1);
    let mut table = vec![None; len];
    let mut free: u64 = walks.iter().map(|walk| walk.quota).sum();
    while free > 0 {
        for walk in &mut walks {
            if walk.has_turn(heaviest) {
                walk.take_slot(&mut table, &order);
                free -= 1;
            }
        }
    }
    table.into_iter().flatten().collect()
}

/// Sets the quotas: what a weight's share is rounded down to, and one more where the remainders are
/// largest; at least 1.
fn share_out(walks: &mut [Walk], len: usize) {
    let total: u64 = walks.iter().map(|walk| walk.weight).sum();
    let len = len as u64;
    let mut left = len;
    for walk in &mut *walks {
        walk.quota = (len * walk.weight / total.max(1)).max(1);
        left = left.saturating_sub(walk.quota);
    }
    let mut by_remainder: Vec<_> = (0..walks.len()).collect();
    by_remainder.sort_by_key(|&at| std::cmp::Reverse(len * walks[at].weight % total.max(1)));
    for at in by_remainder.into_iter().cycle() {
        if left == 0 {
            break;
        }
        walks[at].quota += 1;
        left -= 1;
    }
    // Slots that the lightest have got beyond their share are the heaviest ones'.
    let mut given: u64 = walks.iter().map(|walk| walk.quota).sum();
    while given > len {
        let Some(largest) = walks.iter_mut().max_by_key(|walk| walk.quota) else {
            break;
        };
        largest.quota -= 1;
        given -= 1;
    }
}

/// The numbers below `len` in an order that depends on nothing else. In the paper's plain steps two
/// members may follow each other through the table, and then a third one's removal moves much
/// between them; over this order their ways have nothing to do with each other.
fn shuffled(len: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..).take(len).collect();
    for last in (1..len).rev() {
        order.swap(last, below(mix(last as u64 ^ 0x736c_6f74), last + 1));
    }
    order
}

/// A member's way through the slots: its permutation, and the turns that its weight gives it.
struct Walk {
    id: u32,
    digest: u64,
    start: usize,
    step: usize,
    /// Turns that were made.
    at: usize,
    weight: u64,
    credit: u64,
    /// Slots that it is still to get.
    quota: u64,
}

impl Walk {
    fn new(member: &Member, len: usize) -> Self {
        let [a, b, c, d] = member.address.0;
        let digest = [a, b, c, d, u32::from(member.port_be)]
            .into_iter()
            .fold(0x6d61_676c_6576, |digest, word| {
                mix(digest ^ u64::from(word))
            });
        Self {
            id: member.id,
            digest,
            start: below(mix(digest ^ 1), len),
            step: below(mix(digest ^ 2), len - 1) + 1,
            at: 0,
            weight: member.weight(),
            credit: 0,
            quota: 0,
        }
    }

    /// The heaviest member has a turn each round, the others in proportion, until all have theirs.
    fn has_turn(&mut self, heaviest: u64) -> bool {
        self.credit += self.weight;
        let turn = self.credit >= heaviest && self.quota > 0;
        if turn {
            self.credit -= heaviest;
            self.quota -= 1;
        }
        turn
    }

    /// Takes the first slot of its way that is free.
    fn take_slot(&mut self, table: &mut [Option<u32>], order: &[u32]) {
        while let Some(&turn) = order.get(self.at) {
            self.at += 1;
            let slot = (self.start + self.step * turn as usize) % table.len();
            if table[slot].is_none() {
                table[slot] = Some(self.id);
                return;
            }
        }
    }
}

/// `hash` as an index of `len` slots.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder is below a usize"
)]
const fn below(hash: u64, len: usize) -> usize {
    (hash % len as u64) as usize
}

#[cfg(test)]
mod tests;
