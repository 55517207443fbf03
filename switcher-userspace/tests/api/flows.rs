//! `flows`: the list as it comes, its end, and what cuts it short.

use std::num::NonZeroU32;

use serde_json::{Value, json};
use switcher_common::service::{Color, Protocol};
use switcher_userspace::api::{
    client::Client,
    flows::{FlowStatus, FlowsLine, FlowsRequest},
    types::{ApiError, ErrorCode},
};

use crate::{command::run, fake::Served, http::request};

pub(crate) fn flow(port: u16) -> FlowStatus {
    FlowStatus {
        protocol: Protocol::Tcp,
        client: ([192, 0, 2, 1], port).into(),
        vip: ([198, 51, 100, 1], 80).into(),
        listener: Some("http".to_owned()),
        color: Color::Blue,
        backend: ([10, 0, 0, 1], 8080).into(),
        state: "established".to_owned(),
        preview: false,
        unpinned: false,
        cut: false,
        forward_table: Some("established".to_owned()),
        reverse_table: Some("established".to_owned()),
        age_ms: 61_000,
        silent_ms: 200,
    }
}

fn has(served: &Served, flows: impl IntoIterator<Item = FlowStatus>, last: FlowsLine) {
    let flows = flows.into_iter().map(|it| FlowsLine::Flow(Box::new(it)));
    let lines = flows.chain([last]).collect();
    *served.fake.flows.lock().unwrap() = lines;
}

fn end(flows: u64, complete: bool) -> FlowsLine {
    FlowsLine::End { flows, complete }
}

#[test]
fn people_get_a_table_and_hear_when_there_are_more() {
    let served = Served::start();
    let odd = FlowStatus {
        protocol: Protocol::Udp,
        client: "[2001:db8::1]:53".parse().unwrap(),
        vip: "[2001:db8::2]:53".parse().unwrap(),
        listener: None,
        color: Color::Green,
        backend: "[2001:db8::3]:53".parse().unwrap(),
        state: "unanswered".to_owned(),
        preview: true,
        unpinned: true,
        cut: true,
        forward_table: Some("unanswered".to_owned()),
        reverse_table: None,
        age_ms: 3_600_000,
        silent_ms: 900,
    };
    has(&served, [flow(1), odd], end(2, false));
    let ran = run(&served, "flows web --color green --limit 2");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("CLIENT"), "{}", ran.out);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        lines[1..]
            .iter()
            .map(|line| words(line))
            .collect::<Vec<_>>(),
        [
            "tcp 192.0.2.1:1 198.51.100.1:80 http blue 10.0.0.1:8080 established established \
             1 m 1 s 0.2 s",
            "udp [2001:db8::1]:53 [2001:db8::2]:53 - green [2001:db8::3]:53 unanswered, cut, \
             preview, unpinned unanswered, replies missing 1 h 0 m 0.9 s",
        ]
    );
    assert!(ran.err.contains("more than these 2"), "{}", ran.err);
    let asked = FlowsRequest {
        color: Some(Color::Green),
        limit: NonZeroU32::new(2),
    };
    assert_eq!(*served.fake.lists.lock().unwrap(), [asked]);
}

#[test]
fn no_flows_are_an_answer() {
    let served = Served::start();
    has(&served, [], end(0, true));
    let ran = run(&served, "flows web");
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "", "no flows\n")
    );
    assert_eq!(served.fake.lists.lock().unwrap()[0].most(), 1_000);
}

#[test]
fn scripts_get_one_object_however_long_the_list_is() {
    let served = Served::start();
    for flows in [0_u16, 1, 999, 1_000, 1_001, 2_500] {
        // Up to more than the server writes, and the command shows, at once.
        let complete = flows != 2_500;
        has(&served, (0..flows).map(flow), end(flows.into(), complete));
        let ran = run(&served, "flows web --json");
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let list = ran.object();
        assert_eq!(
            (&list["count"], &list["complete"]),
            (&json!(flows), &json!(complete))
        );
        let listed = list["flows"].as_array().unwrap();
        let clients: Vec<&Value> = listed.iter().map(|flow| &flow["client"]).collect();
        let expected: Vec<Value> = (0..flows)
            .map(|port| json!(format!("192.0.2.1:{port}")))
            .collect();
        assert!(clients.iter().copied().eq(&expected), "{clients:?}");
    }
    let ran = run(&served, "flows web");
    let rows = ran.out.lines().filter(|line| line.starts_with("tcp"));
    assert_eq!(rows.count(), 2_500);
}

#[test]
fn a_list_that_breaks_off_is_a_failure_with_what_there_was() {
    let served = Served::start();
    let error = ApiError::new(ErrorCode::DataPath, "no such map", "look");
    has(&served, (0..1_001).map(flow), FlowsLine::Failed { error });
    let ran = run(&served, "flows web --json");
    let list = ran.object();
    assert_eq!(
        (ran.code, &list["error"]["code"], &list["complete"]),
        (8, &json!("data_path"), &json!(false)),
        "{}",
        ran.out
    );
    assert_eq!(list["flows"].as_array().map(Vec::len), Some(1_001));
    let ran = run(&served, "flows web");
    assert_eq!(ran.code, 8);
    assert!(ran.err.contains("no such map"), "{}", ran.err);
    // Without an end nobody knows whether it is complete.
    *served.fake.flows.lock().unwrap() = vec![FlowsLine::Flow(Box::new(flow(1)))];
    assert_eq!(run(&served, "flows web").code, 6);
    let ran = run(&served, "flows web --json");
    assert_eq!((ran.code, &ran.object()["complete"]), (6, &json!(false)));
}

#[tokio::test]
async fn one_list_too_many_is_refused() {
    let served = Served::start();
    // Longer than what fits between the agent and a client that does not read.
    has(&served, (0..60_000).map(flow), end(60_000, true));
    let client = Client::new(&served.socket());
    let mut lists = Vec::new();
    for _ in 0..4 {
        let list = client.flows("web", &FlowsRequest::default()).await;
        lists.push(list.unwrap());
    }
    let refused = client.flows("web", &FlowsRequest::default()).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Refused);
    assert!(client.version().await.is_ok(), "others are served");
    let mut first = lists.remove(0);
    let mut flows = 0;
    while let FlowsLine::Flow(_) = first.next().await.unwrap() {
        flows += 1;
    }
    assert_eq!(flows, 60_000);
}

#[test]
fn what_cannot_be_listed_is_refused() {
    let served = Served::start();
    for (path, status, code) in [
        ("nope", 404, "not_found"),
        ("%FF", 400, "usage"),
        ("web?limit=0", 400, "usage"),
        ("web?limit=-1", 400, "usage"),
        ("web?color=red", 400, "usage"),
        ("web?colour=blue", 400, "usage"),
    ] {
        let path = format!("/v1/flows/{path}");
        let (found, body) = request(&served.socket(), "GET", &path, b"");
        assert_eq!(
            (found, &body["error"]["code"]),
            (status, &json!(code)),
            "{path}"
        );
    }
}
