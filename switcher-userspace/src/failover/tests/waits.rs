//! What makes a failover wait, for how long, and what is remembered of it.

use super::*;

/// The decision on a due failover from green to blue, after one from blue at [`START`].
fn due(state: &State, after_ms: u64) -> Decision {
    let now = START.plus_ms(after_ms);
    state.decide(&terms(), &green_is_short(), now).decision
}

const TO_BLUE: Decision = Decision::FailOver {
    to: Color::Blue,
    at_failover: AtFailover::Cut,
};

#[test]
fn the_hold_down_follows_a_failover_with_an_alarm_and_an_end() {
    let state = failed_over(START);
    let end = START.plus_ms(30_000);
    let held = stay(StayReason::HoldDown, Some(end));
    for (after_ms, decision) in [(0, held), (1, held), (29_999, held), (30_000, TO_BLUE)] {
        assert_eq!(due(&state, after_ms), decision, "after {after_ms} ms");
    }
    let verdict = state.decide(&terms(), &green_is_short(), START);
    assert_eq!(verdict.raised.map(|it| it.kind), Some(AlarmKind::HoldDown));
    let over = verdict.next.decide(&terms(), &green_is_short(), end);
    assert_eq!(over.cleared.map(|it| it.kind), Some(AlarmKind::HoldDown));
}

/// A state that failed over at each of these instants, in milliseconds after [`START`].
fn after_flips(flips: &[u64]) -> State {
    let mut state = State::default();
    let mut it = situation(short(), enough());
    for after_ms in flips {
        let verdict = state.decide(&terms(), &it, START.plus_ms(*after_ms));
        assert!(matches!(verdict.decision, Decision::FailOver { .. }));
        state = verdict.next;
        it.active = it.active.other();
        it.standing = PerColor {
            blue: it.standing.green,
            green: it.standing.blue,
        };
    }
    state
}

#[test]
fn no_hour_has_more_automated_flips_than_its_budget() {
    let minute = 60_000;
    let state = after_flips(&[0, minute, 2 * minute, 30 * minute]);
    let mut it = situation(short(), enough());
    let at = |after_ms| START.plus_ms(after_ms);
    let spent = |until| stay(StayReason::BudgetSpent, Some(at(until)));
    let rows = [
        (31 * minute, spent(HOUR_MS)),
        (HOUR_MS - 1, spent(HOUR_MS)),
        (HOUR_MS, to_green()),
    ];
    for (after_ms, decision) in rows {
        let verdict = state.decide(&terms(), &it, at(after_ms));
        assert_eq!(verdict.decision, decision, "after {after_ms} ms");
    }
    assert_eq!(state.flips_left(&terms(), at(31 * minute)), 0);
    assert_eq!(state.flips_left(&terms(), at(HOUR_MS + 2 * minute)), 3);

    let verdict = state.decide(&terms(), &it, at(31 * minute));
    assert_eq!(
        verdict.raised.map(|it| it.kind),
        Some(AlarmKind::BudgetSpent)
    );

    it.standing.blue = enough();
    let calm = verdict.next.decide(&terms(), &it, at(32 * minute));
    assert_eq!(calm.cleared, verdict.raised);
}

#[test]
fn a_budget_that_was_lowered_counts_the_flips_of_the_one_before() {
    let minute = 60_000;
    let state = after_flips(&[0, minute, 2 * minute, 3 * minute]);
    let it = situation(short(), enough());
    let rows = [(0, None), (1, Some(3)), (2, Some(2)), (4, Some(0))];
    for (flips_per_hour, frees) in rows {
        let lowered = Terms {
            flips_per_hour,
            ..terms()
        };
        let verdict = state.decide(&lowered, &it, START.plus_ms(10 * minute));
        let until = frees.map(|flip: u64| START.plus_ms(HOUR_MS + flip * minute));
        let expected = stay(StayReason::BudgetSpent, until);
        assert_eq!(verdict.decision, expected, "{flips_per_hour} per hour");
    }
}

#[test]
fn a_failover_waits_for_pause_and_freeze_and_the_longest_wait_is_told() {
    use StayReason::{ManualFreeze, Paused, SwitchedOff};
    let at = |ms| START.plus_ms(ms);
    let rows = [
        (
            Some(5_000),
            None,
            false,
            stay(Paused, Some(at(5_000))),
            "a pause",
        ),
        (Some(0), None, false, to_green(), "a pause that is over"),
        (
            None,
            Some(0),
            false,
            stay(ManualFreeze, Some(at(60_000))),
            "a manual change",
        ),
        (
            Some(5_000),
            Some(0),
            false,
            stay(ManualFreeze, Some(at(60_000))),
            "both",
        ),
        (
            Some(90_000),
            Some(0),
            false,
            stay(Paused, Some(at(90_000))),
            "the longer one",
        ),
        (
            Some(5_000),
            Some(0),
            true,
            stay(SwitchedOff, None),
            "off has no end",
        ),
    ];
    for (pause, manual, is_off, decision, why) in rows {
        let mut state = State::default();
        state.switch(!is_off);
        let it = Situation {
            paused_until: pause.map(at),
            newest_manual: manual.map(at),
            ..situation(short(), enough())
        };
        let verdict = state.decide(&terms(), &it, START);
        assert_eq!(verdict.decision, decision, "{why}");
        let alarm = is_off.then_some(AlarmKind::SwitchedOff);
        assert_eq!(verdict.raised.map(|it| it.kind), alarm, "{why}");
    }
    let mut it = situation(short(), enough());
    it.newest_manual = Some(at(0));
    let after = |ms| State::default().decide(&terms(), &it, at(ms)).decision;
    assert_ne!(after(59_999), to_green());
    assert_eq!(after(60_000), to_green());
}

#[test]
fn off_is_said_by_the_configuration_or_by_an_operator() {
    let disabled = Terms {
        is_enabled: false,
        ..terms()
    };
    let it = situation(short(), enough());
    let off = stay(StayReason::SwitchedOff, None);
    let verdict = State::default().decide(&disabled, &it, START);
    assert_eq!(verdict.decision, off);
    let mut state = State::default();
    assert!(!state.switch(true), "it is on");
    assert!(state.switch(false));
    assert!(!state.switch(false), "it is off already");
    assert_eq!(state.decide(&terms(), &it, START).decision, off);
    assert!(state.switch(true));
    assert_eq!(state.decide(&terms(), &it, START).decision, to_green());
}

#[test]
fn a_color_that_recovers_stays_the_standby_unless_failback_is_automatic() {
    let state = failed_over(START);
    let recovered = Situation {
        active: Color::Green,
        ..situation(enough(), enough())
    };
    let enough_ = stay(StayReason::Enough, None);
    let verdict = state.decide(&terms(), &recovered, START.plus_ms(10 * HOUR_MS));
    assert_eq!(verdict.decision, enough_, "by default nothing goes back");

    let automatic = Terms {
        automatic_failback: true,
        ..terms()
    };
    let at = |ms| START.plus_ms(ms);
    let back = Decision::FailOver {
        to: Color::Blue,
        at_failover: AtFailover::Drain,
    };
    let waits = |until| stay(StayReason::Enough, Some(at(until)));
    let seen = state.decide(&automatic, &recovered, at(10_000));
    assert_eq!(seen.decision, waits(30_000), "the hold-down");
    let seen = seen.next.decide(&automatic, &recovered, at(30_000));
    assert_eq!(seen.decision, waits(40_000), "and as long without a break");
    let unseen = seen.next.clone().unseen();
    let verdict = unseen.decide(&automatic, &recovered, at(40_000));
    assert_eq!(
        verdict.decision,
        waits(70_000),
        "an agent that starts saw no time of it"
    );
    let verdict = seen.next.decide(&automatic, &recovered, at(40_000));
    assert_eq!(verdict.decision, back);
    assert_eq!(verdict.evidence.cause, Some(Cause::Failback));

    let mut chosen = recovered.clone();
    chosen.newest_manual = Some(at(15_000));
    let verdict = seen.next.decide(&automatic, &chosen, at(10 * HOUR_MS));
    assert_eq!(verdict.decision, enough_, "an operator has chosen since");

    let last = Terms {
        flips_per_hour: 2,
        ..automatic
    };
    let verdict = seen.next.decide(&last, &recovered, at(40_000));
    assert_eq!(
        verdict.decision,
        waits(HOUR_MS),
        "the last one is for a failover"
    );
}

#[test]
fn what_is_remembered_survives_a_restart_and_a_damaged_one_is_refused() {
    let mut state = failed_over(START);
    state.switch(false);
    let state = state.decide(&terms(), &green_is_short(), START).next;
    assert!(state.alarm().is_some());
    let text = serde_json::to_string(&state).expect("JSON");
    let adopted: State = serde_json::from_str(&text).expect("the same");
    assert_eq!(adopted, state);
    let empty: State = serde_json::from_str("{}").expect("a service of before");
    assert_eq!(empty, State::default());
    assert!(serde_json::from_str::<State>(r#"{"flipps":[]}"#).is_err());
}

#[test]
fn after_a_reboot_waits_go_on_by_the_wall_clock() {
    let rebooted = |after_ms: u64, up_ms| {
        let now = Now {
            boot_ms: up_ms,
            wall_ms: START.wall_ms + after_ms,
        };
        let state = failed_over(START).after_reboot(&terms(), now);
        let verdict = state.decide(&terms(), &green_is_short(), now);
        (verdict.decision, verdict.next.flips_left(&terms(), now))
    };
    let held = |boot_ms, wall_ms| {
        let wall_ms = START.wall_ms + wall_ms;
        stay(StayReason::HoldDown, Some(Now { boot_ms, wall_ms }))
    };
    let rows = [
        (
            20_000,
            5_000,
            held(30_000, 30_000),
            3,
            "as if it had been at the boot",
        ),
        (30_000, 5_000, TO_BLUE, 2, "over"),
        (HOUR_MS, 5_000, TO_BLUE, 3, "out of the hour"),
    ];
    for (after_ms, up_ms, decision, left, why) in rows {
        assert_eq!(rebooted(after_ms, up_ms), (decision, left), "{why}");
    }
}

#[test]
fn what_the_kernel_keeps_is_completed_by_the_disk() {
    let at = |minutes: u64| START.plus_ms(minutes * 60_000);
    let older = after_flips(&[0, 60_000, 120_000]);
    let it = situation(short(), enough());
    let next = older.decide(&terms(), &it, at(5)).next;
    assert_eq!(next.abridged().completed(&older).flips, next.flips);
    let many = State {
        flips: (0..6).map(at).collect(),
        ..State::default()
    };
    assert_eq!(many.abridged().flips.len(), 2);
    assert_eq!(many.abridged().completed(&many).flips, many.flips);
    assert_eq!(many.abridged().completed(&State::default()).flips.len(), 2);
    let held = next.decide(&terms(), &green_is_short(), at(5)).next;
    let adopted = next.abridged().completed(&held);
    assert_eq!(adopted.alarm(), held.alarm(), "what was told of stands");
}
