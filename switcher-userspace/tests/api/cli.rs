//! The command line against a served fake: output, exit codes, confirmation.

use std::io;

use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_userspace::cli::{self, Console};
use tempfile::TempDir;

use crate::{
    command::{LOCAL, local, run, run_at},
    fake::{Served, unused_socket},
};

#[test]
fn exit_codes_follow_from_what_happened() {
    let served = Served::start();
    for (line, code) in [
        ("status", 0),
        ("--help", 0),
        ("flip --help", 0),
        ("--version", 0),
        ("drain web", 0),
        ("flip web --to green", 0),
        ("flip web --to green", 0),
        ("flip web --to green --expect-active blue", 4),
        ("flip nope --to green", 7),
        ("drain nope", 7),
        ("explain tcp 192.0.2.1:40000 198.51.100.1:80", 0),
        ("explain tcp 192.0.2.1:40000", 2),
        ("trace --service nope", 7),
        ("trace --client nobody", 2),
        ("trace --client ::ffff:192.0.2.1", 2),
        ("trace --count 0", 2),
        ("explain icmp 192.0.2.1:40000 198.51.100.1:80", 2),
        ("explain tcp 192.0.2.1 198.51.100.1:80", 2),
        ("explain tcp 192.0.2.1:40000 [2001:db8::2]:80", 2),
        ("history --limit 0", 2),
        ("preview nope", 7),
        ("preview web", 3),
        ("preview", 2),
        ("flows nope", 7),
        ("flows", 2),
        ("flows web --color red", 2),
        ("flows web --limit 0", 2),
        ("drain nope --wait", 7),
        ("flip web web --to green", 2),
        ("flip web", 2),
        ("flip --to green", 2),
        ("flip web --to red", 2),
        ("flip web --to green --drain-timeout 30", 2),
        ("flip web --to green --dry-run --wait", 2),
        ("drain web --timeout 1s", 2),
        ("drain web --wait --timeout 10ms", 5),
        ("frobnicate", 2),
        ("", 2),
        ("agent", 2),
    ] {
        for json in ["", " --json"] {
            let ran = run(&served, &format!("{line}{json}"));
            assert_eq!(ran.code, code, "{line}{json}: {} {}", ran.out, ran.err);
            if json.is_empty() {
                assert_eq!(
                    ran.err.contains("next step:") || ran.err.contains("--help"),
                    code != 0
                );
            } else {
                let error = &ran.object()["error"];
                assert_eq!(error.is_object(), code != 0, "{line}: {}", ran.out);
            }
        }
    }
}

#[test]
fn a_failed_changing_verb_says_what_stands() {
    let served = Served::start();
    for line in [
        "flip nope --to green --json",
        "flip web --to green --expect-active green --json",
        "flip web --json",
        "flip --json",
        "detach --frobnicate --json",
    ] {
        let object = run(&served, line).object();
        assert_eq!(object["changed"], json!(false), "{line}");
        assert!(object["active"].is_object(), "{line}");
        assert!(object.get("generation").is_some(), "{line}");
        for field in ["code", "message", "next_step"] {
            assert!(object["error"][field].is_string(), "{line}: {object}");
        }
    }
}

#[test]
fn without_an_agent_verbs_end_with_6_and_the_version_is_told_all_the_same() {
    let directory = TempDir::new().unwrap();
    let socket = unused_socket(directory.path());
    for line in [
        "status",
        "flip web --to green",
        "drain web",
        "drain web --wait",
        "wait web --until drained",
        "status web",
        "flows web",
        "preview web",
        "status --watch",
        "explain tcp 192.0.2.1:1 198.51.100.1:80",
        "trace",
    ] {
        let ran = run_at(&socket, line, None);
        assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{line}");
        assert!(ran.err.contains("switcher agent --config"), "{}", ran.err);
        let ran = run_at(&socket, &format!("{line} --json"), None);
        assert_eq!(
            ran.object()["error"]["code"],
            json!("unreachable"),
            "{line}"
        );
    }
    let ran = run_at(&socket, "--version", None);
    assert_eq!(ran.code, 0);
    assert!(ran.out.ends_with("agent: not running\n"), "{}", ran.out);
    assert_eq!(
        run_at(&socket, "--version --json", None).object()["agent"],
        Value::Null
    );
}

#[test]
fn the_version_names_both() {
    let served = Served::start();
    let ran = run(&served, "--version");
    assert!(ran.out.contains(env!("CARGO_PKG_VERSION")) && ran.out.contains("agent: 9.8.7"));
    assert_eq!(
        run(&served, "--version --json").object()["agent"]["agent"],
        json!("9.8.7")
    );
}

#[test]
fn the_status_shows_services_and_warns() {
    let served = Served::start();
    let ran = run(&served, "status");
    for part in [
        "generation 1",
        "web      blue    green",
        "17",
        "12 packets dropped: ttl_over",
        "generic mode",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert_eq!(
        run(&served, "status --json").object()["services"][0]["in_flight"]["blue"],
        json!(17)
    );
}

#[test]
fn a_flip_says_what_it_did() {
    let served = Served::start();
    let ran = run(
        &served,
        "flip web --to green --reason release --drain-timeout 1s",
    );
    assert_eq!(
        ran.out,
        "flipped\nweb: green is active\ngeneration 2, visible after 0.4 ms, on every CPU after 5.1 ms\n"
    );
    let flips = served.fake.flips.lock().unwrap();
    assert_eq!(flips[0].0.reason.as_deref(), Some("release"));
    assert_eq!(flips[0].0.drain_timeout_ms, Some(1_000));
}

#[test]
fn a_flip_without_a_color_asks_at_a_terminal_and_nowhere_else() {
    let served = Served::start();
    assert_eq!(run(&served, "flip web").code, 2);
    for typed in ["", "\n", "n\n", "yeah\n"] {
        let ran = run_at(&served.socket(), "flip web", Some(typed));
        assert_eq!(
            (ran.code, served.fake.active()),
            (3, Color::Blue),
            "{typed:?}"
        );
        assert!(ran.err.contains("web: blue → green"), "{}", ran.err);
    }
    let ran = run_at(&served.socket(), "flip web", Some("y\n"));
    assert_eq!(
        (ran.code, served.fake.active()),
        (0, Color::Green),
        "{}",
        ran.err
    );
    let flips = served.fake.flips.lock().unwrap();
    // What was shown is the condition: a flip in between makes this one fail.
    assert_eq!(flips[0].0.expect_active, Some(Color::Blue));
}

#[test]
fn local_verbs_keep_their_errors_class() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("bad.toml");
    std::fs::write(&file, "nonsense = 1").unwrap();
    let ran = local(&format!("agent --json --config {}", file.display()));
    assert_eq!(
        (ran.code, &ran.object()["error"]["code"]),
        (2, &json!("usage"))
    );
    let ran = local("agent --config /nonexistent/switcher.toml");
    assert_eq!(ran.code, 1);
    let ran = local("detach --json");
    assert_eq!((ran.code, &ran.object()["changed"]), (3, &json!(false)));
    let ran = local("detach");
    assert_eq!(
        ran.err,
        "error: cannot detach: 17 flows are in flight\nnext step: use --force\n"
    );
    let ran = local("detach --force --json");
    assert_eq!((ran.code, &ran.object()["changed"]), (0, &json!(true)));
    assert_eq!(
        local("agent --socket x").code,
        2,
        "the configuration names the agent's socket"
    );
    assert_eq!(local("detach --config a --pin-dir b").code, 2);
}

/// A standard output whose reader has left, or whose disk is full.
struct Broken(io::ErrorKind);

impl io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_answer_that_nobody_reads_is_no_failure_but_one_that_is_lost_is() {
    let served = Served::start();
    for (kind, code) in [
        (io::ErrorKind::BrokenPipe, 0),
        (io::ErrorKind::StorageFull, 1),
    ] {
        let (mut out, mut err) = (Broken(kind), Vec::new());
        let mut input = io::empty();
        let mut console = Console::new(&mut input, &mut out, &mut err, false);
        let words = [
            "switcher".into(),
            "--socket".into(),
            served.socket().into(),
            "status".into(),
        ];
        assert_eq!(cli::run(words, LOCAL, &mut console), code, "{kind}");
    }
}
