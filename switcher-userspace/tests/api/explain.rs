//! `explain`: the question on its way, and the answer as people and scripts get it.

use serde_json::json;
use switcher_common::service::{Color, Protocol};
use switcher_userspace::api::{
    client::Client,
    explain::{
        ExplainQuestion, ExplainedFlow, ExplainedListener, ExplainedSelection, ExplainedWay,
        Explanation, Outcome, TriedBackend, Why,
    },
    types::ErrorCode,
};

use crate::{command::run, fake::Served, http::request};

/// Pinned in mid-stream; a new SYN goes to the second backend of its ring.
pub(crate) fn explanation(question: &ExplainQuestion) -> Explanation {
    let backends = if question.vip.is_ipv4() {
        ["10.0.0.1:8080", "10.0.0.2:8080"]
    } else {
        ["[fd00::1]:8080", "[fd00::2]:8080"]
    };
    let [first, second] = backends.map(|text| text.parse().unwrap());
    let way = |why, color, to, selection| ExplainedWay {
        outcome: Outcome::Forward,
        why: Some(why),
        reason: None,
        color: Some(color),
        from: Some(question.client),
        to: Some(to),
        selection,
    };
    let tried = |backend, free, ejected| TriedBackend {
        backend,
        free,
        ejected,
    };
    let selection = ExplainedSelection {
        hash: "00000000deadbeef".to_owned(),
        slot: 7,
        slots: 101,
        tried: vec![
            tried(first, false, false),
            tried(first, false, true),
            tried(second, true, false),
        ],
    };
    Explanation {
        protocol: question.protocol,
        client: question.client,
        vip: question.vip,
        listener: Some(ExplainedListener {
            service: Some("web".to_owned()),
            name: Some("http".to_owned()),
            preview: false,
            active: Color::Green,
            base: Color::Blue,
            generation: 4,
        }),
        is_vip: true,
        flow: Some(ExplainedFlow {
            table: "unanswered".to_owned(),
            direction: "forward".to_owned(),
            state: "closing".to_owned(),
            service: Some("web".to_owned()),
            color: Color::Blue,
            backend: first,
            preview: false,
            unpinned: true,
            cut: false,
            both_directions: true,
            age_ms: 61_234,
            silent_ms: 42,
        }),
        begins: way(Why::Active, Color::Green, second, Some(selection)),
        mid_stream: (question.protocol == Protocol::Tcp)
            .then(|| way(Why::Pinned, Color::Blue, first, None)),
    }
}

#[tokio::test]
async fn the_question_arrives_as_it_was_asked() {
    let served = Served::start();
    let client = Client::new(&served.socket());
    for (protocol, from, to) in [
        (Protocol::Tcp, "192.0.2.1:40000", "198.51.100.1:80"),
        (Protocol::Udp, "[2001:db8::1]:40000", "[2001:db8::2]:53"),
    ] {
        let question = ExplainQuestion {
            protocol,
            client: from.parse().unwrap(),
            vip: to.parse().unwrap(),
        };
        assert_eq!(client.explain(&question).await, Ok(explanation(&question)));
    }
    let two_families = ExplainQuestion {
        protocol: Protocol::Tcp,
        client: "192.0.2.1:40000".parse().unwrap(),
        vip: "[2001:db8::2]:80".parse().unwrap(),
    };
    let refused = client.explain(&two_families).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Usage);
}

#[test]
fn bad_questions_are_told_why() {
    let served = Served::start();
    for query in [
        "",
        "?protocol=tcp&client=192.0.2.1:1",
        "?protocol=sctp&client=192.0.2.1:1&vip=198.51.100.1:80",
        "?protocol=tcp&client=192.0.2.1&vip=198.51.100.1:80",
        "?protocol=tcp&client=192.0.2.1:1&vip=198.51.100.1:80&color=blue",
        "?protocol=tcp&client=192.0.2.1:1&vip=%5B2001:db8::2%5D:80",
    ] {
        let (status, body) = request(&served.socket(), "GET", &format!("/v1/explain{query}"), b"");
        assert_eq!(
            (status, &body["error"]["code"]),
            (400, &json!("usage")),
            "{query}: {body}"
        );
    }
}

#[test]
fn the_command_tells_what_was_found() {
    let served = Served::start();
    let ran = run(&served, "explain tcp 192.0.2.1:40000 198.51.100.1:80");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines,
        [
            "tcp 192.0.2.1:40000 > 198.51.100.1:80",
            "listener    http of web, green is active, blue is the base color, generation 4",
            "flow        closing, pinned to blue 10.0.0.1:8080, in the table of unanswered flows, \
             age 61.234 s, silent for 0.042 s, recorded in mid-stream",
            "a new SYN   goes out as 192.0.2.1:40000 > 10.0.0.2:8080: green is active, \
             hash 00000000deadbeef, slot 7 of 101, \
             not 10.0.0.1:8080, which is the client, or whose replies would be another flow's, \
             not 10.0.0.1:8080, which is ejected",
            "mid-stream  goes out as 192.0.2.1:40000 > 10.0.0.1:8080: pinned to blue",
        ]
    );
    let ran = run(&served, "explain udp [2001:db8::1]:40000 [2001:db8::2]:53");
    assert!(
        ran.out
            .starts_with("udp [2001:db8::1]:40000 > [2001:db8::2]:53\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("\na datagram  goes out as"), "{}", ran.out);
    let ran = run(
        &served,
        "explain udp [2001:db8::1]:40000 [2001:db8::2]:53 --json",
    );
    let object = ran.object();
    assert_eq!(object["mid_stream"], json!(null), "{object}");
    assert_eq!(
        (
            &object["begins"]["why"],
            &object["begins"]["outcome"],
            &object["begins"]["to"]
        ),
        (
            &json!("active"),
            &json!("forward"),
            &json!("[fd00::2]:8080")
        )
    );
}
