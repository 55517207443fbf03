//! A lab with its servers, the switcher and the load, while a scenario runs.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Lab, Topology, cancel},
    node::{LabService, Node, configuration, service_in},
    traffic::Identity,
};
use switcher_userspace::api::instant;
use tokio_util::sync::CancellationToken;

use crate::{
    load::{Loads, Seen},
    measure::{Fault, Figures},
    plan::{LIMIT, MIN_ATTEMPTS, Plan, WARM_UP},
    scenarios::Scenario,
    servers::Servers,
};

/// Changes of the active color that the agent makes by itself.
const FLIPS: [&str; 3] = ["failover", "failback", "revert"];

/// All of it.
const HISTORY: [&str; 3] = ["history", "--limit", "1000"];

/// The service that all clients use.
pub(crate) fn service(options: String) -> LabService {
    LabService {
        options,
        ..LabService::stream(1)
    }
}

/// A lab in which each backend is a host.
pub(crate) fn lab() -> Result<Lab> {
    let topology = Topology::host_per_backend();
    Lab::builder().topology(topology).build()
}

/// What a scenario acts on.
pub(crate) struct Scene<'lab> {
    pub(crate) node: Node<'lab>,
    pub(crate) servers: Servers<'lab>,
    pub(crate) loads: Loads,
    /// The first fault.
    fault: Option<Fault>,
    /// Backends that have failed.
    failed: Vec<Identity>,
    cancel: CancellationToken,
}

impl<'lab> Scene<'lab> {
    /// Starts everything, and lets the load run for a while.
    fn start(plan: &Plan, scenario: &Scenario, lab: &'lab Lab) -> Result<Self> {
        let servers = Servers::start(lab, scenario.slow)?;
        let service = service((scenario.options)(plan));
        let mut node = Node::configured(lab, &configuration(lab, std::slice::from_ref(&service)))?;
        node.start_agent()?;
        node.wait_until("all backends being healthy", |status| {
            let mut health = backends(status).map(|it| it["health"].as_str().unwrap_or_default());
            health.all(|it| it == "healthy")
        })?;
        let loads = Loads::start(lab, &service)?;
        let scene = Self {
            node,
            servers,
            loads,
            fault: None,
            failed: Vec::new(),
            cancel: cancel::on_signal()?,
        };
        scene.wait(WARM_UP)?;
        scene.loads.wait_for_answers(MIN_ATTEMPTS / 4)?;
        Ok(scene)
    }

    /// Lets time pass.
    pub(crate) fn wait(&self, time: Duration) -> Result<()> {
        thread::sleep(time);
        ensure!(!self.cancel.is_cancelled(), "interrupted");
        Ok(())
    }

    /// Notes that `identity` fails now.
    pub(crate) fn fails(&mut self, identity: Identity) {
        self.fault.get_or_insert_with(Fault::now);
        if !self.failed.contains(&identity) {
            self.failed.push(identity);
        }
    }

    /// Notes that the fault begins now, which is no backend's.
    pub(crate) fn begins(&mut self) {
        self.fault.get_or_insert_with(Fault::now);
    }

    /// Kills servers with SIGKILL.
    pub(crate) fn kill(&mut self, identities: &[Identity]) -> Result<()> {
        for &identity in identities {
            self.fails(identity);
            self.servers.kill(identity)?;
        }
        Ok(())
    }

    /// Starts servers again.
    pub(crate) fn restart(&mut self, identities: &[Identity]) -> Result<()> {
        identities
            .iter()
            .try_for_each(|&identity| self.servers.begin(identity))
    }

    /// All backends of a color.
    pub(crate) fn all(&self, color: Color) -> Vec<Identity> {
        self.servers.of(color)
    }

    /// Waits until the agent has told `count` ejections in all.
    pub(crate) fn wait_for_ejections(&self, count: usize) -> Result<()> {
        self.wait_for(&format!("{count} ejections"), |entries| {
            entries.iter().filter(|it| is_ejection(it)).count() >= count
        })
    }

    /// Waits until the agent has told `what` once.
    pub(crate) fn wait_for_entry(&self, what: &str) -> Result<()> {
        self.wait_for(what, |entries| entries.iter().any(|it| it["what"] == what))
    }

    fn wait_for(&self, what: &str, done: impl Fn(&[Value]) -> bool) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + LIMIT;
        while !done(&self.history()?) {
            if Instant::now() >= deadline {
                bail!(
                    "{what}: not within {LIMIT:?}; the log:\n{}",
                    self.node.log()
                );
            }
            self.wait(LOOK)?;
        }
        Ok(())
    }

    /// The oldest entry first.
    fn history(&self) -> Result<Vec<Value>> {
        let (history, code) = self.node.json(&HISTORY)?;
        ensure!(code == 0, "no history: {history}");
        let mut entries = history["entries"].as_array().context("entries")?.clone();
        entries.reverse();
        Ok(entries)
    }

    /// The active color.
    pub(crate) fn active(&self) -> Result<String> {
        let status = self.node.status()?;
        let active = service_in(&status, "stream")["active"].as_str();
        Ok(active.context("an active color")?.to_owned())
    }

    fn measure(self, scenario: &Scenario) -> Result<Figures> {
        let Self {
            mut node,
            loads,
            fault,
            failed,
            ..
        } = self;
        let fault = fault.context("nothing has failed")?;
        let seen: Seen = loads.finish()?;
        let (history, _) = node.json(&HISTORY)?;
        let entries: Vec<&Value> = history["entries"]
            .as_array()
            .map_or_else(Vec::new, |all| all.iter().rev().collect());
        let since = |entry: &&Value| {
            let at = entry["at"].as_str().and_then(instant::parse)?;
            Some(fault.ms_to(at))
        };
        let mut figures = Figures::of(scenario.name, fault, &failed, &seen);
        let is_flip = |it: &&&Value| FLIPS.iter().any(|what| it["what"] == *what);
        let is_decision = |it: &&&Value| is_ejection(it) || is_flip(it);
        figures.detect_ms = entries.iter().find(is_decision).and_then(since);
        let alarm = entries.iter().find(|it| it["what"] == "alarm_raised");
        figures.alarm_ms = alarm.and_then(since);
        figures.ejections = entries.iter().filter(|it| is_ejection(it)).count();
        figures.flips = entries.iter().filter(is_flip).count();
        figures.refused_to_ejected_ms = refused_to_ejected(&entries);
        figures.second_chances = node.packets("second_chance").ok();
        let before = figures.requests - figures.requests_after;
        figures.expect(
            before >= MIN_ATTEMPTS && figures.requests_after >= MIN_ATTEMPTS,
            format!(
                "too little happened: {before} connections before the fault, {} after it",
                figures.requests_after
            ),
        );
        let early = seen
            .attempts
            .iter()
            .filter(|it| !it.is_answered() && it.began + Duration::from_secs(1) < fault.at);
        figures.expect(early.count() == 0, "connections failed before the fault");
        (scenario.judge)(&mut figures);
        if !figures.ok {
            figures.problems.extend(seen.samples.into_iter().take(3));
        }
        if let Err(error) = node.stop_agent() {
            figures.expect(false, format!("{error:#}"));
        }
        Ok(figures)
    }
}

/// Runs a scenario in a lab of its own.
pub(crate) fn run(plan: &Plan, scenario: &Scenario) -> Result<Figures> {
    let lab = lab()?;
    let mut scene = Scene::start(plan, scenario, &lab)?;
    (scenario.act)(&mut scene)?;
    scene.wait(plan.cool_down())?;
    scene.measure(scenario)
}

fn is_ejection(entry: &Value) -> bool {
    entry["what"] == "health" && entry["health"]["is_healthy"] == false
}

/// The longest time from a first refused SYN to the ejection of its backend, in milliseconds.
fn refused_to_ejected(entries: &[&Value]) -> Option<f64> {
    let told = entries.iter().filter(|it| is_ejection(it));
    told.filter_map(|it| it["health"]["refused_to_ejected_ms"].as_f64())
        .reduce(f64::max)
}

/// All backends in a status.
fn backends(status: &Value) -> impl Iterator<Item = &Value> {
    let listeners = service_in(status, "stream")["listeners"].as_array();
    let listeners = listeners.into_iter().flatten();
    listeners.flat_map(|listener| {
        let of = |color: Color| listener["backends"][color.name()].as_array();
        Color::ALL.into_iter().filter_map(of).flatten()
    })
}
