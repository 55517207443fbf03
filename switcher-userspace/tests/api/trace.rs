//! `trace`: lines as they come, what is lost, and every way in which it ends.

use std::{io, sync::atomic::Ordering, thread, time::Duration};

use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_userspace::{
    api::{
        client::Client,
        trace::{Decision, DecisionFlow, TraceLine, TraceRequest},
        types::ErrorCode,
    },
    cli::{self, Console},
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    command::{LOCAL, Ran, run},
    fake::{Served, Traced},
    hostile::serve,
    http::request,
};

const LIMIT: Duration = Duration::from_secs(10);

/// A packet of a new connection, on its way to its backend.
fn forwarded() -> Decision {
    Decision {
        seen_at: "2026-01-01T12:34:56.000123Z".to_owned(),
        interface: Some("eth0".to_owned()),
        stage: "forward".to_owned(),
        verdict: "redirect".to_owned(),
        reason: "redirected".to_owned(),
        notes: Vec::new(),
        protocol: "tcp".to_owned(),
        tcp_flags: Some("SYN".to_owned()),
        from: "192.0.2.1:40000".to_owned(),
        to: "198.51.100.1:80".to_owned(),
        sent_from: Some("192.0.2.1:40000".to_owned()),
        sent_to: Some("10.0.0.1:8080".to_owned()),
        bytes: 60,
        service: Some("web".to_owned()),
        color: Some(Color::Blue),
        flow: Some(DecisionFlow {
            is_new: true,
            direction: "forward".to_owned(),
            state: "unanswered".to_owned(),
            backend: "10.0.0.1:8080".to_owned(),
            preview: false,
            unpinned: true,
        }),
    }
}

/// A packet that is none of ours.
fn foreign() -> Decision {
    Decision {
        stage: "ours".to_owned(),
        verdict: "pass".to_owned(),
        reason: "not_ours".to_owned(),
        notes: vec!["flow_restored".to_owned()],
        protocol: "udp".to_owned(),
        tcp_flags: None,
        from: "[2001:db8::1]:9".to_owned(),
        to: "[2001:db8::2]:53".to_owned(),
        sent_from: None,
        sent_to: None,
        interface: None,
        service: None,
        color: None,
        flow: None,
        ..forwarded()
    }
}

/// Runs `line` while `tell` tells of packets.
fn traced(served: &Served, line: &str, tell: impl FnOnce(&Traced)) -> Ran {
    thread::scope(|scope| {
        let reading = scope.spawn(|| run(served, line));
        tell(&served.fake.trace());
        reading.join().unwrap()
    })
}

#[tokio::test]
async fn the_client_gets_each_line_and_the_agent_hears_when_it_leaves() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    let asked = TraceRequest {
        client: "2001:db8::1".parse().ok(),
        service: Some("web".to_owned()),
    };
    let mut trace = client.trace(&asked).await.unwrap();
    assert_eq!(trace.next().await, Ok(TraceLine::Tracing));
    let told = served.fake.trace();
    assert_eq!(told.request, asked);
    told.decisions.send(forwarded()).await.unwrap();
    let line = TraceLine::Decision(Box::new(forwarded()));
    assert_eq!(trace.next().await, Ok(line));
    told.lost.fetch_add(7, Ordering::Relaxed);
    told.decisions.send(foreign()).await.unwrap();
    // Before or after the packet: it was waited for already.
    let mut lines = [trace.next().await.unwrap(), trace.next().await.unwrap()];
    lines.sort_by_key(|line| matches!(line, TraceLine::Decision(_)));
    let lost = TraceLine::Lost { decisions: 7 };
    let line = TraceLine::Decision(Box::new(foreign()));
    assert_eq!(lines, [lost, line]);
    assert!(!told.decisions.is_closed());
    drop(trace);
    let left = timeout(LIMIT, told.left.notified()).await;
    assert!(left.is_ok() && told.decisions.is_closed());
}

#[test]
fn a_trace_ends_after_as_many_packets_as_were_asked_for() {
    let served = Served::start();
    let ran = traced(&served, "trace --count 2 --client 192.0.2.1", |told| {
        for decision in [forwarded(), foreign()] {
            told.decisions.blocking_send(decision).unwrap();
        }
    });
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (0, "tracing; Ctrl-C ends it\n")
    );
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines,
        [
            "12:34:56.000123Z eth0 forward redirect redirected: tcp SYN 192.0.2.1:40000 > \
             198.51.100.1:80 => 192.0.2.1:40000 > 10.0.0.1:8080, 60 bytes, web, blue, \
             unanswered flow of 10.0.0.1:8080 new unpinned",
            "12:34:56.000123Z - ours pass not_ours: udp [2001:db8::1]:9 > [2001:db8::2]:53, \
             60 bytes, (flow_restored)",
        ]
    );
}

#[test]
fn scripts_get_one_object_per_line() {
    let served = Served::start();
    let ran = traced(&served, "trace --count 2 --json", |told| {
        told.lost.fetch_add(3, Ordering::Relaxed);
        for decision in [forwarded(), foreign()] {
            told.decisions.blocking_send(decision).unwrap();
        }
    });
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines = ran.out.lines().map(serde_json::from_str::<Value>);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().unwrap();
    let of = |kind: &str| {
        let lines = lines.iter().filter(|line| line["kind"] == kind);
        lines.cloned().collect::<Vec<_>>()
    };
    let (decisions, lost) = (of("decision"), of("lost"));
    assert_eq!((decisions.len(), lost.len(), lines.len()), (2, 1, 3));
    assert_eq!(lost[0]["decisions"], json!(3));
    assert_eq!(decisions[0]["flow"]["is_new"], json!(true));
    assert_eq!(decisions[1]["sent_to"], json!(null));
}

#[test]
fn an_agent_that_stops_is_told_apart_from_an_end() {
    let mut served = Served::start();
    let ran = thread::scope(|scope| {
        let socket = served.socket();
        let reading = scope.spawn(move || crate::command::run_at(&socket, "trace --json", None));
        served.fake.trace();
        served.stop();
        reading.join().unwrap()
    });
    let last = ran.out.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(
        (ran.code, &error["error"]["code"]),
        (6, &json!("unreachable")),
        "{}",
        ran.out
    );
}

/// A standard output whose reader has left.
struct Closed;

impl io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_leaves_ends_the_trace_with_success() {
    let served = Served::start();
    let code = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut input, mut out, mut err) = (io::empty(), Closed, Vec::new());
            let mut console = Console::new(&mut input, &mut out, &mut err, false);
            let socket = served.socket().into();
            let words = ["switcher".into(), "--socket".into(), socket, "trace".into()];
            cli::run(words, LOCAL, &mut console)
        });
        served
            .fake
            .trace()
            .decisions
            .blocking_send(forwarded())
            .unwrap();
        reading.join().unwrap()
    });
    assert_eq!(code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_trace_says_that_it_goes_on() {
    let directory = TempDir::new().unwrap();
    let (fake, client) = serve(&directory).await;
    let mut trace = client.trace(&TraceRequest::default()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(trace.next().await, Ok(TraceLine::Tracing));
    }
    fake.trace().lost.fetch_add(1, Ordering::Relaxed);
    let lost = TraceLine::Lost { decisions: 1 };
    assert_eq!(trace.next().await, Ok(lost), "told without a packet");
}

#[tokio::test]
async fn what_cannot_be_traced_is_refused() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    let of_nobody = TraceRequest {
        service: Some("nope".to_owned()),
        ..TraceRequest::default()
    };
    let error = client.trace(&of_nobody).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    for query in ["client=nobody", "client=::ffff:192.0.2.1", "port=80"] {
        let (status, body) = request(&served.socket(), "GET", &format!("/v1/trace?{query}"), b"");
        assert_eq!(
            (status, &body["error"]["code"]),
            (400, &json!("usage")),
            "{query}"
        );
    }
}
