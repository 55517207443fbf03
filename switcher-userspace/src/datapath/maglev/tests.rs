//! What a table promises: the same on every node, weights, and how little a removal moves.

use std::{collections::BTreeMap, net::Ipv4Addr};

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;

/// Backend number `number` of set number `set`.
fn member(set: u32, number: u32, weight: u16) -> Member {
    let address = Ipv4Addr::from(0x0a00_0000 + set * 4_096 + number);
    Member {
        id: number + 1,
        address: WideAddress::from_ip(address.into()),
        port_be: 80,
        weight,
    }
}

fn equal(set: u32, count: u32) -> Vec<Member> {
    (0..count).map(|number| member(set, number, 1)).collect()
}

fn weighted(weights: &[u16]) -> Vec<Member> {
    let members = (0..).zip(weights);
    members
        .map(|(number, &weight)| member(0, number, weight))
        .collect()
}

fn shares(table: &[u32]) -> BTreeMap<u32, u64> {
    table.iter().fold(BTreeMap::new(), |mut shares, &id| {
        *shares.entry(id).or_default() += 1;
        shares
    })
}

/// Slots that differ, of two tables of one size.
fn moved(before: &[u32], after: &[u32]) -> usize {
    assert_eq!(before.len(), after.len());
    let pairs = before.iter().zip(after);
    pairs.filter(|(old, new)| old != new).count()
}

/// An error unless removing `removed` of `all` equal backends moves at most 1/N + 1 % of the slots
/// of a table that keeps its size: what moves because the size follows the number is another matter.
fn check_removal(all: &[Member], removed: usize) -> Result<(), String> {
    let before = fill(all);
    let mut left = all.to_vec();
    let gone = left.remove(removed);
    let after = fill_sized(&left, before.len());
    let (n, len) = (all.len(), before.len());
    if len < 100 * n {
        return Err(format!("{n} backends have {len} slots"));
    }
    let moved = moved(&before, &after);
    // moved / len <= 1 / n + 1 / 100
    if 100 * n * moved > len * (100 + n) {
        return Err(format!(
            "{n} backends, {len} slots: {moved} moved without {:?}",
            gone.address.to_ip()
        ));
    }
    if moved < len / n {
        return Err(format!(
            "only {moved} of {len} slots were the removed one's"
        ));
    }
    Ok(())
}

#[test]
fn removing_one_of_n_equal_backends_moves_at_most_one_nth_and_one_percent() {
    for n in (3..=40).chain([50, 64, 65, 66, 80, 100, 128, 200, 300, 500, 655, 700]) {
        for set in 0..if n <= 12 { 8 } else { 1 } {
            let all = equal(set, n);
            for removed in [0, all.len() / 2, all.len() - 1] {
                check_removal(&all, removed).expect("few slots move");
            }
        }
    }
}

#[test]
fn removing_one_of_two_moves_its_own_slots_only() {
    for set in 0..50 {
        let all = equal(set, 2);
        for removed in [0, 1] {
            check_removal(&all, removed).expect("few slots move");
        }
    }
}

/// What is stated: a share is the weight's, rounded up or down to a slot, and at least one slot.
fn check_weights(members: &[Member]) -> Result<(), TestCaseError> {
    let table = fill(members);
    let shares = shares(&table);
    let total: u64 = members.iter().map(Member::weight).sum();
    let len = table.len() as u64;
    // The lightest may have been given a slot that is the heaviest one's by weight.
    let given: u64 = members
        .iter()
        .filter(|member| len * member.weight() < total)
        .count() as u64;
    for member in members {
        let slots = shares.get(&member.id).copied().unwrap_or(0);
        let exact = len * member.weight() / total;
        let most = (exact + 1).max(1);
        let least = exact.saturating_sub(given).max(1);
        prop_assert!(
            (least..=most).contains(&slots),
            "weight {} of {total}: {slots} of {len} slots, {least} to {most} expected",
            member.weight
        );
        let is_coarse = len >= LARGE_TABLE as u64;
        prop_assert!(
            is_coarse || slots.abs_diff(exact) * 10 <= exact,
            "weight {} of {total}: {slots} of {len} slots is more than a tenth from {exact}",
            member.weight
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn weights_are_honoured_to_a_slot(weights in vec(1_u16..=1_000, 2..12)) {
        check_weights(&weighted(&weights))?;
    }

    #[test]
    fn a_table_depends_on_nothing_but_the_backends(
        weights in vec(1_u16..=20, 2..10),
        shuffle in any::<prop::sample::Index>(),
        ids in vec(1_u32..1_000_000, 10),
    ) {
        let members = weighted(&weights);
        let by_endpoint = |members: &[Member]| -> Vec<(WideAddress, u16)> {
            let owner = |id: &u32| {
                let member = members.iter().find(|member| member.id == *id);
                member.map(|member| (member.address, member.port_be)).expect("an id of the set")
            };
            fill(members).iter().map(owner).collect()
        };
        // Another node: its list has another order, and it has given out other ids.
        let mut elsewhere = members.clone();
        let middle = shuffle.index(elsewhere.len());
        elsewhere.rotate_left(middle);
        elsewhere[middle / 2..].reverse();
        for (member, (number, id)) in elsewhere.iter_mut().zip((0_u32..).zip(ids)) {
            member.id = id * 16 + number;
        }
        prop_assert_eq!(by_endpoint(&members), by_endpoint(&elsewhere));
    }

    /// With unequal weights as well, a removal moves the slots of the removed and few others.
    #[test]
    fn removing_some_of_many_moves_their_slots_and_few_others(
        removed in subsequence((0..20_usize).collect::<Vec<_>>(), 1..4),
    ) {
        let weights: Vec<u16> = (0..20).map(|number| 1 + number % 4).collect();
        let all = weighted(&weights);
        let before = fill(&all);
        let left: Vec<_> = (0..).zip(&all).filter(|(at, _)| !removed.contains(at)).map(|(_, member)| *member).collect();
        let after = fill_sized(&left, before.len());
        let gone: u64 = removed.iter().map(|at| shares(&before)[&all[*at].id]).sum();
        let beyond = moved(&before, &after) as u64 - gone;
        prop_assert!(beyond * 100 <= before.len() as u64 * 2, "{beyond} of {} slots", before.len());
    }
}

#[test]
fn the_extremes_of_weights_leave_nobody_without_a_slot() {
    let mut weights = vec![1_000; 300];
    weights.extend([1; 10]);
    check_weights(&weighted(&weights)).expect("weights are honoured");
    check_weights(&weighted(&[1, 1_000])).expect("weights are honoured");
}

#[test]
fn no_backend_has_no_slots_and_one_backend_has_one() {
    assert!(fill(&[]).is_empty());
    assert_eq!(fill(&equal(0, 1)), [1]);
}
