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

/// Slots per backend: with 1 000, removing one of N equal backends moves at most 1/N + 1 % of all
/// slots (with 100 it was up to 1/N + 3 %).
const SLOTS_PER_BACKEND: usize = 1_000;
/// Of two backends each removal leaves one, which gets all slots: a small table does as well.
const SLOTS_OF_TWO: usize = 211;
/// Largest table; the prime below 2^16.
const MAX_SLOTS: usize = 65_521;

/// Number of slots for `backends` backends: a prime, so that every step visits all slots.
pub(super) fn slots(backends: usize) -> usize {
    match backends {
        0 | 1 => backends,
        2 => SLOTS_OF_TWO,
        _ => next_prime(backends.saturating_mul(SLOTS_PER_BACKEND).min(MAX_SLOTS)),
    }
}

/// Between `n` and `2n` there is a prime (Bertrand), so both ranges end.
fn next_prime(at_least: usize) -> usize {
    let is_prime = |n: usize| {
        (2..n)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
    };
    (at_least..at_least * 2)
        .find(|&n| is_prime(n))
        .unwrap_or(MAX_SLOTS)
}

/// Fills a table: the id for each slot. Empty without members.
pub(super) fn fill(members: &[Member]) -> Vec<u32> {
    fill_sized(members, slots(members.len()))
}

fn fill_sized(members: &[Member], len: usize) -> Vec<u32> {
    let mut walks: Vec<Walk> = members
        .iter()
        .map(|member| Walk::new(member, len))
        .collect();
    // The order of the list must not matter.
    walks.sort_by_key(|walk| walk.digest);
    let heaviest = members
        .iter()
        .map(|member| member.weight)
        .max()
        .unwrap_or(1);
    let mut table = vec![None; len];
    let mut free = len;
    while free > 0 {
        for walk in &mut walks {
            if free > 0 && walk.has_turn(heaviest) {
                walk.take_slot(&mut table);
                free -= 1;
            }
        }
    }
    table.into_iter().flatten().collect()
}

/// A member's way through the slots: its permutation, and the turns that its weight gives it.
struct Walk {
    id: u32,
    digest: u64,
    at: usize,
    step: usize,
    weight: u32,
    credit: u32,
}

impl Walk {
    fn new(member: &Member, len: usize) -> Self {
        let [a, b, c, d] = member.address.0;
        let digest = [a, b, c, d, u32::from(member.port_be)]
            .into_iter()
            .fold(0x6d61_676c_6576, |digest, word| {
                mix(digest ^ u64::from(word))
            });
        let step = match len {
            1 => 1,
            _ => below(mix(digest ^ 2), len - 1) + 1,
        };
        Self {
            id: member.id,
            digest,
            at: below(mix(digest ^ 1), len),
            step,
            weight: u32::from(member.weight.max(1)),
            credit: 0,
        }
    }

    /// The heaviest member has a turn each round, the others in proportion.
    fn has_turn(&mut self, heaviest: u16) -> bool {
        self.credit += self.weight;
        let turn = self.credit >= u32::from(heaviest);
        if turn {
            self.credit -= u32::from(heaviest);
        }
        turn
    }

    fn take_slot(&mut self, table: &mut [Option<u32>]) {
        while table[self.at].is_some() {
            self.advance(table.len());
        }
        table[self.at] = Some(self.id);
        self.advance(table.len());
    }

    fn advance(&mut self, len: usize) {
        self.at = (self.at + self.step) % len;
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
#[expect(clippy::cast_precision_loss, reason = "shares of small numbers")]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn members(weights: &[u16]) -> Vec<Member> {
        weights
            .iter()
            .zip(1..)
            .map(|(&weight, id)| Member {
                id,
                address: WideAddress([0, 0, 0xffff, id]),
                port_be: 80,
                weight,
            })
            .collect()
    }

    fn shares(table: &[u32]) -> HashMap<u32, usize> {
        table.iter().fold(HashMap::new(), |mut shares, &id| {
            *shares.entry(id).or_default() += 1;
            shares
        })
    }

    #[test]
    fn slots_are_shared_in_proportion_to_weight() {
        let table = fill(&members(&[1, 2, 5]));
        let shares = shares(&table);
        for (id, weight) in [(1, 1.0), (2, 2.0), (3, 5.0)] {
            let share = shares[&id] as f64 / table.len() as f64;
            assert!(
                (share - weight / 8.0).abs() < 0.01,
                "backend {id} has {share}"
            );
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let mut reversed = members(&[1, 2, 3, 4]);
        reversed.reverse();
        assert_eq!(fill(&members(&[1, 2, 3, 4])), fill(&reversed));
    }

    #[test]
    fn removing_one_of_n_equal_backends_moves_at_most_one_nth_and_one_percent() {
        for n in [2usize, 3, 10, 50] {
            let all = members(&vec![1; n]);
            // The same size: what moves because the size follows the number is another matter.
            let before = fill(&all);
            let removed = all[n / 2].id;
            let left: Vec<_> = all.iter().copied().filter(|m| m.id != removed).collect();
            let after = fill_sized(&left, before.len());
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(old, new)| old != new)
                .count();
            let share = moved as f64 / before.len() as f64;
            assert!(
                share <= 1.0 / n as f64 + 0.01,
                "{n} backends: {share} moved"
            );
        }
    }

    #[test]
    fn no_backend_has_no_slots_and_one_backend_has_one() {
        assert!(fill(&[]).is_empty());
        assert_eq!(fill(&members(&[7])), [1]);
    }
}
