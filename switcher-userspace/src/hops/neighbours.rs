//! What is known of neighbours, so that not all that the kernel tells of them counts as a change.

use std::{collections::HashMap, net::IpAddr};

use crate::netlink::neighbour::Neighbour;

/// Neighbours that are known by what they were; beyond, any word of any neighbour counts as a change.
const MOST_NEIGHBOURS: usize = 65_536;

/// The neighbours that packets are sent to. The kernel tells of much that changes no packet's way, as that one
/// was heard of again.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    link_addresses: HashMap<(u32, IpAddr), Vec<u8>>,
    /// Whether one that is not here is not sent to.
    are_all: bool,
}

impl Neighbours {
    pub(super) fn of(all: Vec<Neighbour>) -> Self {
        let mut neighbours = Self {
            are_all: true,
            ..Self::default()
        };
        for it in all {
            neighbours.take(it);
        }
        neighbours
    }

    /// Notes what is told of a neighbour; whether a hop that was kept before may be wrong now. Before Linux 6.3
    /// `bpf_fib_lookup` names neighbours that are not valid too, so there may be hops that lead to one that
    /// becomes so.
    pub(super) fn take(&mut self, now: Neighbour) -> bool {
        let key = (now.interface, now.address);
        let before = self.link_addresses.remove(&key);
        let is_unknown = before.is_none() && !self.are_all;
        let has_changed = is_unknown || before != now.link_address;
        let Some(link_address) = now.link_address else {
            return has_changed;
        };
        if self.link_addresses.len() < MOST_NEIGHBOURS {
            self.link_addresses.insert(key, link_address);
        } else {
            self.are_all = false;
        }
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(last: u32, link_address: Option<u8>) -> Neighbour {
        Neighbour {
            interface: 2,
            address: IpAddr::V4(last.into()),
            link_address: link_address.map(|it| vec![it]),
        }
    }

    #[test]
    fn a_neighbour_that_is_only_heard_of_again_changes_nothing() {
        let mut known = Neighbours::of(vec![neighbour(1, Some(1)), neighbour(2, None)]);
        for (told, expected) in [
            (neighbour(1, Some(1)), false),
            (neighbour(2, None), false),
            // An old kernel may have named either before.
            (neighbour(2, Some(2)), true),
            (neighbour(3, Some(3)), true),
            (neighbour(3, Some(3)), false),
            (neighbour(1, Some(9)), true),
            (neighbour(1, Some(9)), false),
            (neighbour(2, None), true),
            (neighbour(2, None), false),
            (neighbour(3, Some(4)), true),
        ] {
            assert_eq!(known.take(told.clone()), expected, "{told:?}");
        }
    }

    #[test]
    fn neighbours_of_two_interfaces_are_two() {
        let mut known = Neighbours::of(vec![neighbour(1, Some(1))]);
        let elsewhere = Neighbour {
            interface: 3,
            ..neighbour(1, Some(2))
        };
        assert!(known.take(elsewhere));
        assert!(!known.take(neighbour(1, Some(1))));
    }

    #[test]
    fn where_not_all_are_known_any_word_of_an_unknown_one_counts() {
        let most = u32::try_from(MOST_NEIGHBOURS).expect("few");
        let mut known = Neighbours::of((0..most).map(|it| neighbour(it, Some(1))).collect());
        assert!(!known.take(neighbour(most, None)));
        assert!(known.take(neighbour(most, Some(1))));
        assert!(known.take(neighbour(most, Some(1))));
        assert!(known.take(neighbour(most + 1, None)));
        assert!(!known.take(neighbour(0, Some(1))));
        assert!(Neighbours::default().take(neighbour(0, Some(1))));
    }
}
