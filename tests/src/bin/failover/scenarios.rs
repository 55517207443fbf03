//! The scenarios: what fails, and how it must end.

use std::time::Duration;

use anyhow::{Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{lab::FAR_INTERFACE, traffic::Identity};

use crate::{measure::Figures, plan::Plan, scene::Scene, servers::SlowChecks};

/// IP versions: each backend has an endpoint in both.
const FAMILIES: usize = 2;
/// Backends of both colors.
const ALL_BACKENDS: usize = 6;
/// Times that a flapping color fails.
const FLAPS: usize = 6;
/// Automated flips that are allowed to the flapping service.
const FLIPS_PER_HOUR: usize = 2;
/// A scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What fails, in a line.
    pub(crate) what: &'static str,
    /// Lines of `[[service]]`.
    pub(crate) options: fn(&Plan) -> String,
    pub(crate) slow: Option<SlowChecks>,
    /// Makes it fail, and waits for what must come of it.
    pub(crate) act: fn(&mut Scene<'_>) -> Result<()>,
    pub(crate) judge: fn(&mut Figures),
    /// Part of a short run.
    pub(crate) is_quick: bool,
}

/// All of them.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "crash",
        what: "the server process of one of four active backends is killed",
        options: tcp,
        slow: None,
        act: |scene| {
            scene.kill(&[blue(0)])?;
            scene.wait_for_ejections(FAMILIES)
        },
        judge: |figures| {
            expect_ejections(figures, 1);
            expect_no_failed_connects(figures);
        },
        is_quick: true,
    },
    Scenario {
        name: "color_crash",
        what: "the server processes of all active backends are killed at once",
        options: tcp,
        slow: None,
        act: |scene| {
            scene.kill(&scene.all(Color::Blue))?;
            scene.wait_for_entry("failover")
        },
        judge: |figures| {
            expect_flips(figures, 1);
            figures.expect(figures.recovered_ms.is_some(), "it has not recovered");
        },
        is_quick: true,
    },
    Scenario {
        name: "unplugged",
        what: "the link of one of four active backends goes down",
        options: tcp,
        slow: None,
        act: |scene| {
            scene.fails(blue(1));
            scene.servers.host(blue(1))?.set_up(FAR_INTERFACE, false)?;
            scene.wait_for_ejections(FAMILIES)
        },
        judge: |figures| {
            expect_ejections(figures, 1);
            expect_no_failed_connects(figures);
        },
        is_quick: false,
    },
    Scenario {
        name: "one_way_loss",
        what: "packets from one of four active backends are lost, those to it arrive",
        options: tcp,
        slow: None,
        act: |scene| {
            scene.fails(blue(2));
            scene.servers.host(blue(2))?.send_nothing()?;
            scene.wait_for_ejections(FAMILIES)
        },
        judge: |figures| {
            expect_ejections(figures, 1);
            expect_no_failed_connects(figures);
        },
        is_quick: false,
    },
    Scenario {
        name: "accept_no_answer",
        what: "the server process of one of four active backends is stopped: the kernel accepts, nobody answers",
        options: http,
        slow: None,
        act: |scene| {
            scene.fails(blue(3));
            scene.servers.freeze(blue(3))?;
            scene.wait_for_ejections(FAMILIES)
        },
        judge: |figures| {
            expect_ejections(figures, 1);
            expect_no_failed_connects(figures);
        },
        is_quick: false,
    },
    Scenario {
        name: "half_bad",
        what: "the server processes of two of four active backends are killed",
        options: tcp,
        slow: None,
        act: |scene| {
            scene.kill(&[blue(0), blue(2)])?;
            scene.wait_for_ejections(2 * FAMILIES)
        },
        judge: |figures| {
            expect_ejections(figures, 2);
            expect_no_failed_connects(figures);
        },
        is_quick: true,
    },
    Scenario {
        name: "both_bad",
        what: "all server processes of the standby are killed, then those of the active color, which start again two seconds later, before the standby's",
        options: tcp,
        slow: None,
        act: |scene| {
            // The standby first, and known: there is nowhere to go.
            for green in scene.all(Color::Green) {
                scene.servers.kill(green)?;
            }
            scene.wait_for_ejections(2 * FAMILIES)?;
            scene.kill(&scene.all(Color::Blue))?;
            scene.wait_for_entry("alarm_raised")?;
            scene.wait(Duration::from_secs(2))?;
            // Fail open: whoever serves again is asked, whatever the agent knows.
            scene.restart(&scene.all(Color::Blue))?;
            scene.loads.wait_for_answers(10)?;
            // The first color to recover serves, so the standby is not to be it.
            scene.wait_for_entry("alarm_cleared")?;
            scene.restart(&scene.all(Color::Green))?;
            ensure!(scene.active()? == "blue", "blue stays active");
            Ok(())
        },
        judge: |figures| {
            expect_flips(figures, 0);
            figures.expect(
                figures.ejections <= ALL_BACKENDS * FAMILIES,
                format!("{} ejections", figures.ejections),
            );
            figures.expect(figures.alarm_ms.is_some(), "no alarm was raised");
            figures.expect(figures.recovered_ms.is_some(), "it has not recovered");
            // Backends became unhealthy, and nothing was to be decided about it.
            figures.detect_ms = None;
        },
        is_quick: true,
    },
    Scenario {
        name: "flapping",
        what: "all server processes of one color and then the other are killed and started again, six times in all",
        options: |plan| {
            format!(
                "{}[service.failover]\nhold_down = \"2s\"\nflips_per_hour = {FLIPS_PER_HOUR}\n",
                check(plan)
            )
        },
        slow: None,
        act: |scene| {
            for flap in 0..FLAPS {
                let color = Color::ALL[flap % Color::ALL.len()];
                scene.kill(&scene.all(color))?;
                scene.wait(Duration::from_millis(1_500))?;
                scene.restart(&scene.all(color))?;
                scene.wait(Duration::from_millis(1_500))?;
            }
            scene.wait_for_entry("failover")?;
            scene.loads.wait_for_answers(10)
        },
        judge: |figures| {
            figures.expect(
                (1..=FLIPS_PER_HOUR).contains(&figures.flips),
                format!(
                    "{} flips, at most {FLIPS_PER_HOUR} are allowed",
                    figures.flips
                ),
            );
        },
        is_quick: false,
    },
    Scenario {
        name: "agent_killed",
        what: "the agent is killed, then the server process of one of four active backends; the agent comes back three seconds later",
        options: tcp,
        slow: None,
        act: |scene| {
            scene.node.kill_agent()?;
            scene.kill(&[blue(0)])?;
            scene.wait(Duration::from_secs(3))?;
            scene.node.start_agent()?;
            scene.wait_for_ejections(FAMILIES)
        },
        judge: |figures| {
            expect_ejections(figures, 1);
            expect_no_failed_connects(figures);
        },
        is_quick: false,
    },
    Scenario {
        name: "slow_check",
        what: "each third answer of all backends to their checks comes too late",
        options: |plan| {
            let timeout_ms = plan.check_timeout_ms();
            format!(
                "[service.check]\nkind = \"http\"\nport = 8080\ntimeout = \"{timeout_ms}ms\"\nfall = 3\n{FAILOVER}"
            )
        },
        slow: Some(SlowChecks {
            every: 3,
            by_ms: 5_000,
        }),
        act: |scene| {
            scene.begins();
            scene.wait(Duration::from_secs(3))
        },
        judge: |figures| {
            expect_flips(figures, 0);
            figures.expect(
                figures.ejections == 0 && figures.failed_requests == 0,
                format!(
                    "{} ejections, {} failed connections; nothing was due",
                    figures.ejections, figures.failed_requests
                ),
            );
        },
        is_quick: false,
    },
];

/// Automated failover with its defaults.
const FAILOVER: &str = "[service.failover]\n";

fn check(plan: &Plan) -> String {
    let timeout_ms = plan.check_timeout_ms();
    format!("[service.check]\ntimeout = \"{timeout_ms}ms\"\n")
}

fn tcp(plan: &Plan) -> String {
    format!("{}{FAILOVER}", check(plan))
}

fn http(plan: &Plan) -> String {
    let timeout_ms = plan.check_timeout_ms();
    format!(
        "[service.check]\nkind = \"http\"\nport = 8080\ntimeout = \"{timeout_ms}ms\"\n{FAILOVER}"
    )
}

const fn blue(backend: u32) -> Identity {
    Identity {
        color: Color::Blue,
        backend,
    }
}

/// So many backends left their tables, and the color stayed.
fn expect_ejections(figures: &mut Figures, backends: usize) {
    let (found, flips) = (figures.ejections, figures.flips);
    figures.expect(
        found == backends * FAMILIES && flips == 0,
        format!(
            "{found} ejections and {flips} flips, expected {} and 0",
            backends * FAMILIES
        ),
    );
    figures.expect(
        figures.broken_connections == 0,
        format!(
            "{} long-lived connections to other backends broke",
            figures.broken_connections
        ),
    );
    figures.expect(figures.recovered_ms.is_some(), "it has not recovered");
}

fn expect_flips(figures: &mut Figures, flips: usize) {
    let found = figures.flips;
    figures.expect(found == flips, format!("{found} flips, expected {flips}"));
}

/// Second chance: who connects meanwhile gets another backend.
fn expect_no_failed_connects(figures: &mut Figures) {
    let failed = figures.failed_connects;
    figures.expect(failed == 0, format!("{failed} connects failed"));
}
