//! Flips: when packets see them, when the call returns, and what the agent that makes them holds.

use std::{
    fs,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use serde::Serialize;
use switcher_common::service::{Color, Protocol};
use switcher_tests::{
    bpf::usage,
    lab::{Family, Lab},
    node::{Many, Node},
};
use switcher_userspace::api::{client::Client, requests::FlipRequest};
use tokio::runtime::{Builder, Runtime};

use crate::{
    packets::node::{self, pin_dir},
    plan::Plan,
    spread::Spread,
    table::Table,
};

/// The flow tables' size.
const FLOWS: u32 = 1_048_576;
/// Of those without any.
const FEW_FLOWS: u32 = 65_536;
/// Limits that ten thousand listeners fit in.
const LIMITS: [(&str, u32); 5] = [
    ("services", 128),
    ("listeners", 10_240),
    ("backends", 81_920),
    ("maglev_slots", 8_650_752),
    // The harness is a flood.
    ("inserts_per_second", 100_000_000),
];
/// How long the store may stay unseen.
const STORE_LIMIT: Duration = Duration::from_secs(10);

/// All that was measured of flips.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flips {
    pub(crate) rows: Vec<Row>,
    /// Memory of the tables for each flow that fits in, in bytes.
    pub(crate) bytes_per_flow: f64,
    /// Main memory that the agent holds for each listener, in bytes.
    pub(crate) agent_bytes_per_listener: Option<f64>,
}

/// Flips of all services at once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) services: u16,
    pub(crate) listeners: u32,
    /// Established flows in the table.
    pub(crate) flows: u32,
    /// From the call of the API to the store, as packets would see it, in milliseconds.
    pub(crate) visible_ms: Spread,
    /// From the call to its return.
    pub(crate) return_ms: Spread,
    /// From the start of `switcher flip` to its end.
    pub(crate) cli_ms: Spread,
    /// Main memory that the agent holds, in bytes.
    pub(crate) agent_rss_bytes: u64,
}

/// How many flips are made.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// Of which only the return is timed.
    timed: usize,
    /// That are seen by who looks for them without pause.
    seen: usize,
    by_cli: usize,
}

const QUICK: Counts = Counts {
    timed: 30,
    seen: 25,
    by_cli: 10,
};

const FULL: Counts = Counts {
    timed: 1_000,
    seen: 250,
    by_cli: 100,
};

#[derive(Clone, Copy, Debug)]
struct Size {
    services: u16,
    listeners: u8,
    flows: u32,
}

impl Size {
    /// Flows that there is room for: large tables take seconds to make.
    const fn room(self) -> u32 {
        if self.flows > 0 { FLOWS } else { FEW_FLOWS }
    }
}

const SIZES: [Size; 4] = [
    Size {
        services: 1,
        listeners: 1,
        flows: 0,
    },
    Size {
        services: 10,
        listeners: 10,
        flows: 0,
    },
    Size {
        services: 100,
        listeners: 100,
        flows: 0,
    },
    Size {
        services: 1,
        listeners: 1,
        flows: 1_000_000,
    },
];

/// Measures them.
pub(crate) fn measure(plan: &Plan) -> Result<Flips> {
    let flips = if plan.quick { QUICK } else { FULL };
    let mut rows = Vec::new();
    let mut bytes_per_flow = None;
    for size in SIZES {
        let (row, bytes) = of_size(size, flips).with_context(|| format!("{size:?}"))?;
        rows.push(row);
        // Of the last one, which has flows.
        bytes_per_flow = Some(bytes);
    }
    let fewest = rows.iter().min_by_key(|row| row.listeners);
    let most = rows.iter().max_by_key(|row| row.listeners);
    let agent_bytes_per_listener = fewest.zip(most).map(|(fewest, most)| {
        let bytes = most.agent_rss_bytes.saturating_sub(fewest.agent_rss_bytes);
        to_f64(bytes) / f64::from(most.listeners - fewest.listeners)
    });
    Ok(Flips {
        rows,
        bytes_per_flow: bytes_per_flow.context("no size was measured")?,
        agent_bytes_per_listener,
    })
}

fn of_size(size: Size, flips: Counts) -> Result<(Row, f64)> {
    let lab = node::lab()?;
    let many = Many {
        services: size.services,
        listeners: size.listeners,
        ..Many::LISTENERS
    };
    let mut agent = Node::configured(&lab, &configuration(&lab, many, size.room())?)?;
    agent.start_agent()?;
    if size.flows > 0 {
        lab.node().run(|| {
            let mut node = node::Node::over(&lab, Protocol::Tcp)?;
            node.establish(Family::V4, usize::try_from(size.flows)?)
        })?;
    }
    let services: Vec<_> = (0..size.services).map(|it| format!("many{it}")).collect();
    let mut caller = Caller::new(&agent, services.clone())?;
    // The first ones grow what the agent keeps.
    (0..4).try_for_each(|_| caller.flip().map(drop))?;
    let timed: Result<Vec<_>> = (0..flips.timed).map(|_| caller.flip()).collect();
    let seen = lab.node().run(|| seen(&lab, &mut caller, flips.seen))?;
    let names: Vec<_> = services.iter().map(String::as_str).collect();
    let by_cli = (0..flips.by_cli).map(|_| {
        let flip = agent.flip(&names, caller.next())?;
        Ok(ms(flip.returned - flip.started))
    });
    let by_cli: Result<Vec<_>> = by_cli.collect();
    let agent_id = agent.agent_id()?;
    let row = Row {
        services: size.services,
        listeners: u32::from(size.services) * u32::from(size.listeners),
        flows: size.flows,
        visible_ms: Spread::of(&seen).context("no flip was seen")?,
        return_ms: Spread::of(&timed?).context("no flip was timed")?,
        cli_ms: Spread::of(&by_cli?).context("no command was timed")?,
        agent_rss_bytes: resident_bytes(agent_id)?,
    };
    let bytes_per_flow = lab
        .node()
        .run(|| bytes_per_flow(&lab, agent_id, size.room()))?;
    Ok((row, bytes_per_flow))
}

/// The measured service, and those that are flipped.
fn configuration(lab: &Lab, many: Many, flows: u32) -> Result<String> {
    let dir = lab.dir().display();
    let limits = LIMITS.map(|(name, limit)| format!("{name} = {limit}\n"));
    Ok(format!(
        "[agent]\ninterfaces = [\"c1\", \"b\"]\nmode = \"native\"\nsocket = \"{dir}/switcher.sock\"\n\
         pin_dir = \"{}\"\nstate_dir = \"{dir}/state\"\n[agent.limits]\nflows = {flows}\n{}{}{}",
        pin_dir(lab).display(),
        limits.concat(),
        node::service(lab)?,
        many.services(lab)
    ))
}

/// Calls the agent's API from this thread.
struct Caller {
    client: Client,
    runtime: Runtime,
    services: Vec<String>,
    to: Color,
}

impl Caller {
    fn new(agent: &Node<'_>, services: Vec<String>) -> Result<Self> {
        Ok(Self {
            client: Client::new(&agent.socket()),
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .context("making a runtime")?,
            services,
            to: Color::Blue,
        })
    }

    /// The color that is to be active next.
    fn next(&mut self) -> Color {
        self.to = self.to.other();
        self.to
    }

    /// Flips; how long it took, in milliseconds.
    fn flip(&mut self) -> Result<f64> {
        let request = FlipRequest {
            services: self.services.clone(),
            to: Some(self.next()),
            ..FlipRequest::default()
        };
        let began = Instant::now();
        let answer = self.runtime.block_on(self.client.change(&request));
        let took = began.elapsed();
        match answer {
            Ok(reply) if reply.changed => Ok(ms(took)),
            Ok(reply) => bail!("the flip changed nothing: {reply:?}"),
            Err(failure) => bail!("the flip failed: {failure:?}"),
        }
    }
}

/// How long it takes until the slot that packets read holds another map, in milliseconds.
fn seen(lab: &Lab, caller: &mut Caller, flips: usize) -> Result<Vec<f64>> {
    let path = pin_dir(lab).join("maps/SWITCH");
    let is_over = AtomicBool::new(false);
    let (sender, changes) = mpsc::channel();
    thread::scope(|scope| {
        let looking = scope.spawn(|| look(&path, &is_over, &sender));
        let flips = (0..flips).map(|_| {
            let began = Instant::now();
            caller.flip()?;
            // The end of a drain is a store too: what came before counts for nothing.
            let mut stores = std::iter::from_fn(|| changes.recv_timeout(STORE_LIMIT).ok());
            let own = stores.find(|stored| *stored >= began);
            Ok(ms(own.context("no store was seen")? - began))
        });
        let flips = flips.collect();
        is_over.store(true, Ordering::Relaxed);
        let looked = looking.join();
        looked.map_err(|_| anyhow::anyhow!("who looks for the store panicked"))??;
        flips
    })
}

/// Looks at the slot without pause, since nothing tells of it.
fn look(path: &Path, is_over: &AtomicBool, changes: &mpsc::Sender<Instant>) -> Result<()> {
    let data = MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
    // As a number, the map's id.
    let slot: Array<_, u32> = Map::Array(data).try_into()?;
    let mut known = slot.get(&0, 0)?;
    while !is_over.load(Ordering::Relaxed) {
        let now = slot.get(&0, 0)?;
        if now != known {
            known = now;
            // Nobody may wait for it any more.
            let _ = changes.send(Instant::now());
        }
    }
    Ok(())
}

/// Main memory that a process holds, in bytes.
fn resident_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib = kib.with_context(|| format!("{path} has no VmRSS in kB"))?;
    Ok(kib.trim().parse::<u64>()? * 1_024)
}

/// What the table of established IPv4 flows and its ring weigh, by the flows that fit in.
fn bytes_per_flow(lab: &Lab, agent: u32, flows: u32) -> Result<f64> {
    let usage = usage(agent)?;
    let mut bytes = 0;
    for name in ["ESTABLISHED4", "RING4"] {
        let path = pin_dir(lab).join("maps").join(name);
        let map = MapData::from_pin(&path).with_context(|| format!("opening {name}"))?;
        let weight = usage.maps.get(&map.info()?.id());
        bytes += weight.with_context(|| format!("the agent has not opened {name}"))?;
    }
    ensure!(bytes > 0, "the kernel does not say what maps weigh");
    Ok(to_f64(bytes) / f64::from(flows))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
const fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

impl Flips {
    /// The largest median of all sizes.
    pub(crate) fn slowest(&self, of: impl Fn(&Row) -> Spread) -> Option<f64> {
        let medians = self.rows.iter().map(|row| of(row).median);
        medians.reduce(f64::max)
    }

    /// What the agent holds of main memory with a million flows, in bytes.
    pub(crate) fn agent_rss_1m_bytes(&self) -> Option<u64> {
        let row = self.rows.iter().find(|row| row.flows == 1_000_000);
        row.map(|row| row.agent_rss_bytes)
    }

    /// For people.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let mut table = Table::new(
            "Flips in ms: smallest/median/p99; seen by packets and returned since the call of the API, and the whole command",
            [
                "services",
                "listeners",
                "flows",
                "visible",
                "returned",
                "command",
                "flips",
                "agent's memory, MiB",
            ],
        );
        let shown = |it: Spread| format!("{:.2}/{:.2}/{:.2}", it.min, it.median, it.p99);
        for row in &self.rows {
            table.row([
                row.services.to_string(),
                row.listeners.to_string(),
                row.flows.to_string(),
                shown(row.visible_ms),
                shown(row.return_ms),
                shown(row.cli_ms),
                row.return_ms.runs.to_string(),
                format!("{:.1}", to_f64(row.agent_rss_bytes) / 1_048_576.0),
            ]);
        }
        let mut memory = Table::new("Memory in bytes", ["", ""]);
        memory.row([
            "tables, for each established flow".to_owned(),
            format!("{:.0}", self.bytes_per_flow),
        ]);
        if let Some(bytes) = self.agent_bytes_per_listener {
            memory.row(["agent, for each listener".to_owned(), format!("{bytes:.0}")]);
        }
        vec![table, memory]
    }
}
