//! `switcher apply` and `switcher check` against a served fake, and the route beneath.

use std::{fs, path::PathBuf};

use serde_json::json;
use switcher_userspace::{
    api::{MAX_APPLY_BYTES, client::Client, requests::ApplyRequest, types::ErrorCode},
    config::difference::Kind,
};
use tempfile::TempDir;

use crate::{
    command::{run, run_at},
    fake::{CONFIG, Served, unused_socket},
    http::request,
};

/// [`CONFIG`] with one more backend.
fn changed() -> String {
    CONFIG.replace(
        "port = 8080 }]",
        "port = 8080 }, { address = \"10.0.1.12\", port = 8080, weight = 3 }]",
    )
}

/// A file with `text`.
fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("new.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn people_see_the_difference_before_it_is_applied() {
    let served = Served::start();
    let (_dir, path) = file(&changed());
    let ran = run(&served, &format!("apply {}", path.display()));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let difference = "~ service web\n  ~ listener http\n    + blue 10.0.1.12:8080, weight 3\n";
    assert_eq!(ran.err, difference);
    assert!(
        ran.out.starts_with("applied\nweb: blue is active\n"),
        "{}",
        ran.out
    );
    let asked = served.fake.applies.lock().unwrap();
    let dry_runs: Vec<bool> = asked.iter().map(|it| it.dry_run).collect();
    assert_eq!(dry_runs, [true, false]);
    assert_eq!(*served.fake.config.lock().unwrap(), changed());
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let served = Served::start();
    let (_dir, path) = file(&changed());
    for arguments in ["--dry-run", "--dry-run --json"] {
        let ran = run(&served, &format!("apply {} {arguments}", path.display()));
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains("10.0.1.12") && ran.err.is_empty());
    }
    assert_eq!(*served.fake.config.lock().unwrap(), CONFIG);
}

#[test]
fn scripts_get_one_object_with_the_difference() {
    let served = Served::start();
    let (_dir, path) = file(&changed());
    let object = run(&served, &format!("apply {} --json", path.display())).object();
    assert_eq!(
        (&object["changed"], &object["active"]["web"]),
        (&json!(true), &json!("blue"))
    );
    assert_eq!(
        object["difference"]["services"],
        json!([{
            "name": "web",
            "change": "changed",
            "listeners": [{
                "name": "http",
                "change": "changed",
                "vip": "192.0.2.10", "port": 80, "protocol": "tcp", "preview": false,
                "backends": [{
                    "color": "blue",
                    "address": "10.0.1.12", "port": 8080, "weight": 3,
                    "change": "added",
                }],
            }],
        }])
    );
    let again = run(&served, &format!("apply {} --json", path.display())).object();
    assert_eq!(again["changed"], json!(false));
    assert_eq!(again["difference"]["services"], json!([]));
}

#[test]
fn a_bad_file_is_told_with_its_name_its_line_and_the_reason() {
    let served = Served::start();
    let (_dir, path) = file(&CONFIG.replace("port = 80\n", "port = 0\n"));
    for verb in ["apply", "check"] {
        for json in ["", " --json"] {
            let ran = run(&served, &format!("{verb} {}{json}", path.display()));
            assert_eq!(ran.code, 2, "{} {}", ran.out, ran.err);
            let said = format!("{}{}", ran.out, ran.err);
            for word in ["new.toml", "line 8", "port is 0", "expected 1 to 65535"] {
                assert!(said.contains(word), "{verb}: no {word:?} in {said}");
            }
        }
    }
    assert_eq!(*served.fake.config.lock().unwrap(), CONFIG);
}

#[test]
fn a_file_is_checked_without_an_agent_and_compared_with_one() {
    let served = Served::start();
    let (dir, path) = file(&changed());
    let line = format!("check {}", path.display());
    let alone = run_at(&unused_socket(dir.path()), &format!("{line} --json"), None);
    assert_eq!(alone.code, 0, "{}", alone.err);
    assert_eq!(alone.object(), json!({ "valid": true, "difference": null }));
    let object = run(&served, &format!("{line} --json")).object();
    assert_eq!(object["valid"], json!(true));
    assert_eq!(object["difference"]["services"][0]["name"], json!("web"));
    let ran = run(&served, &line);
    assert!(
        ran.out.contains("is valid") && ran.out.contains("10.0.1.12"),
        "{}",
        ran.out
    );
    assert_eq!(*served.fake.config.lock().unwrap(), CONFIG);
    let missing = run(&served, "check nowhere.toml --json");
    assert_eq!(missing.code, 2, "{}", missing.out);
}

#[test]
fn an_apply_that_fails_says_what_stands() {
    let served = Served::start();
    for line in ["apply nowhere.toml --json", "apply --json"] {
        let ran = run(&served, line);
        assert_eq!((ran.code, &ran.object()["changed"]), (2, &json!(false)));
    }
}

#[tokio::test]
async fn a_configuration_of_ten_thousand_listeners_is_taken_in() {
    let served = Served::start();
    let (head, service) = CONFIG.split_once("[[service]]").unwrap();
    let (service, listener) = service.split_once("[[service.listener]]").unwrap();
    let mut config = format!("{head}[[service]]{service}");
    for number in 0..10_000 {
        let of_number = listener
            .replace("http", &format!("l{number}"))
            .replace("port = 80\n", &format!("port = {}\n", 10_000 + number));
        config += "[[service.listener]]";
        config += &of_number;
    }
    let client = Client::new(&served.socket());
    let sent = ApplyRequest {
        config,
        ..ApplyRequest::default()
    };
    let reply = client.apply(&sent).await.unwrap();
    let services = reply.difference.unwrap().services;
    assert_eq!(services[0].listeners.len(), 10_001);
    assert_eq!(services[0].listeners[10_000].change, Kind::Removed);
}

#[tokio::test]
async fn a_larger_body_than_any_configuration_is_refused() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    let config = " ".repeat(MAX_APPLY_BYTES);
    let failure = client
        .apply(&ApplyRequest {
            config,
            ..ApplyRequest::default()
        })
        .await
        .unwrap_err();
    // A server that has read enough may close before the rest is sent.
    assert!(matches!(
        failure.error.code,
        ErrorCode::Usage | ErrorCode::Unreachable
    ));
    assert!(served.fake.applies.lock().unwrap().is_empty());
}

#[test]
fn bad_requests_are_told_why() {
    let served = Served::start();
    for body in [
        &b""[..],
        b"{}",
        b"[]",
        br#"{"config":""}"#,
        br#"{"config":"","services":["web"]}"#,
    ] {
        let (status, answer) = request(&served.socket(), "POST", "/v1/apply", body);
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!("usage")),
            "{answer}"
        );
        assert_eq!(answer["active"], json!({ "web": "blue" }));
    }
}
