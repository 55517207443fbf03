//! What the agent changes by itself, and drills of that.

use super::*;

/// `board` after `change` of `web`.
fn after(board: &Switchboard, change: Change, now: Now) -> Switchboard {
    let changed = board.changed(&ordered(&["web"], change), &Open, now);
    changed.expect("nothing stands in the way")
}

fn drill(board: &Switchboard) -> Switchboard {
    let change = Change::Drill {
        undone_within_ms: Some(20_000),
    };
    after(board, change, START)
}

fn flip_to(to: Color) -> Change {
    Change::Flip {
        to: Some(to),
        confirm_within_ms: None,
        force: false,
    }
}

#[test]
fn only_an_operator_changes_the_color_by_hand() {
    let start = board(&["web"]);
    let manual = |board: &Switchboard| board.services["web"].newest_manual;
    assert_eq!(
        manual(&after(&start, flip_to(Color::Green), START)),
        Some(START)
    );
    let failover = Change::FailOver {
        to: Color::Green,
        origin: Origin::Failover,
    };
    let failed_over = after(&start, failover, START);
    assert_eq!(manual(&failed_over), None);
    let back = after(&failed_over, Change::Rollback { force: false }, START);
    assert_eq!(
        (back.services["web"].active, manual(&back)),
        (Color::Blue, Some(START))
    );
    assert_eq!(manual(&drill(&start)), None);
    assert_eq!(
        manual(&after(&drill(&start), Change::EndDrill, START)),
        None
    );
}

#[test]
fn a_drill_leaves_nothing_behind_but_generations() {
    let start = flip(
        &flip(&board(&["web"]), Color::Green, START),
        Color::Blue,
        START,
    );
    let drilled = drill(&start);
    assert_eq!(drilled.services["web"].active, Color::Green);
    let ended = after(&drilled, Change::EndDrill, START);
    let (before, web) = (&start.services["web"], &ended.services["web"]);
    assert_eq!(
        (web.active, web.drill, ended.generation),
        (Color::Blue, None, 4)
    );
    assert_eq!(web.newest, before.newest, "a rollback means what it meant");
}

#[test]
fn a_drill_ends_with_its_drain_or_when_its_time_is_over() {
    let drilled = drill(&board(&["web"]));
    let due = |board: &Switchboard, ms| board.drills_to_end(START.plus_ms(ms));
    assert!(due(&drilled, 19_999).is_empty());
    assert_eq!(due(&drilled, 20_000), ["web"]);
    assert_eq!(
        drilled.next_deadline_boot_ms(),
        Some(START.plus_ms(20_000).boot_ms)
    );
    let mut drained = drilled;
    let end = End {
        at: START,
        flows_left: 0,
        cuts: Cuts::default(),
    };
    let web = drained.services.get_mut("web").expect("web");
    web.drain.as_mut().expect("a drain").ended = Some(end);
    assert_eq!(due(&drained, 1), ["web"]);
}

#[test]
fn a_flip_to_the_color_that_a_drill_has_made_active_keeps_it() {
    let kept = after(&drill(&board(&["web"])), flip_to(Color::Green), START);
    let web = &kept.services["web"];
    assert_eq!(
        (web.active, web.drill, kept.generation),
        (Color::Green, None, 1)
    );
    assert_eq!(web.newest_manual, Some(START), "an operator wants it");
    assert_eq!(web.newest.map(|it| it.origin), Some(Origin::Flip));
    assert!(kept.drills_to_end(START.plus_ms(100_000)).is_empty());
    let again = after(&kept, flip_to(Color::Green), START);
    assert_eq!(again, kept, "already so");
}

#[test]
fn a_drill_does_not_disturb_what_an_operator_tries_out() {
    let refused = |board: &Switchboard| {
        let change = Change::Drill {
            undone_within_ms: None,
        };
        let refused = board.changed(&ordered(&["web"], change), &Open, START);
        matches!(
            refused.expect_err("it is in the way").why,
            Obstacle::DrillDisturbs { .. }
        )
    };
    assert!(refused(&drill(&board(&["web"]))), "another drill");
    let split = after(&board(&["web"]), Change::Split { percent: 10 }, START);
    assert!(refused(&split), "a share of the clients");
}
