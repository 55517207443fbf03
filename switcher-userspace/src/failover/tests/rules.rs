//! The policy's rules, row by row.

use super::*;

#[test]
fn what_each_color_has_decides_where_nothing_forbids_a_failover() {
    use StayReason::{Enough, NowhereToGo, Unknown};
    let stay = |why| stay(why, None);
    let two = |web: ListenerCount, dns: ListenerCount| Standing(vec![web, dns]);
    let half_bad = || two(listener("web", 2, 0, 0), listener("dns", 0, 0, 2));
    let both_good = || two(listener("web", 1, 0, 1), listener("dns", 1, 0, 0));
    let rows = [
        (enough(), enough(), stay(Enough), None, "all is well"),
        (
            enough(),
            short(),
            stay(Enough),
            None,
            "the standby may fail",
        ),
        (
            counted(1, 0, 5),
            enough(),
            stay(Enough),
            None,
            "one is enough",
        ),
        (short(), enough(), to_green(), None, "the failover"),
        (
            unknown(),
            enough(),
            stay(Unknown),
            None,
            "unknown is no failure",
        ),
        (
            counted(0, 1, 3),
            enough(),
            stay(Unknown),
            None,
            "not even in part",
        ),
        (
            short(),
            unknown(),
            stay(NowhereToGo),
            Some(AlarmKind::FailOpen),
            "nor a target",
        ),
        (
            short(),
            short(),
            stay(NowhereToGo),
            Some(AlarmKind::FailOpen),
            "G6",
        ),
        (unknown(), unknown(), stay(Unknown), None, "the first start"),
        (
            unknown(),
            short(),
            stay(Unknown),
            None,
            "nothing found against the active one",
        ),
        (
            half_bad(),
            both_good(),
            to_green(),
            None,
            "one listener without backends",
        ),
        (
            both_good(),
            half_bad(),
            stay(Enough),
            None,
            "of the standby",
        ),
        (
            short(),
            half_bad(),
            stay(NowhereToGo),
            Some(AlarmKind::FailOpen),
            "all must be served",
        ),
        (
            counted(0, 0, 0),
            enough(),
            to_green(),
            None,
            "a color without backends",
        ),
        (
            Standing::default(),
            enough(),
            stay(Enough),
            None,
            "nothing but previews",
        ),
    ];
    for (blue, green, decision, alarm, why) in rows {
        let verdict = decided(&situation(blue, green));
        assert_eq!(verdict.decision, decision, "{why}");
        assert_eq!(verdict.raised.map(|alarm| alarm.kind), alarm, "{why}");
    }
}

#[test]
fn drained_by_hand_is_not_eligible_and_no_check_is() {
    let drained = Candidate {
        is_drained: true,
        ..candidate(Health::Healthy)
    };
    let unchecked = Candidate {
        health: None,
        ..candidate(Health::Unknown)
    };
    let fitness = |backends: &[Candidate]| ListenerCount::of("http", backends, 1).fitness();
    assert_eq!(fitness(&[drained]), Fitness::Short);
    assert_eq!(
        fitness(&[drained, candidate(Health::Unknown)]),
        Fitness::Unknown
    );
    assert_eq!(fitness(&[unchecked]), Fitness::Enough);
}

#[test]
fn the_terms_say_how_the_old_flows_are_treated() {
    let drain = Terms {
        at_failover: AtFailover::Drain,
        ..terms()
    };
    let verdict = State::default().decide(&drain, &situation(short(), enough()), START);
    let expected = Decision::FailOver {
        to: Color::Green,
        at_failover: AtFailover::Drain,
    };
    assert_eq!(verdict.decision, expected);
}

#[test]
fn an_unconfirmed_flip_whose_color_fails_is_taken_back_whatever_else_forbids_a_change() {
    let mut it = green_is_short();
    it.unconfirmed_until = Some(START.plus_ms(5_000));
    it.newest_manual = Some(START);
    it.paused_until = Some(START.plus_ms(1_000));
    let revert = Decision::Revert { to: Color::Blue };
    let state = failed_over(START);
    let verdict = state.decide(&terms(), &it, START.plus_ms(1));
    assert_eq!(verdict.decision, revert, "freeze, pause, hold-down");
    assert_eq!(
        verdict.next.flips_left(&terms(), START.plus_ms(1)),
        state.flips_left(&terms(), START.plus_ms(1)),
        "it answers an operator's flip, and is not of the budget"
    );
    let held = verdict.next.hold_down_until(&terms());
    assert_eq!(
        held,
        Some(START.plus_ms(30_001)),
        "but it is followed by a hold-down"
    );

    it.standing.blue = short();
    let verdict = State::default().decide(&terms(), &it, START);
    assert_eq!(
        verdict.decision,
        stay(StayReason::NowhereToGo, None),
        "not to a bad color"
    );

    let mut off = State::default();
    assert!(off.switch(false));
    it.standing.blue = enough();
    let verdict = off.decide(&terms(), &it, START);
    let switched_off = stay(StayReason::SwitchedOff, None);
    assert_eq!(verdict.decision, switched_off, "its deadline still does it");
}

#[test]
fn a_standby_that_fails_loses_its_share_at_once() {
    let mut it = situation(enough(), short());
    it.split_percent = 10;
    it.newest_manual = Some(START);
    it.paused_until = Some(START.plus_ms(1_000));
    let verdict = decided(&it);
    assert_eq!(verdict.decision, Decision::EndSplit);
    assert_eq!(verdict.evidence.cause, Some(Cause::StandbyShort));
    assert_eq!(verdict.raised, None);

    it.standing.green = unknown();
    assert_eq!(decided(&it).decision, stay(StayReason::Enough, None));

    it.standing = PerColor {
        blue: short(),
        green: short(),
    };
    let verdict = decided(&it);
    assert_eq!(verdict.decision, Decision::EndSplit);
    let raised = verdict.raised.map(|alarm| alarm.kind);
    assert_eq!(
        raised,
        Some(AlarmKind::FailOpen),
        "and the alarm comes with it"
    );

    let mut off = State::default();
    off.switch(false);
    it.standing.blue = enough();
    let verdict = off.decide(&terms(), &it, START);
    assert_eq!(
        verdict.decision,
        stay(StayReason::Enough, None),
        "switched off"
    );
}

#[test]
fn a_drill_fails_over_as_a_failure_does_and_raises_no_alarm() {
    let mut it = situation(enough(), enough());
    it.is_drill = true;
    let verdict = decided(&it);
    assert_eq!(verdict.decision, to_green());
    assert_eq!(verdict.evidence.cause, Some(Cause::Drill));
    assert_eq!(verdict.evidence.sides.blue.fitness, Fitness::Enough);

    let left = verdict.next.flips_left(&terms(), START);
    assert_eq!(left, terms().flips_per_hour, "it is not of the budget");
    let after = verdict.next.decide(&terms(), &green_is_short(), START);
    let to_blue = Decision::FailOver {
        to: Color::Blue,
        at_failover: AtFailover::Cut,
    };
    assert_eq!(after.decision, to_blue, "nor of the hold-down");

    it.standing.green = short();
    let verdict = decided(&it);
    assert_eq!(verdict.decision, stay(StayReason::NowhereToGo, None));
    assert_eq!(verdict.raised, None, "the active color serves");

    it.standing = PerColor {
        blue: short(),
        green: enough(),
    };
    assert_eq!(
        decided(&it).evidence.cause,
        Some(Cause::ActiveShort),
        "a failure is one"
    );
}

#[test]
fn evidence_names_the_listener_the_numbers_and_since_when() {
    let two = Standing(vec![listener("web", 2, 0, 0), listener("dns", 0, 1, 1)]);
    let before = decided(&situation(two, enough())).next;
    let later = START.plus_ms(700);
    let two = Standing(vec![listener("web", 2, 0, 0), listener("dns", 0, 0, 2)]);
    let evidence = before
        .decide(&terms(), &situation(two, enough()), later)
        .evidence;
    let blue = &evidence.sides.blue;
    assert_eq!((blue.fitness, blue.since), (Fitness::Short, later));
    assert_eq!(blue.listener, Some(listener("dns", 0, 0, 2)));
    assert_eq!(evidence.sides.green.since, START);
    assert_eq!(
        evidence.to_string(),
        "the active color has too few eligible backends: active blue: listener dns has 0 eligible \
         backends, 1 needed, 2 unhealthy; standby green: listener http has 2 eligible backends, 1 needed"
    );
    let text = serde_json::to_string(&evidence).expect("JSON");
    let read: Evidence = serde_json::from_str(&text).expect("the same");
    assert_eq!(read, evidence);
}

#[test]
fn an_alarm_is_raised_once_and_cleared_once() {
    let bad = situation(short(), short());
    let first = decided(&bad);
    let alarm = first.raised.expect("an alarm");
    assert_eq!(alarm.kind, AlarmKind::FailOpen);
    let again = first.next.decide(&terms(), &bad, START.plus_ms(5));
    assert_eq!((again.raised, again.cleared), (None, None));
    assert_eq!(again.next.alarm(), Some(alarm));
    let over = again
        .next
        .decide(&terms(), &situation(short(), enough()), START.plus_ms(9));
    assert_eq!(over.decision, to_green());
    assert_eq!((over.raised, over.cleared), (None, Some(alarm)));
    assert_eq!(over.next.alarm(), None);
}

#[test]
fn an_alarm_for_another_reason_takes_the_place_of_the_one_that_stands() {
    let mut state = State::default();
    state.switch(false);
    let off = state.decide(&terms(), &situation(short(), enough()), START);
    let raised = off.raised.expect("an alarm");
    assert_eq!(raised.kind, AlarmKind::SwitchedOff);
    let both = off
        .next
        .decide(&terms(), &situation(short(), short()), START);
    assert_eq!(both.cleared, Some(raised));
    assert_eq!(both.raised.map(|it| it.kind), Some(AlarmKind::FailOpen));
}
