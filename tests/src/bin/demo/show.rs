//! The flips, and what is watched between them.

use std::{
    collections::BTreeMap,
    process::{Output, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use switcher_common::service::{Color, Protocol};
use switcher_tests::{
    node::Node,
    traffic::{Flip, first_new_ms},
};
use tokio::{
    process::Command,
    task::JoinSet,
    time::{Duration, interval, sleep_until},
};

use crate::{
    display::{Display, Frame},
    load::Loads,
    plan::{DRAIN_LIMIT, Plan, Service},
};

/// Load before the first flip.
const WARM_UP: Duration = Duration::from_secs(2);
/// How often the display is redrawn.
const TICK: Duration = Duration::from_millis(250);

/// How the show ended.
pub(crate) enum Ended {
    /// All flips were made.
    Complete,
    /// By a signal.
    Interrupted,
}

/// A flip and what followed.
#[derive(Clone, Debug)]
pub(crate) struct Flipped {
    /// As the caller saw it.
    pub(crate) flip: Flip,
    /// Microseconds in the agent until the change was visible.
    pub(crate) visible_us: u64,
    /// Microseconds in the agent until the end of the barrier.
    pub(crate) barrier_us: u64,
    /// Milliseconds that the drains took, by service.
    pub(crate) drain_ms: BTreeMap<Service, u64>,
}

/// The running show.
pub(crate) struct Show<'a, 'lab> {
    plan: Plan,
    node: &'a Node<'lab>,
    loads: &'a mut Loads<'lab>,
    display: &'a mut Display,
    flips: Vec<Flipped>,
    first_new_ms: Option<f64>,
}

impl<'a, 'lab> Show<'a, 'lab> {
    pub(crate) const fn new(
        plan: Plan,
        node: &'a Node<'lab>,
        loads: &'a mut Loads<'lab>,
        display: &'a mut Display,
    ) -> Self {
        Self {
            plan,
            node,
            loads,
            display,
            flips: Vec::new(),
            first_new_ms: None,
        }
    }

    /// What was flipped so far.
    pub(crate) fn into_flips(self) -> Vec<Flipped> {
        self.flips
    }

    /// All flips, each followed until its drains are over and the next one is due.
    pub(crate) async fn run(&mut self) -> Result<Ended> {
        self.display.event("load runs; blue serves");
        self.follow(Instant::now() + WARM_UP, JoinSet::new())
            .await?;
        let mut to = Color::Green;
        for _ in 0..self.plan.flips {
            let started = self.flip(to)?;
            self.loads.add_long_lived();
            let mut drains = JoinSet::new();
            for service in Service::THAT_DRAIN {
                drains.spawn(drained(service, self.drain_command(service)));
            }
            self.follow(started + self.plan.between(), drains).await?;
            to = to.other();
        }
        Ok(Ended::Complete)
    }

    fn flip(&mut self, to: Color) -> Result<Instant> {
        let names = Service::ALL.map(Service::name);
        let arguments = [&["flip"], &names[..], &["--to", to.name(), "--json"]].concat();
        let started = Instant::now();
        let output = self.node.cli(&arguments)?;
        let returned = Instant::now();
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        ensure!(
            output.status.success() && reply["changed"] == true,
            "flip {} to {} failed: {}",
            self.flips.len() + 1,
            to.name(),
            reason(&output, &reply)
        );
        self.first_new_ms = None;
        let micros = |field: &str| reply[field].as_u64().unwrap_or_default();
        self.flips.push(Flipped {
            flip: Flip {
                started,
                returned,
                to,
            },
            visible_us: micros("visible_us"),
            barrier_us: micros("barrier_us"),
            drain_ms: BTreeMap::new(),
        });
        let took = (returned - started).as_secs_f64() * 1e3;
        self.display.event(&format!(
            "flip {}: {} -> {}, the command took {took:.1} ms",
            self.flips.len(),
            to.other().name(),
            to.name()
        ));
        Ok(started)
    }

    /// Keeps the display going until `until` has passed and all of `drains` are over.
    async fn follow(
        &mut self,
        until: Instant,
        mut drains: JoinSet<Result<(Service, u64)>>,
    ) -> Result<()> {
        let mut ticks = interval(TICK);
        ticks.reset();
        loop {
            tokio::select! {
                Some(ended) = drains.join_next() => {
                    let (service, ms) = ended.context("a task was lost")??;
                    self.note_drain(service, ms);
                }
                () = sleep_until(until.into()), if drains.is_empty() => return Ok(()),
                _ = ticks.tick() => self.tick()?,
            }
        }
    }

    fn note_drain(&mut self, service: Service, ms: u64) {
        let Some(last) = self.flips.last_mut() else {
            return;
        };
        last.drain_ms.insert(service, ms);
        let old = last.flip.to.other().name();
        let name = service.name();
        self.display
            .event(&format!("  {name}: {old} drained after {ms} ms"));
    }

    fn tick(&mut self) -> Result<()> {
        if self.first_new_ms.is_none() {
            self.look_for_first_new();
        }
        if !self.display.is_live() {
            return Ok(());
        }
        let status = self.node.status()?;
        let last = self.flips.last();
        let frame = Frame {
            flip: self.flips.len(),
            flips: self.plan.flips,
            active: last.map_or(Color::Blue, |it| it.flip.to),
            in_flight: Service::ALL.map(|service| in_flight(&status, service)),
            first_new_ms: self.first_new_ms,
            drain_ms: last.map(|it| it.drain_ms.clone()).unwrap_or_default(),
            totals: self.loads.totals(),
        };
        self.display.draw(frame);
        Ok(())
    }

    fn look_for_first_new(&mut self) {
        let Some(Flip { started, to, .. }) = self.flips.last().map(|it| it.flip) else {
            return;
        };
        let firsts = self.loads.read(|source, stats| {
            let web = source.kind.service() == Service::Web;
            let recent = stats
                .fresh
                .iter()
                .rev()
                .take_while(|it| it.answered >= started);
            first_new_ms(
                recent.filter(|it| web && it.protocol == Protocol::Tcp),
                started,
                to,
            )
        });
        self.first_new_ms = firsts.into_iter().flatten().min_by(f64::total_cmp);
        if let Some(ms) = self.first_new_ms {
            self.display.event(&format!(
                "  web: first new connection on {} after {ms:.1} ms",
                to.name()
            ));
        }
    }

    fn drain_command(&self, service: Service) -> Command {
        let mut command = self.node.command();
        let limit = format!("{}s", DRAIN_LIMIT.as_secs());
        command.arg("--socket").arg(self.node.socket());
        command.args([
            "drain",
            service.name(),
            "--wait",
            "--timeout",
            &limit,
            "--json",
        ]);
        command.stdin(Stdio::null());
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
    }
}

/// The milliseconds that the drain of `service` took, when it is over.
async fn drained(service: Service, mut command: Command) -> Result<(Service, u64)> {
    let name = service.name();
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot wait for the drain of {name}"))?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let drain = &answer["drain"];
    if !output.status.success() || drain["ended"] != "drained" {
        bail!(
            "the drain of {name} did not end as it should: {}; {} flows in flight",
            reason(&output, &answer),
            drain["in_flight"]
        );
    }
    let ms = drain["elapsed_ms"].as_u64();
    Ok((
        service,
        ms.with_context(|| format!("no elapsed_ms in {answer}"))?,
    ))
}

/// Why a command failed, in its own words.
fn reason(output: &Output, answer: &Value) -> String {
    answer["error"]["message"].as_str().map_or_else(
        || {
            let words = String::from_utf8_lossy(&output.stderr);
            format!("{}, {answer} {words}", output.status)
        },
        str::to_owned,
    )
}

fn in_flight(status: &Value, service: Service) -> [u64; 2] {
    let services = status["services"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let found = services.iter().find(|it| it["name"] == service.name());
    Color::ALL.map(|color| {
        let flows = found.map(|it| &it["in_flight"][color.name()]);
        flows.and_then(Value::as_u64).unwrap_or_default()
    })
}
