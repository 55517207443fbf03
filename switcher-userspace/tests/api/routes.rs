//! What each route answers, and each of its errors.

use std::{io::Write as _, os::unix::net::UnixStream};

use serde_json::json;
use switcher_common::service::Color;
use switcher_userspace::api::{client::Client, requests::FlipRequest, types::ErrorCode};

use crate::{
    fake::{Served, running},
    http::request,
};

fn flip_to(color: Color) -> FlipRequest {
    FlipRequest {
        services: vec!["web".to_owned()],
        to: Some(color),
        ..FlipRequest::default()
    }
}

#[tokio::test]
async fn the_client_gets_what_the_agent_says() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    assert_eq!(client.version().await.unwrap().agent, "9.8.7");
    assert_eq!(client.status().await.unwrap().services[0].name, "web");
    assert_eq!(client.drain("web").await, Ok(None));

    let reply = client.change(&flip_to(Color::Green)).await.unwrap();
    assert!(reply.changed);
    assert_eq!((reply.generation, reply.active["web"]), (2, Color::Green));
    assert_eq!(client.drain("web").await, Ok(Some(running(Some(42)))));

    let again = client.change(&flip_to(Color::Green)).await.unwrap();
    assert!(!again.changed);
}

#[tokio::test]
async fn a_failed_flip_tells_the_state_beside_the_error() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    let expect_active = Some(Color::Green);
    let request = FlipRequest {
        expect_active,
        ..flip_to(Color::Green)
    };
    let failure = client.change(&request).await.unwrap_err();
    assert_eq!(failure.error.code, ErrorCode::Conflict);
    assert_eq!(
        (failure.changed, failure.generation),
        (Some(false), Some(1))
    );
    assert_eq!(failure.active["web"], Color::Blue);
}

#[tokio::test]
async fn a_changing_verb_knows_who_asked() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    client.change(&flip_to(Color::Green)).await.unwrap();
    let flips = served.fake.flips.lock().unwrap();
    let pid = i32::try_from(std::process::id()).unwrap();
    assert_eq!(flips[0].1.pid, Some(pid));
}

#[tokio::test]
async fn a_watcher_sees_the_status_and_each_change_of_it() {
    let served = Served::start();
    served.fake.set_drain(running(None));
    let client = Client::new(&served.socket());
    for services in [None, Some(&["web".to_owned()][..])] {
        let mut watch = client.watch_status(services).await.unwrap();
        let first = watch.next().await.unwrap();
        assert_eq!(first, client.status().await.unwrap());
        for in_flight in [7, 6] {
            served.fake.set_drain(running(Some(in_flight)));
            let drain = watch.next().await.unwrap().services[0].drain.clone();
            assert_eq!(drain, Some(running(Some(in_flight))));
        }
        served.fake.set_drain(running(None));
    }
}

#[tokio::test]
async fn a_watcher_is_told_when_the_agent_stops() {
    let mut served = Served::start();
    let client = Client::new(&served.socket());
    let mut watch = client.watch_status(None).await.unwrap();
    watch.next().await.unwrap();
    let stopping = tokio::task::spawn_blocking(move || served.stop());
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable, "{error}");
    // An end that was told, not a connection that was cut.
    assert!(error.message.contains("stopped while"), "{error}");
    stopping.await.unwrap();
}

#[tokio::test]
async fn an_unknown_service_is_not_found_whatever_its_name() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    for name in ["nope", "a/b", "web/watch", "ü", "%", "..", " "] {
        let error = client.drain(name).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound, "{name}: {error}");
        let names = ["web".to_owned(), (*name).to_owned()];
        let error = client.watch_status(Some(&names)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound, "{name}: {error}");
    }
}

#[test]
fn answers_are_json_for_clients_without_types() {
    let served = Served::start();
    let socket = served.socket();
    let (status, body) = request(&socket, "GET", "/v1/version", b"");
    assert_eq!(
        (status, body),
        (200, json!({ "agent": "9.8.7", "layout": 3 }))
    );
    let (status, body) = request(&socket, "GET", "/v1/drain/web", b"");
    assert_eq!((status, body), (200, json!({ "drain": null })));
    let (status, body) = request(
        &socket,
        "POST",
        "/v1/flip",
        br#"{"services":["web"],"to":"green"}"#,
    );
    assert_eq!(
        (status, &body["changed"], &body["active"]["web"]),
        (200, &json!(true), &json!("green"))
    );
}

#[test]
fn bad_requests_are_told_why() {
    let served = Served::start();
    let huge = vec![b' '; 65 * 1024];
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("GET", "/v1/nothing", b"", 404, "not_found"),
        ("GET", "/", b"", 404, "not_found"),
        ("GET", "/v1/drain/nope", b"", 404, "not_found"),
        (
            "GET",
            "/v1/status/watch?services=web,nope",
            b"",
            404,
            "not_found",
        ),
        ("GET", "/v1/status/watch?services=", b"", 404, "not_found"),
        ("GET", "/v1/status/watch?service=web", b"", 400, "usage"),
        ("GET", "/v1/drain/%FF", b"", 400, "usage"),
        ("GET", "/v1/flip", b"", 405, "usage"),
        ("DELETE", "/v1/status", b"", 405, "usage"),
        ("POST", "/v1/flip", b"", 400, "usage"),
        ("POST", "/v1/flip", b"{", 400, "usage"),
        ("POST", "/v1/flip", b"[]", 400, "usage"),
        (
            "POST",
            "/v1/flip",
            br#"{"services":["web"],"to":"red"}"#,
            400,
            "usage",
        ),
        (
            "POST",
            "/v1/flip",
            br#"{"services":["web"],"to":"green","force":1}"#,
            400,
            "usage",
        ),
        ("POST", "/v1/flip", br#"{"services":["web"]}"#, 400, "usage"),
        (
            "POST",
            "/v1/flip",
            br#"{"services":[],"to":"green"}"#,
            400,
            "usage",
        ),
        (
            "POST",
            "/v1/flip",
            br#"{"services":["web","web"],"to":"green"}"#,
            400,
            "usage",
        ),
        ("POST", "/v1/flip", &huge, 400, "usage"),
        (
            "POST",
            "/v1/flip",
            br#"{"services":["nope"],"to":"green"}"#,
            404,
            "not_found",
        ),
    ];
    for (method, path, body, status, code) in cases {
        let (got, answer) = request(&served.socket(), method, path, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!(
            (got, &answer["error"]["code"]),
            (*status, &json!(code)),
            "{method} {path} {shown}"
        );
        assert!(answer["error"]["message"].is_string() && answer["error"]["next_step"].is_string());
        if *method == "POST" {
            assert_eq!(
                (&answer["changed"], &answer["generation"]),
                (&json!(false), &json!(1))
            );
            assert!(answer["active"].is_object());
        }
    }
    assert_eq!(served.fake.active(), Color::Blue);
}

#[test]
fn a_flip_goes_on_when_its_client_leaves() {
    let served = Served::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    let body = br#"{"services":["web"],"to":"green","reason":"slow"}"#;
    write!(
        stream,
        "POST /v1/flip HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    runtime.block_on(served.fake.began.notified());
    drop(stream);
    let mut changes = served.fake.service.subscribe();
    served.fake.go_on.notify_one();
    runtime.block_on(changes.changed()).unwrap();
    assert_eq!(served.fake.active(), Color::Green);
}

#[tokio::test]
async fn a_flip_that_panics_is_an_internal_error_of_unknown_outcome() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    let reason = Some("panic".to_owned());
    let failure = client
        .change(&FlipRequest {
            reason,
            ..flip_to(Color::Green)
        })
        .await
        .unwrap_err();
    assert_eq!(
        (failure.error.code, failure.changed),
        (ErrorCode::Internal, None)
    );
    assert!(client.version().await.is_ok(), "the server goes on");
}
