//! `preview`: the standby's addresses and backends, and whether it could become active.

use std::net::IpAddr;

use serde_json::json;
use switcher_common::service::{Color, Protocol};
use switcher_userspace::api::{
    preview::{GateObstacle, PreviewBackend, PreviewListener, PreviewReply},
    types::BackendStatus,
};
use switcher_userspace::failover::Health;

use crate::{command::run, fake::Served, http::request};

fn backend(last: u8, drained: bool) -> PreviewBackend {
    PreviewBackend {
        status: BackendStatus {
            address: IpAddr::from([10, 0, 0, last]),
            port: 8_080,
            weight: 3,
            health: Health::Unknown,
            drained,
        },
        eligible: !drained,
    }
}

pub(crate) fn preview() -> PreviewReply {
    let listener = |name: &str, port, backends| PreviewListener {
        name: name.to_owned(),
        vip: "2001:db8::1".parse().unwrap(),
        port,
        protocol: Protocol::Udp,
        backends,
    };
    PreviewReply {
        service: "web".to_owned(),
        active: Color::Blue,
        standby: Color::Green,
        generation: 7,
        preview_flows: 2,
        previews: vec![
            listener("try", 8_443, vec![backend(1, false), backend(2, true)]),
            listener("empty", 8_444, Vec::new()),
        ],
        listeners: vec![listener("quic", 443, vec![backend(3, true)])],
        passes_gate: false,
        obstacle: Some(GateObstacle {
            listener: "quic".to_owned(),
            eligible: 0,
            min_healthy: 1,
        }),
    }
}

#[test]
fn people_see_addresses_backends_and_what_a_flip_lacks() {
    let served = Served::start();
    *served.fake.preview.lock().unwrap() = Some(preview());
    let ran = run(&served, "preview web");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = ran.out.lines().map(words).collect();
    assert_eq!(
        lines,
        [
            "web: green is the standby, generation 7, 2 preview flows",
            "",
            "PREVIEW ADDRESS BACKEND WEIGHT STATE ELIGIBLE",
            "try [2001:db8::1]:8443/udp 10.0.0.1:8080 3 unknown yes",
            "try [2001:db8::1]:8443/udp 10.0.0.2:8080 3 unknown, drained no",
            "empty [2001:db8::1]:8444/udp none - - -",
            "",
            "LISTENER ADDRESS BACKEND WEIGHT STATE ELIGIBLE",
            "quic [2001:db8::1]:443/udp 10.0.0.3:8080 3 unknown, drained no",
            "",
            "a flip would be refused: listener quic has 0 eligible backends on green, 1 are needed",
            "next step: bring the backends of green up, configure them, or \
             `switcher flip web --to green --force`",
        ]
    );
    *served.fake.preview.lock().unwrap() = Some(PreviewReply {
        passes_gate: true,
        obstacle: None,
        ..preview()
    });
    let ran = run(&served, "preview web");
    let last = ran.out.lines().last();
    assert_eq!(last, Some("green would pass the gate of a flip"));
}

#[test]
fn scripts_get_what_the_agent_says() {
    let served = Served::start();
    *served.fake.preview.lock().unwrap() = Some(preview());
    let ran = run(&served, "preview web --json");
    let (status, body) = request(&served.socket(), "GET", "/v1/preview?service=web", b"");
    assert_eq!((ran.code, status), (0, 200));
    assert_eq!(ran.object(), body);
    assert_eq!(
        body["previews"][0]["backends"][1],
        json!({
            "address": "10.0.0.2", "port": 8_080, "weight": 3, "health": "unknown",
            "drained": true, "eligible": false,
        })
    );
    assert_eq!(body["passes_gate"], json!(false));
    assert_eq!(body["obstacle"]["listener"], json!("quic"));
}

#[test]
fn what_has_no_preview_is_refused_and_what_is_unknown_is_not_found() {
    let served = Served::start();
    for (path, status, code) in [
        ("?service=web", 422, "refused"),
        ("?service=nope", 404, "not_found"),
        ("", 400, "usage"),
        ("?service=web&color=blue", 400, "usage"),
    ] {
        let path = format!("/v1/preview{path}");
        let (found, body) = request(&served.socket(), "GET", &path, b"");
        assert_eq!(
            (found, &body["error"]["code"]),
            (status, &json!(code)),
            "{path}"
        );
    }
}
