//! Hooks with real commands, for entries that the test makes.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use tokio::time::timeout;

use super::{
    run::{LastLine, Outcome, carry_out},
    *,
};
use crate::{api::history::HealthEntry, config::HookConfig, duration::Span};

/// Longer than a test takes.
const LONG: Span = Span::from_secs(600);

fn entry(number: u64, is_healthy: bool) -> HistoryEntry {
    HistoryEntry {
        number,
        at: "2026-01-01T00:00:00Z".to_owned(),
        what: What::Health,
        services: vec!["web".to_owned()],
        by: None,
        reason: Some("it was refused; $HOME `id`".to_owned()),
        from_generation: 0,
        generation: 0,
        active: BTreeMap::new(),
        drain: None,
        removed: Vec::new(),
        evidence: None,
        alarm: None,
        health: Some(HealthEntry {
            backend: "[2001:db8::1]:80".parse().expect("an address"),
            is_healthy,
            refused_to_ejected_ms: None,
        }),
        error: None,
    }
}

/// A hook that runs `script` with `file` as its argument.
fn hook(script: &str, file: &Path, timeout: Span) -> HookConfig {
    let file = file.display().to_string();
    HookConfig {
        on: vec![HookEvent::Ejection],
        command: ["/bin/sh", "-c", script, "hook", &file]
            .map(ToOwned::to_owned)
            .to_vec(),
        timeout,
    }
}

fn job(hook: HookConfig) -> Job {
    Job {
        hook,
        event: HookEvent::Ejection,
        entry: Arc::new(entry(7, false)),
        socket: "/run/switcher.sock".into(),
    }
}

/// Carries out a hook; how it went, its last line, and what it wrote.
async fn carried_out(script: &str, timeout: Span) -> (io::Result<Outcome>, String, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("written");
    let mut last_line = LastLine::default();
    let outcome = carry_out(&job(hook(script, &file, timeout)), &mut last_line).await;
    let written = fs::read_to_string(&file).unwrap_or_default();
    (outcome, last_line.text(), written)
}

/// Waits until the process whose id a script has written is gone.
async fn is_gone(pid: &str) {
    let stat = format!("/proc/{}/stat", pid.trim());
    // Nobody may wait for it where the test runs.
    let is_alive = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    while is_alive() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hook_gets_its_entry_and_nothing_of_the_agents_environment_and_descriptors() {
    let inherited = fs::File::open("/dev/null").expect("a descriptor");
    let flags = rustix::io::FdFlags::empty();
    rustix::io::fcntl_setfd(inherited.as_fd(), flags).expect("as if inherited");
    keep_descriptors().expect("kept");
    let (outcome, _, written) = carried_out(
        "{ cat; echo; /usr/bin/env; ls /proc/self/fd; } > \"$1\"",
        LONG,
    )
    .await;
    assert!(matches!(outcome, Ok(Outcome::Ended(status)) if status.success()));
    let mut lines = written.lines();
    let object: HistoryEntry =
        serde_json::from_str(lines.next().expect("a line")).expect("an object");
    assert_eq!(object, entry(7, false));
    let (variables, descriptors): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains('='));
    let of_shell = ["PWD", "SHLVL", "_", "OLDPWD"];
    let mut variables: Vec<_> = variables
        .into_iter()
        .filter(|line| {
            !of_shell
                .iter()
                .any(|it| line.starts_with(&format!("{it}=")))
        })
        .collect();
    variables.sort_unstable();
    assert_eq!(
        variables,
        [
            "SWITCHER_BACKEND=[2001:db8::1]:80",
            "SWITCHER_ENTRY=7",
            "SWITCHER_EVENT=ejection",
            "SWITCHER_REASON=it was refused; $HOME `id`",
            "SWITCHER_SERVICES=web",
            "SWITCHER_SOCKET=/run/switcher.sock",
            "SWITCHER_WHAT=health",
        ]
    );
    // 3 is the directory that is listed.
    assert_eq!(descriptors, ["0", "1", "2", "3"]);
    assert!(inherited.as_raw_fd() > 2);
}

#[tokio::test]
async fn a_hook_that_fails_says_its_last_line() {
    let (outcome, last_line, _) =
        carried_out("echo first >&2; echo 'no mail: full' >&2; exit 7", LONG).await;
    assert!(matches!(outcome, Ok(Outcome::Ended(status)) if status.code() == Some(7)));
    assert_eq!(last_line, "no mail: full");
    let (outcome, last_line, _) = carried_out("yes | head -c 100000 | tr -d '\\n' >&2", LONG).await;
    assert!(outcome.is_ok());
    assert_eq!(last_line.len(), 512, "bounded");
    let missing = HookConfig {
        command: vec!["/nonexistent/hook".to_owned()],
        ..hook("", Path::new(""), LONG)
    };
    let outcome = carry_out(&job(missing), &mut LastLine::default()).await;
    assert!(outcome.is_err());
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_killed_with_what_it_has_started() {
    let limit = Span::from_millis(300);
    let script = "sleep 600 & echo $! > \"$1\"; echo waiting >&2; wait";
    // A bound for a hook that has none.
    let bound = Duration::from_mins(1);
    let (outcome, last_line, written) = timeout(bound, carried_out(script, limit))
        .await
        .expect("it is killed");
    assert_eq!(outcome.expect("it was started"), Outcome::Killed);
    is_gone(&written).await;
    assert!(["waiting", ""].contains(&last_line.as_str()), "{last_line}");
}

#[tokio::test]
async fn what_a_hook_has_left_behind_ends_with_it() {
    let (outcome, _, written) = carried_out("sleep 600 & echo $! > \"$1\"", LONG).await;
    assert!(matches!(outcome, Ok(Outcome::Ended(status)) if status.success()));
    is_gone(&written).await;
}

#[tokio::test]
async fn many_events_at_once_are_bounded_and_what_is_dropped_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("written");
    let mut jobs = Jobs::default();
    for _ in 0..100 {
        jobs.add(job(hook("echo x >> \"$1\"", &file, LONG)));
        assert!(jobs.running.len() <= MAX_RUNNING && jobs.waiting.len() <= MAX_WAITING);
    }
    assert_eq!(jobs.dropped, 100 - 4 - 64);
    while !jobs.running.is_empty() {
        jobs.one_ends().await;
        assert!(jobs.running.len() <= MAX_RUNNING);
    }
    let written = fs::read_to_string(&file).expect("written");
    assert_eq!(written.lines().count(), 4 + 64);
}

#[tokio::test]
async fn where_too_many_wait_a_failover_is_not_the_one_that_is_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("written");
    let mut jobs = Jobs::default();
    let with = |event| Job {
        event,
        ..job(hook("echo $SWITCHER_EVENT >> \"$1\"", &file, LONG))
    };
    for _ in 0..100 {
        jobs.add(with(HookEvent::Ejection));
    }
    jobs.add(with(HookEvent::Failover));
    jobs.add(with(HookEvent::Alarm));
    assert_eq!(jobs.dropped, 102 - 4 - 64);
    while !jobs.running.is_empty() {
        jobs.one_ends().await;
    }
    let written = fs::read_to_string(&file).expect("written");
    let told = |event: &str| written.lines().filter(|line| *line == event).count();
    assert_eq!((told("failover"), told("alarm")), (1, 1));
    assert_eq!(written.lines().count(), 4 + 64);
}

// The clock jumps whenever nothing but commands is waited for.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_agent_waits_a_bounded_time_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("written");
    let mut jobs = Jobs::default();
    for _ in 0..9 {
        jobs.add(job(hook("echo $$ >> \"$1\"; sleep 600", &file, LONG)));
    }
    while fs::read_to_string(&file)
        .unwrap_or_default()
        .lines()
        .count()
        < MAX_RUNNING
    {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    jobs.end().await;
    assert!(began.elapsed() < END_PATIENCE + Duration::from_secs(1));
    let written = fs::read_to_string(&file).expect("written");
    assert_eq!(written.lines().count(), MAX_RUNNING);
    for pid in written.lines() {
        is_gone(pid).await;
    }
}

#[tokio::test]
async fn hooks_run_once_for_the_entries_that_follow_and_only_for_their_events() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("written");
    let ejection = hook("echo $SWITCHER_ENTRY >> \"$1\"", &file, LONG);
    let mut config =
        Config::parse(Path::new("test"), "[agent]\ninterfaces = ['a']\n").expect("a configuration");
    config.agent.hooks = vec![ejection];
    let config = Arc::new(config);
    // Entry 1 was there before this agent.
    let history = Arc::new(History::new(vec![entry(1, false)]));
    let hooks = Hooks::new(history.clone(), move || config.clone());
    history.publish(entry(2, false));
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(hooks.run(stopped));
    history.publish(entry(3, true));
    // More than a reader of events may be behind.
    for number in 4..=300 {
        history.publish(entry(number, true));
    }
    history.publish(entry(301, false));
    stop.send(()).expect("it runs");
    running.await.expect("it ends");
    let mut written: Vec<u64> = fs::read_to_string(&file)
        .expect("written")
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    written.sort_unstable();
    assert_eq!(written, [2, 301]);
}

#[test]
fn each_kind_of_entry_is_the_event_that_the_configuration_calls_it() {
    for (what, expected) in [
        (What::Failover, Some(HookEvent::Failover)),
        (What::Failback, Some(HookEvent::Failover)),
        (What::Revert, Some(HookEvent::Failover)),
        (What::AlarmRaised, Some(HookEvent::Alarm)),
        (What::AlarmCleared, Some(HookEvent::Alarm)),
        (What::DrainEnded, Some(HookEvent::DrainEnd)),
        (What::Health, Some(HookEvent::Ejection)),
        (What::Flip, None),
        (What::Drill, None),
    ] {
        let entry = HistoryEntry {
            what,
            ..entry(1, false)
        };
        assert_eq!(event_of(&entry), expected, "{what:?}");
    }
    assert_eq!(event_of(&entry(1, true)), Some(HookEvent::Recovery));
}
