//! `wait` and `--wait`: progress, ends, exit codes.

use std::thread;

use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_userspace::{
    api::types::{DrainEnd, NewestChange, PauseStatus, ServiceStatus},
    switching::Origin,
};

use crate::{
    command::{Ran, run, run_at},
    fake::{Served, running},
};

#[test]
fn waiting_ends_with_the_drain() {
    let served = Served::start();
    assert_eq!(run(&served, "drain web --wait").code, 0, "no drain ran");
    served.fake.set_drain(running(Some(42)));
    let ran = thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&served, "drain web --wait --json"));
        served.fake.wait_for_watcher();
        served.fake.end_drain(DrainEnd::Drained, 0);
        waiting.join().unwrap()
    });
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.object()["drain"]["ended"], json!("drained"));
    assert!(
        ran.err.contains("web: blue drained after 4.1 s"),
        "{}",
        ran.err
    );
}

#[test]
fn a_drain_that_ended_with_flows_left_is_a_timeout() {
    let served = Served::start();
    served.fake.end_drain(DrainEnd::Deadline, 3);
    assert_eq!(run(&served, "drain web").code, 0, "showing it is a success");
    let ran = run(&served, "drain web --wait --json");
    assert_eq!(ran.code, 5);
    let object = ran.object();
    assert_eq!(object["drain"]["flows_left"], json!(3));
    assert!(
        object["error"]["message"]
            .as_str()
            .unwrap()
            .contains("3 flows"),
        "{object}"
    );
}

#[test]
fn waiting_too_long_leaves_the_change_standing() {
    let served = Served::start();
    served.fake.set_drain(running(Some(42)));
    let ran = run(&served, "drain web --wait --timeout 500ms --json");
    assert_eq!(ran.code, 5);
    let object = ran.object();
    assert!(
        object["error"]["message"]
            .as_str()
            .unwrap()
            .contains("within 500ms")
    );
    assert_eq!(object["drain"]["in_flight"], json!(42));
    assert!(
        ran.err.contains("web: draining blue, 42 in flight, "),
        "{}",
        ran.err
    );
}

#[test]
fn a_flip_that_waits_answers_once_with_its_drains() {
    let served = Served::start();
    let ran = thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&served, "flip web --to green --wait --json"));
        served.fake.wait_for_watcher();
        served.fake.end_drain(DrainEnd::Deadline, 1);
        waiting.join().unwrap()
    });
    let object = ran.object();
    assert_eq!((ran.code, &object["changed"]), (5, &json!(true)));
    assert_eq!(object["drains"]["web"]["flows_left"], json!(1));
    assert_eq!(object["error"]["code"], json!("timeout"));
}

#[test]
fn a_terminal_sees_a_line_that_is_drawn_again() {
    let served = Served::start();
    served.fake.set_drain(running(Some(42)));
    let ran = run_at(
        &served.socket(),
        "drain web --wait --timeout 500ms",
        Some(""),
    );
    assert!(
        ran.err.contains("\rweb: draining blue, 42 in flight, "),
        "{:?}",
        ran.err
    );
    assert!(ran.err.contains("of 30 s\x1b[K"), "{:?}", ran.err);
}

/// Runs `line` while `change` changes the service, as soon as the command watches it.
fn while_it_waits(served: &Served, line: &str, change: impl FnOnce(&mut ServiceStatus)) -> Ran {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| run(served, line));
        served.fake.wait_for_watcher();
        served.fake.service.send_modify(change);
        waiting.join().unwrap()
    })
}

fn pause() -> PauseStatus {
    PauseStatus {
        listener: None,
        until_at: "2026-01-01T00:00:30Z".to_owned(),
        hard: false,
    }
}

#[test]
fn a_condition_that_holds_already_is_not_waited_for() {
    let served = Served::start();
    for until in ["active=blue", "drained", "confirmed", "resumed"] {
        let ran = run(&served, &format!("wait web --until {until} --timeout 0s"));
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (0, format!("web: {until}\n").as_str()),
            "{}",
            ran.err
        );
    }
    let ran = run(&served, "wait web --until active=blue,drained --json");
    let object = ran.object();
    assert_eq!(object["until"], json!(["active=blue", "drained"]));
    assert_eq!(object["services"][0]["active"], json!("blue"));
    assert!(object.get("error").is_none(), "{object}");
}

#[test]
fn each_condition_is_waited_for_until_it_holds() {
    let served = Served::start();
    let ran = while_it_waits(&served, "wait web --until active=green", |web| {
        web.active = Color::Green;
    });
    assert_eq!(ran.code, 0, "{}", ran.err);
    served.fake.service.send_modify(|web| {
        web.pauses.push(pause());
        web.confirm_until_at = Some("2026-01-01T00:00:30Z".to_owned());
    });
    let ran = while_it_waits(&served, "wait web --until resumed", |web| {
        web.pauses.clear();
    });
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ran = while_it_waits(&served, "wait web --until confirmed", |web| {
        web.confirm_until_at = None;
    });
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn all_conditions_must_hold_at_once() {
    let served = Served::start();
    served.fake.set_drain(running(Some(3)));
    let ran = while_it_waits(
        &served,
        "wait web --until active=green,drained --timeout 500ms --json",
        |web| web.active = Color::Green,
    );
    let object = ran.object();
    assert_eq!(
        (ran.code, &object["error"]["code"]),
        (5, &json!("timeout")),
        "{object}"
    );
    let message = object["error"]["message"].as_str().unwrap_or_default();
    assert_eq!(message, "the drain of web did not end within 500ms");
    assert_eq!(object["services"][0]["drain"]["in_flight"], json!(3));
}

#[test]
fn what_will_not_come_true_ends_the_waiting() {
    let served = Served::start();
    served.fake.service.send_modify(|web| {
        web.confirm_until_at = Some("2026-01-01T00:00:30Z".to_owned());
    });
    let ran = while_it_waits(
        &served,
        "wait web --until confirmed,resumed --json",
        |web| {
            web.confirm_until_at = None;
            web.pauses.push(pause());
            web.newest_change = Some(NewestChange {
                by: Origin::Reverted,
                from: Color::Green,
                forced: false,
            });
        },
    );
    let object = ran.object();
    assert_eq!(
        (ran.code, &object["error"]["code"]),
        (4, &json!("conflict"))
    );
    served.fake.end_drain(DrainEnd::FinishedNow, 2);
    let ran = run(&served, "wait web --until drained");
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("2 flows"), "{}", ran.err);
}

#[test]
fn waiting_for_nothing_that_is_there_or_can_be_is_told_at_once() {
    let served = Served::start();
    for (line, code) in [
        ("wait web", 2),
        ("wait --until drained", 2),
        ("wait web --until", 2),
        ("wait web --until active", 2),
        ("wait web --until active=red", 2),
        ("wait web --until drained,often", 2),
        ("wait web --until drained --timeout soon", 2),
        ("wait nope --until drained", 7),
        ("wait web nope --until drained", 7),
        ("wait web,web --until drained", 7),
    ] {
        let ran = run(&served, &format!("{line} --json"));
        assert_eq!(ran.code, code, "{line}: {}", ran.out);
        assert!(ran.object()["error"]["next_step"].is_string(), "{line}");
    }
}

#[test]
fn the_status_is_watched_as_long_as_somebody_reads() {
    let mut served = Served::start();
    let socket = served.socket();
    let ran = thread::scope(|scope| {
        let watching = scope.spawn(|| run_at(&socket, "status web --watch --json", None));
        served.fake.wait_for_watcher();
        served
            .fake
            .service
            .send_modify(|web| web.in_flight.blue = 18);
        served.stop();
        watching.join().unwrap()
    });
    assert_eq!(ran.code, 6, "the agent has stopped: {}", ran.out);
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (error, statuses) = lines.split_last().unwrap();
    assert_eq!(error["error"]["code"], json!("unreachable"));
    let flows = statuses
        .iter()
        .map(|it| &it["services"][0]["in_flight"]["blue"]);
    let flows: Vec<&Value> = flows.collect();
    // The first line may come after the change, and the second one not before the end.
    let each = [vec![17], vec![17, 18], vec![18]];
    assert!(
        each.iter().any(|it| flows
            .iter()
            .copied()
            .eq(&it.iter().map(|n| json!(n)).collect::<Vec<_>>())),
        "{flows:?}"
    );
    let ran = run_at(&served.socket(), "status --watch", None);
    assert_eq!(ran.code, 6);
}

#[test]
fn the_status_of_named_services_is_theirs_alone() {
    let served = Served::start();
    let ran = run(&served, "status web --json");
    assert_eq!(ran.object()["services"][0]["name"], json!("web"));
    for line in ["status nope", "status web nope", "status nope --watch"] {
        let ran = run(&served, &format!("{line} --json"));
        assert_eq!(ran.code, 7, "{line}");
        assert_eq!(ran.object()["error"]["code"], json!("not_found"), "{line}");
    }
}
