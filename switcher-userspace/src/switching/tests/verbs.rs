//! The verbs beside the flip, a row for each rule.

use super::*;

/// `board` after `change` of `web`.
fn after(board: &Switchboard, change: Change, now: Now) -> Switchboard {
    let changed = board.changed(&ordered(&["web"], change), &Open, now);
    changed.expect("nothing stands in the way")
}

/// Why `change` of `web` is refused.
fn obstacle(board: &Switchboard, change: Change, gate: &impl Gate) -> Obstacle {
    let changed = board.changed(&ordered(&["web"], change), gate, START);
    changed.expect_err("something stands in the way").why
}

const ROLLBACK: Change = Change::Rollback { force: false };
const PROMOTE: Change = Change::Promote { force: false };

fn flip_within(confirm_within_ms: u64) -> Change {
    Change::Flip {
        to: Some(Color::Green),
        confirm_within_ms: Some(confirm_within_ms),
        force: false,
    }
}

fn pause(listener: Option<&str>, max_ms: u64, hard: bool) -> Change {
    Change::Pause {
        listener: listener.map(str::to_owned),
        max_ms,
        hard,
    }
}

#[test]
fn a_rollback_undoes_the_newest_flip_once() {
    let start = board(&["web"]);
    assert_eq!(obstacle(&start, ROLLBACK, &Open), Obstacle::NothingToUndo);
    let flipped = flip(&start, Color::Green, START);
    let back = after(&flipped, ROLLBACK, START);
    let web = &back.services["web"];
    assert_eq!((web.active, back.generation), (Color::Blue, 2));
    assert_eq!(after(&back, ROLLBACK, START), back, "the second time");
}

#[test]
fn a_rollback_asks_the_gate_unless_it_is_forced() {
    let flipped = flip(&board(&["web"]), Color::Green, START);
    let closed = ClosedFor(Color::Blue);
    assert!(matches!(
        obstacle(&flipped, ROLLBACK, &closed),
        Obstacle::NotEnoughBackends { .. }
    ));
    let order = ordered(&["web"], Change::Rollback { force: true });
    let forced = flipped.changed(&order, &closed, START).expect("forced");
    let newest = forced.services["web"].newest.expect("a change");
    assert!(newest.forced, "and that is recorded");
}

#[test]
fn an_unconfirmed_flip_is_undone_in_all_its_services_together() {
    let order = ordered(&["api", "web"], flip_within(5_000));
    let flipped = board(&["api", "web"])
        .changed(&order, &Open, START)
        .expect("a flip");
    assert!(flipped.unconfirmed(START.plus_ms(4_999)).is_empty());
    let late = START.plus_ms(5_000);
    assert_eq!(flipped.next_deadline_boot_ms(), Some(late.boot_ms));
    let unconfirmed = flipped.unconfirmed(late);
    assert_eq!(unconfirmed[&1], ["api", "web"]);
    let revert = ordered(&["api", "web"], Change::Revert);
    let back = flipped.changed(&revert, &Open, late).expect("undone");
    assert!(
        back.services
            .values()
            .all(|it| it.active == Color::Blue && it.generation == 2)
    );
    assert!(back.unconfirmed(late).is_empty());
    assert_eq!(
        obstacle(&back, Change::Confirm, &Open),
        Obstacle::AlreadyReverted {
            active: Color::Blue
        }
    );
}

#[test]
fn a_flip_is_confirmed_as_a_whole_and_then_stands() {
    let order = ordered(&["api", "web"], flip_within(5_000));
    let flipped = board(&["api", "web"])
        .changed(&order, &Open, START)
        .expect("a flip");
    let confirmed = after(&flipped, Change::Confirm, START);
    assert_eq!(confirmed.generation, 1, "that is no change of a color");
    assert!(confirmed.unconfirmed(START.plus_ms(9_000)).is_empty());
    assert_eq!(after(&confirmed, Change::Confirm, START), confirmed);
}

#[test]
fn a_rollback_within_the_window_needs_no_confirmation() {
    let flipped = after(&board(&["web"]), flip_within(5_000), START);
    let back = after(&flipped, ROLLBACK, START);
    assert_eq!(back.services["web"].confirm, None);
    assert!(back.unconfirmed(START.plus_ms(9_000)).is_empty());
}

#[test]
fn a_split_needs_a_standby_that_could_serve_and_does_not_drain() {
    let start = board(&["web"]);
    let split = |percent| Change::Split { percent };
    assert!(matches!(
        obstacle(&start, split(10), &ClosedFor(Color::Green)),
        Obstacle::NotEnoughBackends { .. }
    ));
    let ten = after(&start, split(10), START);
    assert_eq!((ten.services["web"].split_percent, ten.generation), (10, 1));
    assert_eq!(after(&ten, split(10), START), ten, "already so");
    let less = ten.changed(
        &ordered(&["web"], split(5)),
        &ClosedFor(Color::Green),
        START,
    );
    assert!(less.is_ok(), "taking clients away asks no gate");
    let draining = flip(&start, Color::Green, START);
    assert_eq!(
        obstacle(&draining, split(10), &Open),
        Obstacle::StandbyDrains { color: Color::Blue }
    );
}

#[test]
fn a_promotion_makes_the_standby_active_once_and_only_with_a_share() {
    let start = board(&["web"]);
    assert_eq!(obstacle(&start, PROMOTE, &Open), Obstacle::NoSplit);
    let half = after(&start, Change::Split { percent: 50 }, START);
    let promoted = after(&half, PROMOTE, START);
    let web = &promoted.services["web"];
    assert_eq!((web.active, web.split_percent), (Color::Green, 0));
    assert_eq!(
        after(&promoted, PROMOTE, START),
        promoted,
        "a retry flips nothing back"
    );
    let back = after(&promoted, ROLLBACK, START);
    let web = &back.services["web"];
    assert_eq!((web.active, web.split_percent), (Color::Blue, 0));
}

#[test]
fn an_abort_ends_the_share_and_drains_the_standby() {
    let half = after(&board(&["web"]), Change::Split { percent: 50 }, START);
    let aborted = after(&half, Change::Abort, START);
    let web = &aborted.services["web"];
    assert_eq!(
        (web.active, web.split_percent, web.base),
        (Color::Blue, 0, Color::Blue)
    );
    assert_eq!(
        web.running_drain().map(|drain| drain.color),
        Some(Color::Green)
    );
    assert_eq!(after(&aborted, Change::Abort, START), aborted);
}

#[test]
fn g4_a_pause_ends_by_itself_and_a_resume_ends_it_at_once() {
    let paused = after(&board(&["web"]), pause(None, 5_000, false), START);
    assert_eq!(
        (paused.services["web"].pauses.len(), paused.generation),
        (1, 1)
    );
    assert_eq!(
        after(&paused, pause(None, 4_000, false), START),
        paused,
        "it lasts longer already"
    );
    assert_ne!(
        after(&paused, pause(None, 4_000, true), START),
        paused,
        "another kind"
    );
    let http = Change::Resume {
        listener: Some("http".to_owned()),
    };
    assert!(matches!(
        obstacle(&paused, http, &Open),
        Obstacle::PausedAsAWhole { .. }
    ));
    let resume = Change::Resume { listener: None };
    let resumed = after(&paused, resume.clone(), START);
    assert!(resumed.services["web"].pauses.is_empty());
    assert_eq!(after(&resumed, resume, START), resumed);
    let mut ended = paused.clone();
    ended.end_pauses(START.plus_ms(5_000));
    assert!(ended.services["web"].pauses.is_empty());
    assert_eq!(
        ended.generation, paused.generation,
        "nobody changed anything"
    );
}

#[test]
fn one_listeners_pause_is_its_own() {
    let http = after(&board(&["web"]), pause(Some("http"), 5_000, false), START);
    let both = after(&http, pause(Some("dns"), 5_000, false), START);
    assert_eq!(both.services["web"].pauses.len(), 2);
    let resume = Change::Resume {
        listener: Some("http".to_owned()),
    };
    let left = &after(&both, resume, START).services["web"].pauses;
    assert_eq!(left[0].listener.as_deref(), Some("dns"));
}

#[test]
fn g10_a_drain_is_extended_or_finished_by_hand_only_while_it_runs() {
    let start = board(&["web"]);
    let extend = Change::ExtendDrain { by_ms: 60_000 };
    assert_eq!(obstacle(&start, extend.clone(), &Open), Obstacle::NoDrain);
    let draining = flip(&start, Color::Green, START);
    let extended = after(&draining, extend.clone(), START);
    let drain = extended.services["web"].running_drain().expect("a drain");
    assert_eq!(drain.deadline, START.plus_ms(90_000));
    let finish = Change::FinishDrain {
        at_deadline: AtDeadline::Keep,
    };
    let now = START.plus_ms(100);
    let mut finished = after(&extended, finish.clone(), now);
    let drain = finished.services["web"].running_drain().expect("a drain");
    assert_eq!((drain.deadline, drain.finished_by_hand), (now, true));
    let ended = finished.observe(&saw(now.boot_ms, 4, 0), now);
    assert_eq!(ended.first().map(|ended| ended.end.flows_left), Some(4));
    assert_eq!(after(&finished, finish, now), finished, "over already");
    assert_eq!(obstacle(&finished, extend, &Open), Obstacle::NoDrain);
}

#[test]
fn an_extension_is_bounded() {
    let draining = flip(&board(&["web"]), Color::Green, START);
    let extended = after(&draining, Change::ExtendDrain { by_ms: u64::MAX }, START);
    let drain = extended.services["web"].running_drain().expect("a drain");
    assert_eq!(drain.deadline, START.plus_ms(24 * 60 * 60 * 1_000));
}

/// A gate for one backend, which is the only one of each color.
struct Lonely(SocketAddr);

impl Gate for Lonely {
    fn shortage(&self, _: &str, _: Color, drained: &BTreeSet<SocketAddr>) -> Option<Shortage> {
        drained.contains(&self.0).then(|| Shortage {
            listener: "http".to_owned(),
            eligible: 0,
            min_healthy: 1,
        })
    }
}

#[test]
fn g6_the_last_backend_of_the_active_color_is_not_drained() {
    let endpoint = SocketAddr::from(([10, 0, 0, 1], 80));
    let drain = |force| Change::DrainBackend { endpoint, force };
    let start = board(&["web"]);
    let why = obstacle(&start, drain(false), &Lonely(endpoint));
    assert!(matches!(why, Obstacle::NotEnoughBackends { .. }), "{why}");
    let forced = start.changed(&ordered(&["web"], drain(true)), &Lonely(endpoint), START);
    let forced = forced.expect("forced");
    assert!(forced.services["web"].drained_backends.contains(&endpoint));
    assert_eq!(
        forced.generation, 0,
        "no change of a color, a split or a pause"
    );
    let back = after(&forced, Change::ResumeBackend { endpoint }, START);
    assert!(back.services["web"].drained_backends.is_empty());
}

#[test]
fn a_flip_while_paused_needs_a_pause_of_all_that_lasts_until_it_is_visible() {
    let mut order = ordered(
        &["web"],
        Change::Flip {
            to: Some(Color::Green),
            confirm_within_ms: None,
            force: false,
        },
    );
    order.conditions.while_paused = true;
    let start = board(&["web"]);
    let of_one = after(&start, pause(Some("http"), 5_000, false), START);
    let of_all = after(&start, pause(None, 5_000, false), START);
    let at = |board: &Switchboard, ms| board.changed(&order, &Open, START.plus_ms(ms));
    for (board, ms) in [
        (&start, 0),
        (&of_one, 0),
        (&of_all, 4_900),
        (&of_all, 5_000),
    ] {
        let refusal = at(board, ms).expect_err("fresh flows are not held");
        assert_eq!(refusal.why, Obstacle::NotPaused, "after {ms} ms");
    }
    let flipped = at(&of_all, 4_899).expect("fresh flows are held");
    assert_eq!(flipped.services["web"].active, Color::Green);
    assert_eq!(at(&flipped, 6_000).expect("already so"), flipped);
}
