//! Which refusals make a backend unhealthy.

use std::net::IpAddr;

use proptest::{collection::vec, prelude::*};

use crate::failover::Refusals;

fn v4(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn v6(network: u16, last: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, network, 0, 0, 0, last].into()
}

#[test]
fn three_clients_that_are_refused_while_nobody_is_answered_are_enough() {
    let mut refusals = Refusals::default();
    assert_eq!(refusals.refused(v4(1), 100, Some(90)), None);
    assert_eq!(refusals.refused(v4(2), 101, Some(90)), None);
    let clients = vec![v4(1), v4(2), v4(3)];
    assert_eq!(refusals.refused(v4(3), 101, Some(90)), Some(clients));
    assert_eq!(
        refusals.refused(v4(4), 102, Some(90)),
        None,
        "it begins anew"
    );
}

#[test]
fn one_host_counts_once_however_many_addresses_it_has() {
    let mut refusals = Refusals::default();
    for last in 0..100 {
        assert_eq!(refusals.refused(v4(1), 100, None), None, "one address");
        assert_eq!(refusals.refused(v6(7, last), 100, None), None, "one /64");
    }
    assert!(refusals.refused(v6(8, 1), 100, None).is_some());
}

#[test]
fn refusals_before_an_answer_or_long_ago_do_not_count() {
    let mut refusals = Refusals::default();
    refusals.refused(v4(1), 100, None);
    refusals.refused(v4(2), 101, None);
    assert_eq!(
        refusals.refused(v4(3), 105, Some(101)),
        None,
        "answered since"
    );
    assert_eq!(refusals.refused(v4(4), 106, Some(101)), None);
    assert!(refusals.refused(v4(5), 106, Some(101)).is_some());
    refusals.refused(v4(1), 200, None);
    refusals.refused(v4(2), 201, None);
    let late = 201 + 9_537;
    assert_eq!(
        refusals.refused(v4(3), late, None),
        None,
        "the first is too old"
    );
    assert!(refusals.refused(v4(4), late, None).is_some());
}

#[test]
fn ticks_wrap() {
    let mut refusals = Refusals::default();
    refusals.refused(v4(1), u32::MAX - 1, Some(u32::MAX - 5));
    refusals.refused(v4(2), 1, Some(u32::MAX - 5));
    assert!(refusals.refused(v4(3), 2, Some(u32::MAX - 5)).is_some());
    refusals.refused(v4(1), u32::MAX - 1, None);
    refusals.refused(v4(2), 1, None);
    assert_eq!(refusals.refused(v4(3), 2, Some(1)), None);
}

proptest! {
    /// Whoever has two networks, however many addresses in them and however often he is refused, makes no
    /// backend unhealthy; nor does anybody where the backend answers in between.
    #[test]
    fn neither_two_clients_nor_a_backend_that_answers_is_enough(
        events in vec((0..2_u16, any::<u16>(), 0..50_u32, any::<u16>()), 1..200),
    ) {
        let (mut two, mut answering) = (Refusals::default(), Refusals::default());
        let mut tick = 1_000_000_u32;
        for (network, last, later, other) in events {
            tick += later;
            prop_assert_eq!(two.refused(v6(network, last), tick, None), None);
            prop_assert_eq!(answering.refused(v6(other, last), tick, Some(tick)), None);
        }
    }
}
