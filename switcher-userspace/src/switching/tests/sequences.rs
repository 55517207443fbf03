//! Long random sequences of all changes: what holds after each of them.

use proptest::{prelude::*, test_runner::TestCaseError};

use super::*;

const NAMES: [&str; 2] = ["api", "web"];

#[derive(Clone, Debug)]
enum Event {
    Change {
        change: Change,
        group: bool,
        gate: Option<Color>,
        generation: Option<u64>,
        at_deadline: AtDeadline,
    },
    Barrier,
    Scan {
        age_ms: u64,
        live: PerColor<u64>,
    },
    Wait {
        ms: u64,
    },
    /// What the agent does when something ends by itself.
    Tick,
}

fn colors() -> impl Strategy<Value = Color> {
    prop_oneof![Just(Color::Blue), Just(Color::Green)]
}

fn policies() -> impl Strategy<Value = AtDeadline> {
    proptest::sample::select(&AtDeadline::ALL[..])
}

fn changes() -> impl Strategy<Value = Change> {
    let listener = || proptest::option::of(Just("http".to_owned()));
    let endpoint = || Just(SocketAddr::from(([10, 0, 0, 1], 80)));
    prop_oneof![
        3 => (proptest::option::of(colors()), proptest::option::of(0..20_000_u64), any::<bool>()).prop_map(
            |(to, confirm_within_ms, force)| Change::Flip { to, confirm_within_ms, force }
        ),
        2 => any::<bool>().prop_map(|force| Change::Rollback { force }),
        1 => Just(Change::Confirm),
        2 => (0..=100_u8).prop_map(|percent| Change::Split { percent }),
        1 => any::<bool>().prop_map(|force| Change::Promote { force }),
        1 => Just(Change::Abort),
        1 => (listener(), 0..30_000_u64, any::<bool>()).prop_map(
            |(listener, max_ms, hard)| Change::Pause { listener, max_ms, hard }
        ),
        1 => listener().prop_map(|listener| Change::Resume { listener }),
        1 => (0..100_000_u64).prop_map(|by_ms| Change::ExtendDrain { by_ms }),
        1 => policies().prop_map(|at_deadline| Change::FinishDrain { at_deadline }),
        1 => (endpoint(), any::<bool>()).prop_map(
            |(endpoint, force)| Change::DrainBackend { endpoint, force }
        ),
        1 => endpoint().prop_map(|endpoint| Change::ResumeBackend { endpoint }),
        2 => colors().prop_map(|to| Change::FailOver { to, origin: Origin::Failover }),
        2 => proptest::option::of(0..20_000_u64).prop_map(
            |undone_within_ms| Change::Drill { undone_within_ms }
        ),
        1 => any::<bool>().prop_map(|on| Change::SwitchFailover { on }),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let live = (0..3_u64, 0..3_u64).prop_map(|(blue, green)| PerColor { blue, green });
    let change = (
        changes(),
        any::<bool>(),
        proptest::option::weighted(0.2, colors()),
        proptest::option::weighted(0.2, 0..20_u64),
        policies(),
    );
    prop_oneof![
        6 => change.prop_map(|(change, group, gate, generation, at_deadline)| Event::Change {
            change,
            group,
            gate,
            generation,
            at_deadline,
        }),
        2 => Just(Event::Barrier),
        3 => (0..100_u64, live).prop_map(|(age_ms, live)| Event::Scan { age_ms, live }),
        2 => (0..40_000_u64).prop_map(|ms| Event::Wait { ms }),
        2 => Just(Event::Tick),
    ]
}

fn take(board: &mut Switchboard, now: &mut Now, event: &Event) -> Result<(), TestCaseError> {
    let before = board.clone();
    match event {
        Event::Change {
            change,
            group,
            gate,
            generation,
            at_deadline,
        } => {
            let names: &[&str] = if *group { &NAMES } else { &["web"] };
            let mut order = ordered(names, change.clone());
            order.conditions.if_generation = *generation;
            for terms in order.drains.values_mut() {
                terms.at_deadline = *at_deadline;
            }
            let result = match gate {
                Some(color) => before.changed(&order, &ClosedFor(*color), *now),
                None => before.changed(&order, &Open, *now),
            };
            if let Ok(next) = result {
                refused_colors_are_not_chosen(&before, &next, *gate, change)?;
                *board = next;
            }
        }
        Event::Barrier => board.barrier_passed(*now, nothing),
        Event::Scan { age_ms, live } => {
            let began_boot_ms = now.boot_ms.saturating_sub(*age_ms);
            let scan = saw(began_boot_ms, live.blue, live.green);
            board.observe(&scan, *now);
            prop_assert_eq!(board.generation, before.generation);
        }
        Event::Wait { ms } => *now = now.plus_ms(*ms),
        Event::Tick => {
            board.end_pauses(*now);
            for services in board.unconfirmed(*now).into_values() {
                let names: Vec<&str> = services.iter().map(String::as_str).collect();
                let reverted = board.changed(&ordered(&names, Change::Revert), &Open, *now);
                *board = reverted.map_err(|refusal| TestCaseError::fail(refusal.to_string()))?;
            }
            for service in board.drills_to_end(*now) {
                let ended = board.changed(&ordered(&[&service], Change::EndDrill), &Open, *now);
                *board = ended.map_err(|refusal| TestCaseError::fail(refusal.to_string()))?;
            }
            let next = board.next_deadline_boot_ms();
            prop_assert!(next.is_none_or(|at| at > now.boot_ms), "nothing is overdue");
        }
    }
    Ok(())
}

fn refused_colors_are_not_chosen(
    before: &Switchboard,
    next: &Switchboard,
    closed: Option<Color>,
    change: &Change,
) -> Result<(), TestCaseError> {
    let forced = matches!(
        change,
        Change::Flip { force: true, .. }
            | Change::Rollback { force: true }
            | Change::Promote { force: true }
    );
    for (name, service) in &next.services {
        let old = &before.services[name];
        if let Some(closed) = closed
            && !forced
            && service.active != old.active
        {
            prop_assert_ne!(service.active, closed, "a color that cannot serve");
        }
    }
    Ok(())
}

/// What holds whatever happened.
fn is_sound(before: &Switchboard, board: &Switchboard, event: &Event) -> Result<(), TestCaseError> {
    prop_assert!(
        board.generation >= before.generation,
        "generations only grow"
    );
    prop_assert!(
        board.generation <= before.generation + 2,
        "one change is one generation"
    );
    for (name, service) in &board.services {
        let old = &before.services[name];
        prop_assert!(service.generation >= old.generation);
        prop_assert!(service.generation <= board.generation);
        prop_assert!(service.split_percent <= 100);
        if let Some(drain) = service.running_drain() {
            prop_assert_eq!(drain.color, service.standby(), "only the standby drains");
        } else {
            prop_assert_eq!(
                service.base,
                service.active,
                "without a drain base is active"
            );
        }
        prop_assert!(
            service.drill.is_none() || service.newest.is_some_and(|it| it.origin == Origin::Drill),
            "whatever else changes the active color ends a drill"
        );
        if service.active != old.active {
            prop_assert!(
                service.running_drain().is_some(),
                "another active color always drains the old one"
            );
            prop_assert_eq!(
                service.split_percent,
                0,
                "a share of the old color would be of the new standby"
            );
            prop_assert!(service.generation > old.generation, "and is a generation");
        }
        if old.running_drain().is_some() && service.running_drain().is_none() {
            prop_assert!(
                matches!(event, Event::Scan { .. }),
                "only a scan ends a drain"
            );
        }
        if service.confirm.is_some() {
            prop_assert_eq!(
                service.newest.map(|newest| newest.origin),
                Some(Origin::Flip)
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn no_sequence_loses_a_drain_or_a_generation(sequence in proptest::collection::vec(events(), 1..80)) {
        let mut board = board(&NAMES);
        let mut now = START;
        for event in &sequence {
            let before = board.clone();
            take(&mut board, &mut now, event)?;
            is_sound(&before, &board, event)?;
        }
    }

    #[test]
    fn a_repeated_change_changes_nothing_more(
        sequence in proptest::collection::vec(events(), 1..40),
        change in changes(),
    ) {
        let mut board = board(&NAMES);
        let mut now = START;
        for event in &sequence {
            take(&mut board, &mut now, event)?;
        }
        // Relative by nature: a flip without a color, a drill, and a drain that is extended once
        // more.
        let is_relative = matches!(
            change,
            Change::Flip { to: None, .. } | Change::Drill { .. } | Change::ExtendDrain { .. }
        );
        let order = ordered(&["web"], change);
        if !is_relative && let Ok(once) = board.changed(&order, &Open, now) {
            let twice = once.changed(&order, &Open, now);
            prop_assert_eq!(twice, Ok(once));
        }
    }
}
