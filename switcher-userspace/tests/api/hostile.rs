//! Clients that stall, flood or never read harm nobody else.
//!
//! Time is paused where a limit is awaited: it jumps to the limit when nothing else can happen.

use std::{os::unix::net::UnixStream as BlockingStream, sync::Arc, time::Duration};

use switcher_common::service::Color;
use switcher_userspace::api::{
    ANSWER_DEADLINE, Control,
    client::Client,
    requests::FlipRequest,
    server::{self, ApiSocket, HEAD_DEADLINE, MAX_CONNECTIONS},
    types::{DrainStatus, ErrorCode},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{Instant, timeout},
};

use crate::{
    fake::{Fake, Served, running, unused_socket},
    http::request,
};

/// Serves a fake in the test's own runtime, for as long as that runs.
pub(crate) async fn serve(directory: &TempDir) -> (Arc<Fake>, Client) {
    let path = unused_socket(directory.path());
    let socket = ApiSocket::bind(&path).await.unwrap();
    let fake = Arc::new(Fake::default());
    tokio::spawn(server::serve(
        socket,
        Arc::clone(&fake),
        std::future::pending(),
    ));
    (fake, Client::new(&path))
}

/// Sends `text` and nothing else; what the server says until it closes, and after how long.
async fn send(client: &Client, text: &str) -> (String, Duration) {
    let mut stream = UnixStream::connect(client.socket()).await.unwrap();
    let began = Instant::now();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    let _ = stream.read_to_end(&mut answer).await;
    (String::from_utf8(answer).unwrap(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_closed_after_the_deadline() {
    let directory = TempDir::new().unwrap();
    let (_, client) = serve(&directory).await;
    for text in ["", "GET /v1/ver", "GET /v1/version HTTP/1.1\r\nhost: x\r\n"] {
        let (answer, took) = send(&client, text).await;
        assert!(!answer.contains("200 OK"), "{text:?}: {answer}");
        assert!(
            took >= HEAD_DEADLINE && took < HEAD_DEADLINE * 2,
            "{text:?}: {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_its_answer() {
    let directory = TempDir::new().unwrap();
    let (_, client) = serve(&directory).await;
    let (answer, took) = send(&client, "GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.contains("200 OK"), "{answer}");
    assert!(
        took >= HEAD_DEADLINE && took < HEAD_DEADLINE * 2,
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn half_a_body_is_refused_after_the_deadline() {
    let directory = TempDir::new().unwrap();
    let (fake, client) = serve(&directory).await;
    let text = "POST /v1/flip HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{\"services\"";
    let (answer, took) = send(&client, text).await;
    assert!(answer.contains("did not arrive within"), "{answer}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(fake.active(), Color::Blue);
}

#[tokio::test(start_paused = true)]
async fn a_head_without_end_is_refused() {
    let directory = TempDir::new().unwrap();
    let (_, client) = serve(&directory).await;
    let mut stream = UnixStream::connect(client.socket()).await.unwrap();
    let flood = vec![b'a'; 1024 * 1024];
    let head = stream.write_all(b"GET / HTTP/1.1\r\nx: ").await;
    assert!(head.is_ok());
    assert!(
        stream.write_all(&flood).await.is_err(),
        "the server closes before it has read it all"
    );
    assert!(client.version().await.is_ok());
}

#[tokio::test]
async fn a_huge_body_is_refused_before_it_is_read() {
    let directory = TempDir::new().unwrap();
    let (_, client) = serve(&directory).await;
    let mut stream = UnixStream::connect(client.socket()).await.unwrap();
    let head = b"POST /v1/flip HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let flood = vec![b' '; 16 * 1024 * 1024];
    assert!(stream.write_all(&flood).await.is_err());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("longer than 65536 bytes"), "{answer}");
    assert!(client.version().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_never_reads_is_dropped_and_disturbs_nobody() {
    let directory = TempDir::new().unwrap();
    let (fake, client) = serve(&directory).await;
    // Long lines, so that the buffers in between are soon full.
    let service = "w".repeat(100_000);
    let long = DrainStatus {
        service,
        ..running(Some(1))
    };
    fake.set_drain(long);
    let mut stream = UnixStream::connect(client.socket()).await.unwrap();
    let head = b"GET /v1/status/watch HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.readable().await.unwrap();
    assert_eq!(fake.service.receiver_count(), 1);
    assert!(client.version().await.is_ok());
    // Ready when the server has given up the last watcher.
    let given_up = timeout(Duration::from_mins(2), fake.service.closed()).await;
    assert!(given_up.is_ok());
    assert!(client.version().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_status_is_told_again() {
    let directory = TempDir::new().unwrap();
    let (fake, client) = serve(&directory).await;
    fake.set_drain(running(Some(1)));
    let web = ["web".to_owned()];
    let mut watch = client.watch_status(Some(&web)).await.unwrap();
    for _ in 0..10 {
        let status = watch.next().await.unwrap();
        assert_eq!(status.services[0].drain, Some(running(Some(1))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flip_that_takes_too_long_is_answered_and_goes_on() {
    let directory = TempDir::new().unwrap();
    let (fake, client) = serve(&directory).await;
    let request = FlipRequest {
        services: vec!["web".to_owned()],
        to: Some(Color::Green),
        reason: Some("slow".to_owned()),
        ..FlipRequest::default()
    };
    let began = Instant::now();
    let failure = client.change(&request).await.unwrap_err();
    assert_eq!(
        (failure.error.code, failure.changed),
        (ErrorCode::Timeout, None)
    );
    assert!(began.elapsed() >= ANSWER_DEADLINE);
    let mut changes = fake.watch_status(None).unwrap();
    fake.go_on.notify_one();
    changes.changed().await.unwrap();
    assert_eq!(fake.active(), Color::Green);
}

#[test]
fn one_connection_too_many_is_refused_with_an_answer() {
    let served = Served::start();
    let connect = || BlockingStream::connect(served.socket()).unwrap();
    let crowd: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
    let (status, answer) = request(&served.socket(), "GET", "/v1/version", b"");
    assert_eq!((status, &answer["error"]["code"]), (422, &"refused".into()));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = Client::new(&served.socket());
    let refused = runtime.block_on(client.version()).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Refused, "{refused}");
    drop(crowd);
    // The slots are free again when the server has seen the crowd leave.
    while runtime.block_on(client.version()).is_err() {
        std::thread::yield_now();
    }
}
