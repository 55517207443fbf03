//! The state machine by itself: rows for its rules, and long random sequences for its invariants.

use switcher_common::service::PerColor;

use super::*;

mod drills;
mod receipt;
mod sequences;
mod verbs;

const START: Now = Now {
    boot_ms: 1_000,
    wall_ms: 1_700_000_000_000,
};

struct Open;

impl Gate for Open {
    fn shortage(&self, _: &str, _: Color, _: &BTreeSet<SocketAddr>) -> Option<Shortage> {
        None
    }
}

struct ClosedFor(Color);

impl Gate for ClosedFor {
    fn shortage(&self, _: &str, color: Color, _: &BTreeSet<SocketAddr>) -> Option<Shortage> {
        (color == self.0).then(|| Shortage {
            listener: "http".to_owned(),
            eligible: 0,
            min_healthy: 1,
        })
    }
}

struct Saw {
    began_boot_ms: u64,
    live: PerColor<u64>,
    tally: Tally,
    cut_by_scan: Cuts,
    newest_packet: Option<Now>,
    /// The first flow on the color beside a draining one, and the drain's generation.
    first_new_flow: Option<(u64, Now)>,
}

impl Observation for Saw {
    fn began_boot_ms(&self) -> u64 {
        self.began_boot_ms
    }
    fn seen(&self, _: &str, color: Color, generation: u64) -> Option<Seen> {
        let first = self.first_new_flow.filter(|(of, _)| *of == generation);
        Some(Seen {
            in_flight: *self.live.get(color),
            tally: self.tally,
            cut_by_scan: self.cut_by_scan,
            newest_packet: self.newest_packet,
            first_new_flow: first.map(|(_, at)| at),
        })
    }
}

fn saw(began_boot_ms: u64, blue: u64, green: u64) -> Saw {
    Saw {
        began_boot_ms,
        live: PerColor { blue, green },
        tally: Tally::default(),
        cut_by_scan: Cuts::default(),
        newest_packet: None,
        first_new_flow: None,
    }
}

fn cut(cut_by_packets: Cuts) -> Tally {
    Tally {
        cut_by_packets,
        counted: Counted::default(),
    }
}

/// Nothing was counted.
fn nothing(_: &str, _: Color) -> Tally {
    Tally::default()
}

fn board(names: &[&str]) -> Switchboard {
    Switchboard {
        generation: 0,
        services: names
            .iter()
            .map(|name| ((*name).to_owned(), Service::new(Color::Blue)))
            .collect(),
    }
}

fn terms(timeout_ms: u64) -> DrainTerms {
    DrainTerms {
        timeout_ms,
        ..DrainTerms::default()
    }
}

fn ordered(services: &[&str], change: Change) -> Order {
    Order {
        services: services.iter().map(ToString::to_string).collect(),
        conditions: Conditions::default(),
        change,
        drains: services
            .iter()
            .map(|service| ((*service).to_owned(), terms(30_000)))
            .collect(),
    }
}

fn order(services: &[&str], to: Option<Color>) -> Order {
    let flip = Change::Flip {
        to,
        confirm_within_ms: None,
        force: false,
    };
    ordered(services, flip)
}

fn flip(board: &Switchboard, to: Color, now: Now) -> Switchboard {
    let mut next = board
        .changed(&order(&["web"], Some(to)), &Open, now)
        .expect("nothing stands in the way");
    next.barrier_passed(now, nothing);
    next
}

#[test]
fn one_flip_of_several_services_is_one_generation() {
    let next = board(&["api", "web"])
        .changed(&order(&["api", "web"], Some(Color::Green)), &Open, START)
        .expect("a flip");
    assert_eq!(next.generation, 1);
    for service in next.services.values() {
        assert_eq!((service.active, service.generation), (Color::Green, 1));
    }
}

#[test]
fn what_is_already_so_changes_nothing() {
    let before = board(&["web"]);
    let after = before.changed(&order(&["web"], Some(Color::Blue)), &Open, START);
    assert_eq!(after, Ok(before));
}

#[test]
fn a_refused_service_keeps_the_whole_group_as_it_was() {
    let refused = board(&["api", "web"]).changed(
        &order(&["api", "web"], Some(Color::Green)),
        &ClosedFor(Color::Green),
        START,
    );
    assert!(
        matches!(refused, Err(Refusal { service, why: Obstacle::NotEnoughBackends { .. }, .. }) if service == "api")
    );
}

#[test]
fn conditions_are_compared_with_the_service_not_the_node() {
    let mut two = board(&["api", "web"]);
    two = two
        .changed(&order(&["api"], Some(Color::Green)), &Open, START)
        .expect("a flip");
    let mut with = order(&["web"], Some(Color::Green));
    with.conditions.if_generation = Some(1);
    assert!(matches!(
        two.changed(&with, &Open, START),
        Err(Refusal {
            why: Obstacle::GenerationDiffers {
                found: 0,
                expected: 1,
            },
            ..
        })
    ));
    with.conditions.if_generation = Some(0);
    assert_eq!(
        two.changed(&with, &Open, START).map(|b| b.generation),
        Ok(2)
    );
}

#[test]
fn a_repeated_request_with_expect_active_succeeds_but_a_lost_race_conflicts() {
    let flipped = flip(&board(&["web"]), Color::Green, START);
    let mut again = order(&["web"], Some(Color::Green));
    again.conditions.expect_active = Some(Color::Blue);
    assert_eq!(flipped.changed(&again, &Open, START), Ok(flipped.clone()));
    again.change = order(&["web"], None).change;
    assert!(matches!(
        flipped.changed(&again, &Open, START),
        Err(Refusal {
            why: Obstacle::ActiveDiffers {
                found: Color::Green,
                ..
            },
            ..
        })
    ));
}

#[test]
fn base_is_the_color_before_the_first_undrained_flip_until_the_last_drain_ends() {
    let mut web = flip(&board(&["web"]), Color::Green, START);
    assert_eq!(web.services["web"].base, Color::Blue);
    web = flip(&web, Color::Blue, START.plus_ms(10));
    assert_eq!(web.services["web"].base, Color::Blue, "overlapping flip");
    web = flip(&web, Color::Green, START.plus_ms(20));
    assert_eq!(web.services["web"].base, Color::Blue, "overlapping flip");
    assert!(
        web.observe(&saw(START.boot_ms + 25, 0, 5), START.plus_ms(30))
            .is_empty()
    );
    let ended = web.observe(&saw(START.boot_ms + 30, 0, 5), START.plus_ms(40));
    assert_eq!(ended.len(), 1);
    assert_eq!(web.services["web"].base, Color::Green);
}

#[test]
fn flipping_back_to_a_draining_color_merges_the_drains_with_the_later_deadline() {
    let web = flip(&board(&["web"]), Color::Green, START);
    let mut back = order(&["web"], Some(Color::Blue));
    back.drains.insert("web".to_owned(), terms(5));
    let back = web
        .changed(&back, &Open, START.plus_ms(10))
        .expect("a flip");
    let drain = back.services["web"].running_drain().expect("a drain runs");
    assert_eq!(drain.color, Color::Green);
    assert_eq!(drain.deadline, START.plus_ms(30_000));
}

#[test]
fn only_a_scan_that_began_after_the_barrier_ends_a_drain() {
    let barrier = START.plus_ms(20);
    let mut web = board(&["web"])
        .changed(&order(&["web"], Some(Color::Green)), &Open, START)
        .expect("a flip");
    assert!(
        web.observe(&saw(START.boot_ms + 5, 0, 0), START.plus_ms(6))
            .is_empty()
    );
    web.barrier_passed(barrier, nothing);
    assert!(
        web.observe(&saw(barrier.boot_ms - 1, 0, 0), START.plus_ms(30))
            .is_empty()
    );
    assert!(
        web.observe(&saw(barrier.boot_ms, 0, 0), START.plus_ms(30))
            .is_empty()
    );
    let ended = web.observe(&saw(barrier.boot_ms + 1, 0, 0), START.plus_ms(31));
    assert_eq!(ended.first().map(|e| e.end.flows_left), Some(0));
}

#[test]
fn at_the_deadline_a_drain_ends_and_says_what_is_left() {
    let mut web = flip(&board(&["web"]), Color::Green, START);
    assert!(
        web.observe(&saw(START.boot_ms, 3, 0), START.plus_ms(29_999))
            .is_empty()
    );
    let ended = web.observe(&saw(START.boot_ms + 30_000, 3, 0), START.plus_ms(30_001));
    assert_eq!(ended.first().map(|e| e.end.flows_left), Some(3));
    assert!(!web.is_draining());
}

#[test]
fn g10_a_deadline_does_not_lie_before_the_barrier() {
    let mut now_or_never = order(&["web"], Some(Color::Green));
    now_or_never.drains.insert("web".to_owned(), terms(0));
    let mut web = board(&["web"])
        .changed(&now_or_never, &Open, START)
        .expect("a flip");
    let barrier = START.plus_ms(20);
    web.barrier_passed(barrier, nothing);
    web.barrier_passed(barrier.plus_ms(500), nothing);
    let drain = web.services["web"].running_drain().expect("a drain runs");
    assert_eq!(drain.deadline, barrier, "of its own barrier");
}

#[test]
fn g10_a_drain_that_resets_tells_what_was_cut_of_its_own_color_since_it_began() {
    let before = Cuts {
        answered: 7,
        silent: 0,
        moved: 2,
    };
    let resets = DrainTerms {
        at_deadline: AtDeadline::Reset,
        ..terms(30_000)
    };
    let order = Order {
        drains: [("web".to_owned(), resets)].into(),
        ..order(&["web"], Some(Color::Green))
    };
    let mut board = board(&["web"])
        .changed(&order, &Open, START)
        .expect("a flip");
    board.barrier_passed(START, |_, _| cut(before));
    let deadline = START.plus_ms(30_000);
    let early = Saw {
        tally: cut(before),
        ..saw(deadline.boot_ms - 1, 5, 0)
    };
    assert_eq!(
        board.observe(&early, deadline),
        [],
        "it began before the deadline, and has cut nothing"
    );
    let late = Saw {
        tally: cut(Cuts {
            answered: 9,
            silent: 0,
            moved: 3,
        }),
        cut_by_scan: Cuts {
            answered: 0,
            silent: 3,
            moved: 1,
        },
        ..saw(deadline.boot_ms, 0, 0)
    };
    assert_eq!(
        board.observe(&late, deadline.plus_ms(5)),
        [],
        "one scan may miss a flow that moves"
    );
    let again = Saw {
        tally: late.tally,
        ..saw(deadline.boot_ms + 50, 0, 0)
    };
    let ended = board.observe(&again, deadline.plus_ms(55));
    let end = ended.first().expect("the drain has ended").end;
    let cuts = Cuts {
        answered: 2,
        silent: 3,
        moved: 2,
    };
    assert_eq!((end.flows_left, end.cuts), (0, cuts));
}
