//! Changing verbs: the request that each command line becomes, and what is refused before that.

use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_userspace::{
    api::requests::{
        AbortRequest, Body, ChangeRequest, ConfirmRequest, DisableFailoverRequest,
        DrainBackendRequest, DrillRequest, EnableFailoverRequest, Endpoint, ExtendDrainRequest,
        FinishDrainRequest, FlipRequest, PauseRequest, PromoteRequest, ResumeBackendRequest,
        ResumeRequest, RollbackRequest, SplitRequest,
    },
    switching::AtDeadline,
};
use tempfile::TempDir;

use crate::{
    command::{run, run_at},
    fake::{Served, running, unused_socket},
    http::request,
};

fn web() -> Vec<String> {
    vec!["web".to_owned()]
}

fn backend(address: &str) -> Endpoint {
    Endpoint {
        color: Color::Green,
        address: address.parse().expect("a literal endpoint"),
    }
}

/// A row of a table: a command line and the request that the agent must get.
fn row(line: &str, expected: impl Into<ChangeRequest>) -> (&str, ChangeRequest) {
    (line, expected.into())
}

fn rollbacks_and_splits() -> Vec<(&'static str, ChangeRequest)> {
    vec![
        row(
            "rollback web",
            RollbackRequest {
                services: web(),
                ..RollbackRequest::default()
            },
        ),
        row(
            "rollback web --drain-timeout 2s --at-deadline reset --force --expect-active green \
             --if-generation 7 --reason broken",
            RollbackRequest {
                services: web(),
                expect_active: Some(Color::Green),
                if_generation: Some(7),
                reason: Some("broken".to_owned()),
                drain_timeout_ms: Some(2_000),
                at_deadline: Some(AtDeadline::Reset),
                force: true,
                ..RollbackRequest::default()
            },
        ),
        row(
            "confirm web --if-generation 3",
            ConfirmRequest {
                services: web(),
                if_generation: Some(3),
                ..ConfirmRequest::default()
            },
        ),
        row(
            "split web --standby 0",
            SplitRequest {
                services: web(),
                ..SplitRequest::default()
            },
        ),
        row(
            "split web --standby 100 --dry-run",
            SplitRequest {
                services: web(),
                dry_run: true,
                standby_percent: 100,
                ..SplitRequest::default()
            },
        ),
        row(
            "promote web --at-deadline move --force",
            PromoteRequest {
                services: web(),
                at_deadline: Some(AtDeadline::Move),
                force: true,
                ..PromoteRequest::default()
            },
        ),
        row(
            "abort web --drain-timeout 500ms --expect-active blue",
            AbortRequest {
                services: web(),
                expect_active: Some(Color::Blue),
                drain_timeout_ms: Some(500),
                ..AbortRequest::default()
            },
        ),
    ]
}

fn failovers() -> Vec<(&'static str, ChangeRequest)> {
    vec![
        row(
            "failover enable web --reason moved",
            EnableFailoverRequest {
                services: web(),
                reason: Some("moved".to_owned()),
                ..EnableFailoverRequest::default()
            },
        ),
        row(
            "failover disable web --if-generation 3 --dry-run",
            DisableFailoverRequest {
                services: web(),
                if_generation: Some(3),
                dry_run: true,
                ..DisableFailoverRequest::default()
            },
        ),
        row(
            "failover drill web --timeout 5s --stay --expect-active blue",
            DrillRequest {
                services: web(),
                expect_active: Some(Color::Blue),
                timeout_ms: Some(5_000),
                stay: true,
                ..DrillRequest::default()
            },
        ),
    ]
}

fn pauses_drains_and_backends() -> Vec<(&'static str, ChangeRequest)> {
    vec![
        row(
            "pause web",
            PauseRequest {
                services: web(),
                ..PauseRequest::default()
            },
        ),
        row(
            "pause web/http --max 30s --hard",
            PauseRequest {
                services: web(),
                listener: Some("http".to_owned()),
                max_ms: Some(30_000),
                hard: true,
                ..PauseRequest::default()
            },
        ),
        row(
            "resume web --reason copied",
            ResumeRequest {
                services: web(),
                reason: Some("copied".to_owned()),
                ..ResumeRequest::default()
            },
        ),
        row(
            "resume web/http",
            ResumeRequest {
                services: web(),
                listener: Some("http".to_owned()),
                ..ResumeRequest::default()
            },
        ),
        row(
            "drain web --extend 90s",
            ExtendDrainRequest {
                services: web(),
                by_ms: 90_000,
                ..ExtendDrainRequest::default()
            },
        ),
        row(
            "drain web --finish-now reset --if-generation 2",
            FinishDrainRequest {
                services: web(),
                if_generation: Some(2),
                at_deadline: AtDeadline::Reset,
                ..FinishDrainRequest::default()
            },
        ),
        row(
            "backend drain web green 192.0.2.7:8080 --force",
            DrainBackendRequest {
                services: web(),
                backend: backend("192.0.2.7:8080"),
                force: true,
                ..DrainBackendRequest::default()
            },
        ),
        row(
            "backend resume web green [2001:db8::7]:8080",
            ResumeBackendRequest {
                services: web(),
                backend: backend("[2001:db8::7]:8080"),
                ..ResumeBackendRequest::default()
            },
        ),
    ]
}

fn rows() -> Vec<(&'static str, ChangeRequest)> {
    let mut rows = rollbacks_and_splits();
    rows.extend(pauses_drains_and_backends());
    rows.extend(failovers());
    rows
}

#[test]
fn each_verb_sends_what_its_command_line_says() {
    let served = Served::start();
    for (line, expected) in rows() {
        let ran = run(&served, &format!("{line} --json"));
        assert_eq!(ran.code, 0, "{line}: {} {}", ran.out, ran.err);
        assert_eq!(ran.object()["changed"], json!(true), "{line}");
        let got = std::mem::take(&mut *served.fake.others.lock().unwrap());
        assert_eq!(got, [expected], "{line}");
    }
}

#[test]
fn a_drill_is_waited_for_until_it_is_undone_and_told_as_one_object() {
    let served = Served::start();
    let line = "failover drill web --json";
    let ran = run(&served, line);
    assert_eq!(ran.code, 1, "nobody has undone it: {}", ran.out);
    assert_eq!(ran.object()["undone"], json!(false));
    let entry = |error: Value| {
        json!({
            "number": 9, "at": "2026-01-01T00:00:05Z", "what": "drill_ended", "services": ["web"],
            "by": null, "from_generation": 1, "generation": 2, "active": {"web": "blue"},
            "drain": running(Some(3)), "error": error,
        })
    };
    let refused = json!({ "code": "refused", "message": "blue is short", "next_step": "look" });
    for (error, code) in [(Value::Null, 0), (refused, 1)] {
        let entry = serde_json::from_value(entry(error)).expect("an entry");
        *served.fake.history.lock().unwrap() = vec![entry];
        let ran = run(&served, line);
        assert_eq!(ran.code, code, "{}", ran.out);
        let object = ran.object();
        assert_eq!(object["undone"], json!(code == 0), "{object}");
        assert_eq!(object["drain"]["in_flight"], json!(3), "{object}");
        assert_eq!(object["generation"], json!(2), "{object}");
    }
}

#[test]
fn several_services_are_one_request() {
    let served = Served::start();
    for line in [
        "rollback nope web",
        "confirm nope web",
        "split nope web --standby 5",
        "promote nope web",
        "abort nope web",
    ] {
        assert_eq!(run(&served, line).code, 7, "{line}");
        let got = std::mem::take(&mut *served.fake.others.lock().unwrap());
        let services: Vec<_> = got.iter().map(|it| it.terms().services).collect();
        assert_eq!(services, [["nope", "web"]], "{line}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2_and_says_that_nothing_changed() {
    let served = Served::start();
    for line in [
        "split web --standby 101",
        "split web --standby -1",
        "split web",
        "split --standby 5",
        "split web web --standby 5",
        "pause web/",
        "pause web --max 31s",
        "pause web --max 5",
        "resume web/",
        "resume",
        "rollback",
        "rollback web --expect-active red",
        "rollback web --at-deadline never",
        "rollback web --drain-timeout 25h",
        "rollback web --dry-run --wait",
        "confirm",
        "promote web web",
        "abort web --if-generation -1",
        "backend drain web red 192.0.2.7:80",
        "backend drain web green 192.0.2.7",
        "backend resume web green 2001:db8::7:80",
        "backend resume web green",
        "backend stop web green 192.0.2.7:80",
        "backend",
        "drain web --extend 25h",
        "drain web --extend soon",
        "drain web --extend=soon",
        "drain web --finish-now later",
        "drain web --extend 1s --finish-now keep",
        "flip web --to green --confirm-within 2h",
    ] {
        let ran = run(&served, line);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {}", ran.err);
        let ran = run(&served, &format!("{line} --json"));
        let object = ran.object();
        assert_eq!(
            (ran.code, &object["changed"], &object["error"]["code"]),
            (2, &json!(false), &json!("usage")),
            "{line}: {object}"
        );
    }
    assert!(served.fake.others.lock().unwrap().is_empty(), "none got on");
    assert!(served.fake.flips.lock().unwrap().is_empty());
}

#[test]
fn without_an_agent_each_changing_verb_ends_with_6_and_has_changed_nothing() {
    let directory = TempDir::new().unwrap();
    let socket = unused_socket(directory.path());
    for (line, _) in rows() {
        let ran = run_at(&socket, line, None);
        assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{line}");
        let ran = run_at(&socket, &format!("{line} --json"), None);
        let object = ran.object();
        assert_eq!(
            (ran.code, &object["changed"], &object["error"]["code"]),
            (6, &json!(false), &json!("unreachable")),
            "{line}"
        );
    }
}

/// A request's path and its body, with everything that it has.
fn sent<B: Body>(body: &B) -> (String, Value) {
    let body = serde_json::to_value(body).unwrap();
    (format!("/v1/{}", B::VERB), body)
}

#[test]
fn a_field_that_a_verb_does_not_know_is_refused() {
    let served = Served::start();
    let bodies = [
        sent(&FlipRequest::default()),
        sent(&RollbackRequest::default()),
        sent(&ConfirmRequest::default()),
        sent(&SplitRequest::default()),
        sent(&PromoteRequest::default()),
        sent(&AbortRequest::default()),
        sent(&PauseRequest::default()),
        sent(&ResumeRequest::default()),
        sent(&ExtendDrainRequest::default()),
        sent(&FinishDrainRequest::default()),
        sent(&DrainBackendRequest::default()),
        sent(&ResumeBackendRequest::default()),
    ];
    let post = |path: &str, body: &Value| {
        request(&served.socket(), "POST", path, body.to_string().as_bytes())
    };
    for (path, mut body) in bodies {
        body["services"] = json!(["web"]);
        if path == "/v1/flip" {
            body["to"] = json!("green");
        }
        let (status, answer) = post(&path, &body);
        assert_eq!(status, 200, "{path}, as it should be: {answer}");
        body["frobnicate"] = json!(1);
        let (status, answer) = post(&path, &body);
        assert_eq!(
            (status, &answer["error"]["code"], &answer["changed"]),
            (400, &json!("usage"), &json!(false)),
            "{path}"
        );
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("frobnicate"), "{path}: {message}");
    }
    let nested = json!({
        "services": ["web"],
        "backend": { "color": "blue", "address": "192.0.2.7:80", "frobnicate": 1 },
    });
    assert_eq!(post("/v1/drain-backend", &nested).0, 400);
    let got = served.fake.others.lock().unwrap().len();
    assert_eq!(got, 11, "those without the field, and no other");
}
