//! `--wait`: progress, ends, exit codes.

use serde_json::json;
use switcher_userspace::api::types::DrainEnd;

use crate::{
    command::{run, run_at},
    fake::{Served, running},
};

#[test]
fn waiting_ends_with_the_drain() {
    let served = Served::start();
    assert_eq!(run(&served, "drain web --wait").code, 0, "no drain ran");
    served.fake.drain.send_replace(Some(running(Some(42))));
    let ran = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&served, "drain web --wait --json"));
        // The command watches: one more receiver than none.
        while served.fake.drain.receiver_count() == 0 {
            std::thread::yield_now();
        }
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
    served.fake.drain.send_replace(Some(running(Some(42))));
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
    let ran = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&served, "flip web --to green --wait --json"));
        while served.fake.drain.receiver_count() == 0 {
            std::thread::yield_now();
        }
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
    served.fake.drain.send_replace(Some(running(Some(42))));
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
