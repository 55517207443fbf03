//! The history and the stream of events.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    num::NonZeroUsize,
    os::unix::net::UnixStream,
    sync::Arc,
};

use switcher_common::service::Color;
use switcher_userspace::api::{
    client::Client,
    history::{HistoryEntry, HistoryQuery, What, Who},
};

use crate::{fake::Served, http::request};

pub(crate) fn entry(number: u64) -> HistoryEntry {
    HistoryEntry {
        number,
        at: "2026-01-01T00:00:00Z".to_owned(),
        what: What::Flip,
        services: vec!["web".to_owned()],
        by: Some(Who {
            uid: 1_000,
            gid: 100,
            pid: None,
        }),
        reason: Some("release 7".to_owned()),
        from_generation: number - 1,
        generation: number,
        active: BTreeMap::from([("web".to_owned(), Color::Green)]),
        removed: Vec::new(),
        health: None,
        evidence: None,
        alarm: None,
        drain: None,
        error: None,
    }
}

/// Lets entries happen.
fn happen(served: &Served, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let entry = entry(number);
        served.fake.history.lock().unwrap().push(entry.clone());
        // An error: nobody listens.
        let _ = served.fake.events.send(Arc::new(entry));
    }
}

/// A stream of events, read line by line. HTTP/1.0, so that its body is not in chunks.
struct Events(BufReader<UnixStream>);

impl Events {
    fn open(served: &Served, last: Option<u64>) -> Self {
        let mut stream = UnixStream::connect(served.socket()).unwrap();
        let last = last.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        write!(stream, "GET /v1/events HTTP/1.0\r\nhost: x\r\n{last}\r\n").unwrap();
        let mut events = Self(BufReader::new(stream));
        let head = events.block();
        assert!(
            head[0].contains("200") && head.iter().any(|it| it.ends_with("text/event-stream")),
            "{head:?}"
        );
        assert_eq!(events.block(), [": listening"]);
        events
    }

    /// Lines up to an empty one.
    fn block(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(
                self.0.read_line(&mut line).unwrap() > 0,
                "it ended after {lines:?}"
            );
            match line.trim_end() {
                "" => return lines,
                line => lines.push(line.to_owned()),
            }
        }
    }

    /// The number of the next event.
    fn next(&mut self) -> u64 {
        let lines = self.block();
        let field = |name: &str| lines.iter().find_map(|it| it.strip_prefix(name)).unwrap();
        assert_eq!(field("event: "), "flip");
        let entry: HistoryEntry = serde_json::from_str(field("data: ")).unwrap();
        assert_eq!(field("id: "), entry.number.to_string());
        entry.number
    }
}

#[tokio::test]
async fn the_history_is_told_newest_first() {
    let served = Served::start();
    happen(&served, 1..=3);
    let client = Client::new(&served.socket());
    let question = HistoryQuery {
        limit: NonZeroUsize::new(2),
        ..HistoryQuery::default()
    };
    let reply = client.history(&question).await.unwrap();
    assert_eq!(reply.entries, [entry(3), entry(2)]);
}

#[test]
fn an_unknown_field_of_the_question_is_refused() {
    let served = Served::start();
    let (status, body) = request(
        &served.socket(),
        "GET",
        "/v1/history?service=web&newest=1",
        b"",
    );
    assert_eq!((status, &body["error"]["code"]), (400, &"usage".into()));
}

#[test]
fn events_come_as_they_happen_with_their_numbers() {
    let served = Served::start();
    happen(&served, 1..=2);
    let mut events = Events::open(&served, None);
    happen(&served, 3..=4);
    assert_eq!(
        [events.next(), events.next()],
        [3, 4],
        "not what was before"
    );
}

#[test]
fn a_client_that_comes_back_misses_nothing() {
    let served = Served::start();
    happen(&served, 1..=5);
    let mut events = Events::open(&served, Some(2));
    assert_eq!([events.next(), events.next(), events.next()], [3, 4, 5]);
    happen(&served, 6..=6);
    assert_eq!(events.next(), 6);
}

#[test]
fn a_client_that_is_too_slow_gets_what_it_missed_from_the_history() {
    let served = Served::start();
    let mut events = Events::open(&served, Some(0));
    // Far more than the channel of the fake, and than the socket, holds.
    happen(&served, 1..=5_000);
    for number in 1..=5_000 {
        assert_eq!(events.next(), number);
    }
}

#[test]
fn a_last_event_id_that_is_no_number_is_refused() {
    let served = Served::start();
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    write!(
        stream,
        "GET /v1/events HTTP/1.0\r\nhost: x\r\nlast-event-id: x\r\n\r\n"
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.contains("400"), "{line}");
}
