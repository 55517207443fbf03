//! The report in words, for somebody who sees the switcher for the first time.

use std::fmt::Write as _;

use crate::{load::SPACING, plan::Service, report::Report};

/// The summary.
pub(crate) fn text(report: &Report) -> String {
    let parts = [done(report), found(report), flips(report), verdict(report)];
    parts.join("\n")
}

fn done(report: &Report) -> String {
    format!(
        "\nWhat was done, in {:.0} s ({} CPUs, Linux {})\n\
         \x20 Two clients sent traffic over IPv4 and IPv6 through a load-balancer node to three services.\n\
         \x20 Each service runs twice: blue and green. Only one color is active at a time.\n\
         \x20   web       {} HTTP requests over {} connections\n\
         \x20   stream    {} messages over {} long-lived TCP connections\n\
         \x20   datagram  {} numbered UDP datagrams in {} flows\n\
         \x20 Meanwhile all three were switched to the other color {} times, each time by one command:\n\
         \x20   switcher flip web stream datagram --to COLOR\n",
        report.seconds,
        report.machine.cpus,
        report.machine.kernel,
        report.requests,
        report.connections,
        report.messages,
        report.long_lived,
        report.udp_sent,
        report.udp_flows,
        report.flips,
    )
}

fn found(report: &Report) -> String {
    let mut text = String::from("What came of it\n");
    let mut line = |bad: u64, what: String| {
        let mark = if bad == 0 { "ok  " } else { "FAIL" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {mark}  {what}");
    };
    let (late, mixed) = (report.late_old as u64, report.mixed as u64);
    line(
        report.failed,
        format!("{} of {} requests failed", report.failed, report.requests),
    );
    line(
        report.broken,
        if report.broken == 0 {
            "all long-lived connections are still on the backend on which they began".to_owned()
        } else {
            format!(
                "{} connections or flows broke or changed their backend",
                report.broken
            )
        },
    );
    line(
        report.udp_lost,
        format!(
            "{} of {} datagrams were lost",
            report.udp_lost, report.udp_sent
        ),
    );
    line(
        report.tcp_retrans_segs,
        format!(
            "{} TCP segments had to be sent again",
            report.tcp_retrans_segs
        ),
    );
    line(
        late,
        format!("{late} connections began after a flip had returned, yet got the old color"),
    );
    line(
        mixed,
        format!(
            "{mixed} times a client that had seen the new color got the old one, over all services"
        ),
    );
    text
}

fn flips(report: &Report) -> String {
    let mut text = String::from(
        "Each flip\n\
         \x20                 first new    command   old color without\n\
         \x20                 connection   returned  web flows  datagram flows\n",
    );
    for (number, flip) in (1..).zip(&report.per_flip) {
        let first = flip
            .first_new_ms
            .map_or_else(|| "none".to_owned(), |ms| format!("{ms:.1} ms"));
        let drained = |service| {
            let ms = flip.drain_ms.get(&service);
            ms.map_or_else(|| "not yet".to_owned(), |ms| format!("{ms} ms"))
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "  {number:3} to {:7} {first:>10} {:>9.1} ms {:>10} {:>15}",
            flip.to,
            flip.command_ms,
            drained(Service::Web),
            drained(Service::Datagram),
        );
    }
    text.push_str(
        "  All times count from the start of the command. `First new connection`: the first one begun\n\
         \x20 after it and answered by the new color. Old connections end by themselves; a UDP flow counts\n\
         \x20 as ended after a second of silence. The connections of stream never end: after 2 s the drain\n\
         \x20 leaves them alone, on the color on which they began.\n",
    );
    let spacing = SPACING.as_secs_f64() * 1e3;
    if let Some(ms) = report.new_connection_ms_median {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "  A new connection and its answer take {ms:.1} ms by themselves (median of all), and one begins\n  \
             every {spacing:.1} ms: `first new connection` contains both."
        );
    }
    text
}

fn verdict(report: &Report) -> String {
    if report.ok {
        return "Nothing failed, nothing broke, nothing was lost.\n".to_owned();
    }
    let mut text = String::new();
    if report.interrupted {
        text.push_str("Interrupted: the numbers are partial. Everything is removed.\n");
    }
    let problems = report.problems.iter().chain(&report.errors);
    for problem in problems {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  - {problem}");
    }
    if !report.interrupted {
        text.insert_str(0, "This went wrong:\n");
    }
    text
}
