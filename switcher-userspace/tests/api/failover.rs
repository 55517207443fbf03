//! `switcher failover status`, and failover in `switcher status`.

use serde_json::{Value, json};
use switcher_userspace::api::failover::FailoverStatus;

use crate::{command::run, fake::Served};

fn outlook(action: &str, why: Option<&str>, until_at: Option<&str>) -> Value {
    json!({ "action": action, "why": why, "until_at": until_at })
}

fn failover(rest: &Value) -> FailoverStatus {
    let mut status = json!({
        "enabled": true,
        "switched_off_by": null,
        "now": outlook("stay", Some("enough"), None),
        "if_active_failed": outlook("fail_over", None, None),
        "hold_down_until_at": null,
        "flips_left": 4,
        "alarm": null,
        "drill": null,
    });
    for (key, value) in rest.as_object().expect("an object") {
        status[key] = value.clone();
    }
    serde_json::from_value(status).expect("a status of failover")
}

fn served(failover: Option<FailoverStatus>) -> Served {
    let served = Served::start();
    served
        .fake
        .service
        .send_modify(|web| web.failover = failover);
    served
}

#[test]
fn people_see_what_would_happen_and_what_forbids_it() {
    let calm = served(Some(failover(&json!({}))));
    let ran = run(&calm, "failover status web");
    assert_eq!(
        (ran.code, ran.out.trim_end()),
        (
            0,
            "web: blue is active, automated failover is on\n  \
             now: blue stays active: the active color has enough eligible backends\n  \
             if blue failed now: green would become active\n  \
             automated changes left within this hour: 4"
        )
    );
    let until = "2026-01-01T00:00:30Z";
    let held = served(Some(failover(&json!({
        "now": outlook("stay", Some("hold_down"), Some(until)),
        "hold_down_until_at": until,
        "alarm": { "kind": "hold_down", "message": "it waits", "since_at": "2026-01-01T00:00:00Z" },
        "drill": { "back_to": "green", "generation": 3, "until_at": until },
    }))));
    let ran = run(&held, "failover status web");
    let first = ran.out.lines().next().unwrap_or_default();
    assert_eq!(first, "ALARM: web: it waits, since 2026-01-01T00:00:00Z");
    for part in [
        "is too recent (hold-down), until 2026-01-01T00:00:30Z",
        "hold-down until 2026-01-01T00:00:30Z",
        "a drill goes on: green becomes active again",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let all = run(&held, "status").out;
    let (alarm, table) = (all.find("ALARM: web: it waits"), all.find("SERVICE"));
    assert!(alarm.is_some() && alarm < table, "{all}");
    assert!(all.contains("warning: web: a drill goes on"), "{all}");
}

#[test]
fn scripts_get_one_object_also_where_there_is_no_failover() {
    let off = failover(&json!({ "enabled": false, "switched_off_by": "operator" }));
    let expected = serde_json::to_value(&off).expect("JSON");
    let ran = run(&served(Some(off)), "failover status web --json");
    let object = ran.object();
    assert_eq!(
        (&object["service"], &object["active"], &object["failover"]),
        (&json!("web"), &json!("blue"), &expected)
    );
    let none = served(None);
    let ran = run(&none, "failover status web --json");
    assert_eq!((ran.code, &ran.object()["failover"]), (0, &Value::Null));
    let ran = run(&none, "failover status web");
    assert!(ran.out.contains("no [service.failover]"), "{}", ran.out);
    assert_eq!(run(&none, "failover status no").code, 7);
    assert_eq!(run(&none, "failover enable").code, 2);
    assert_eq!(run(&none, "failover drill web --timeout 2h").code, 2);
}
