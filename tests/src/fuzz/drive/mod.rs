//! Runs each step through the loaded program and through the model, and compares.

mod bpf;
mod clock;
mod compare;
mod edge;
mod kernel;
mod ledger;

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result, ensure};
use switcher_common::rate::Capped;
use switcher_common::service::ServiceSwitch;
use switcher_userspace::config::Config;
use switcher_userspace::datapath::{
    DataPath, Leaving, RemovalTerms, Runner, Scanner, TestRun, Wanted,
};

use self::clock::Clock;
pub use self::compare::Difference;
use self::compare::{compare_entry, compare_outcome};
use self::kernel::{Kernel, Sizes};
use self::ledger::Ledger;
use super::lab;
use super::model::cut::Order;
use super::model::rate::Cap;
use super::model::route::{InterfaceId, Told};
use super::model::sweep::Ring;
use super::model::tables::{Moves, Table, Tables};
use super::model::types::{Entry, Outcome, Tuple};
use super::model::{Colors, Model};
use super::step::Step;
use super::world::{self, World};
use crate::lab::Lab;

/// The colors that every sequence begins with.
pub const START: Colors = Colors {
    active: 0,
    base: 0,
    split: 0,
};

/// The loaded program and the model of it, inside a lab's node. Its thread must be in there.
pub struct Rig {
    /// The model.
    pub model: Model,
    world: World,
    path: DataPath,
    scanner: Scanner,
    runner: Runner,
    pin_dir: std::path::PathBuf,
    kernel: Kernel,
    clock: Clock,
    ledger: Ledger,
    /// Packets after which the counters are read: each is a small part of the work then.
    pub read_counters_after: u32,
    /// Of the time before the sequence.
    moves: [[Moves; 2]; 2],
    variant: usize,
}

impl Rig {
    /// Loads the program in the node of `lab`.
    pub fn open(lab: &Lab, world: World) -> Result<Self> {
        let routes = lab::routes(lab)?;
        let pin_dir = lab.bpffs().join(world.name());
        let config = world::config(world, 0, &pin_dir)?;
        let mut path = DataPath::open(&config.agent)?;
        let mut scanner = path.scanner()?;
        let states = vec![ServiceSwitch::default(); world::SERVICES + 1];
        path.apply(&wanted(&config), &mut scanner, |path, _| {
            path.switch(&states).map(drop)
        })?;
        for (id, service) in (1..).zip(&config.services) {
            // Blue's as in a drain.
            let udp_ms = service.idle.udp.as_millis();
            path.set_idle(id, service, [udp_ms / 2, udp_ms])?;
        }
        // Attached, so that frames can come in by the interfaces, but not enabled: what else goes
        // on in the lab is not counted.
        path.enable_stages()?;
        path.attach(&config.agent)?;
        let clock = Clock::open(&pin_dir)?;
        path.set_node_addresses(routes.own.iter().copied())?;
        let limits = config.agent.limits;
        let sizes = Sizes {
            services: limits.services,
            listeners: limits.listeners,
            backends: limits.backends,
            slots: limits.maglev_slots,
        };
        let kernel = Kernel::open(&pin_dir, sizes)?;
        let ring = Ring::new(usize::try_from(kernel.ring_len()?)?);
        let room = usize::try_from(world.flows())? * 2;
        Ok(Self {
            model: Model {
                config: kernel.config()?,
                colors: vec![START; world::SERVICES + 1],
                routes,
                tables: Tables::new(room),
                rings: [ring.clone(), ring],
                idle: kernel.idle()?,
                cuts: HashMap::new(),
                heard: HashMap::new(),
                resets: HashMap::new(),
                inserts: Cap::default(),
                told_late: Cap::default(),
                told_large: Cap::default(),
                fragments: HashMap::new(),
            },
            world,
            runner: path.runner()?,
            path,
            scanner,
            moves: kernel.moves()?,
            ledger: Ledger::new(kernel.counts()?),
            read_counters_after: 1,
            kernel,
            clock,
            pin_dir,
            variant: 0,
        })
    }

    /// Which world it is.
    #[must_use]
    pub const fn world(&self) -> World {
        self.world
    }

    /// Back to where every sequence begins: no flows, blue everywhere.
    pub fn reset(&mut self) -> Result<()> {
        self.kernel.clear()?;
        self.model.tables.clear();
        self.ledger = Ledger::new(self.kernel.counts()?);
        self.model.fragments.clear();
        self.model.heard.clear();
        self.model.resets.clear();
        self.model.rings.iter_mut().for_each(Ring::clear);
        self.moves = self.kernel.moves()?;
        for backend in std::mem::take(&mut self.model.cuts).into_keys() {
            self.kernel.cut(backend, Order::default())?;
        }
        for id in 0..self.model.routes.interfaces.len() {
            self.tell(id, Told::default())?;
        }
        self.cap([PLENTY; 3])?;
        self.model.told_late.clear();
        self.model.told_large.clear();
        self.model.inserts.clear();
        self.set_colors(&[START; world::SERVICES])?;
        self.apply(0)
    }

    /// Takes a step on both sides.
    pub fn step(&mut self, step: &Step) -> Result<Result<Option<Outcome>, Difference>> {
        match step {
            Step::Packet { ingress, frame } => {
                let id = self.model.routes.by_name(ingress);
                return self.packet(id.context("no such interface")?, frame);
            }
            Step::Colors(colors) => self.set_colors(colors)?,
            Step::Age(ticks) => self.age(*ticks)?,
            Step::Plant(table, at, entry) => self.plant(*table, at, entry)?,
            Step::Evict(at) => {
                self.model.tables.evict(at);
                self.kernel.remove(Table::Lru, at)?;
            }
            Step::Crowd(at) => {
                let slots = self.model.rings[usize::from(at.is_v6())].crowd(*at, CROWD);
                self.kernel.crowd(at, &slots)?;
            }
            Step::Tell(name, told) => {
                let id = self.model.routes.by_name(name);
                self.tell(id.context("no such interface")?, *told)?;
            }
            Step::Cut(backend, action, ago) => {
                let deadline = clock::now_ticks().wrapping_sub_signed(*ago);
                self.order(*backend, |order| {
                    order.deadline = deadline;
                    order.action = *action;
                })?;
            }
            Step::Hold(backend, hold, left) => {
                let hold_until = clock::now_ticks().wrapping_add_signed(*left);
                self.order(*backend, |order| {
                    order.hold = *hold;
                    order.hold_until = hold_until;
                })?;
            }
            Step::Eject(backend, is_out) => {
                self.order(*backend, |order| order.ejected = *is_out)?;
            }
            Step::Caps(caps) => self.cap(*caps)?,
            Step::Apply(variant) => self.apply(*variant)?,
        }
        Ok(Ok(None))
    }

    fn tell(&mut self, id: InterfaceId, told: Told) -> Result<()> {
        let interfaces = &mut self.model.routes.interfaces;
        interfaces[id].told = told;
        let index = |of: Option<InterfaceId>| of.map_or(0, |id| interfaces[id].index);
        let (parent, master) = (index(told.vlan.map(|it| it.0)), index(told.master));
        self.kernel.tell(&interfaces[id], parent, master)
    }

    fn order(&mut self, backend: u32, change: impl FnOnce(&mut Order)) -> Result<()> {
        let order = self.model.cuts.entry(backend).or_default();
        change(order);
        self.kernel.cut(backend, *order)
    }

    fn cap(&mut self, [flows, late, large]: [u32; 3]) -> Result<()> {
        self.model.inserts.budget = flows;
        self.model.told_late.budget = late;
        self.model.told_large.budget = large;
        self.kernel.cap(Capped::Insert, flows)?;
        self.kernel.cap(Capped::TimeExceeded, late)?;
        self.kernel.cap(Capped::TooBig, large)
    }

    fn set_colors(&mut self, colors: &[Colors]) -> Result<()> {
        self.model.colors[1..=colors.len()].copy_from_slice(colors);
        self.kernel.set_colors(colors)
    }

    fn apply(&mut self, variant: usize) -> Result<()> {
        if self.variant == variant {
            return Ok(());
        }
        let config = world::config(self.world, variant, &self.pin_dir)?;
        let now = clock::now_ticks();
        let until = if variant == world::GONE {
            now.wrapping_sub(1)
        } else {
            now.wrapping_add(PLENTY)
        };
        let others = Some(RemovalTerms {
            until,
            cut_at_end: None,
        });
        let leaving = Leaving {
            others,
            ..Leaving::default()
        };
        let wanted = Wanted {
            leaving: &leaving,
            ..wanted(&config)
        };
        self.path.apply(&wanted, &mut self.scanner, |_, _| Ok(()))?;
        self.model.config = self.kernel.config()?;
        self.variant = variant;
        Ok(())
    }

    fn age(&mut self, ticks: u32) -> Result<()> {
        self.model.tables.age(ticks);
        for (key, kept) in &mut self.model.fragments {
            kept.1 = kept.1.wrapping_sub(ticks);
            self.kernel.set_fragment(key, kept)?;
        }
        for table in [Table::Lru, Table::Established] {
            for (at, entry) in self.model.tables.all(table) {
                self.kernel.put(table, at, entry)?;
            }
        }
        Ok(())
    }

    fn plant(&mut self, table: Table, at: &Tuple, entry: &Entry) -> Result<()> {
        let now = clock::now_ticks();
        let entry = Entry {
            seen: now.wrapping_sub(entry.seen),
            born: now.wrapping_sub(entry.born),
            ..*entry
        };
        if self.model.tables.find(at).is_none() && self.model.tables.plant(table, *at, entry) {
            self.kernel.put(table, at, &entry)?;
        }
        Ok(())
    }

    fn packet(
        &mut self,
        ingress: usize,
        frame: &[u8],
    ) -> Result<Result<Option<Outcome>, Difference>> {
        let index = self.model.routes.interfaces[ingress].index;
        let run = self.runner.run(frame, index)?;
        let outcome = self.model.packet(frame, ingress, self.clock.ticks()?);
        let result = self.compare(frame, &run, &outcome);
        self.ledger.expect(&outcome);
        let is_due = self.ledger.packets >= self.read_counters_after;
        Ok(match result {
            Ok(()) if is_due => self.ledger.settle(self.kernel.counts()?),
            result => result,
        }
        .map(|()| Some(outcome)))
    }

    fn compare(
        &mut self,
        frame: &[u8],
        run: &TestRun,
        outcome: &Outcome,
    ) -> Result<(), Difference> {
        let mut touched = self.model.tables.take_touched();
        touched.sort_unstable();
        touched.dedup();
        compare_outcome(frame, run, outcome)?;
        for at in touched {
            for table in [Table::Established, Table::Lru] {
                let found = self.kernel.entry(table, &at);
                let expected = self.model.tables.get(table, &at);
                compare_entry(table, &at, found, expected)?;
            }
        }
        Ok(())
    }

    /// Compares all entries of all tables.
    pub fn compare_tables(&mut self) -> Result<Result<(), Difference>> {
        for table in [Table::Established, Table::Lru] {
            let found = self.kernel.all(table)?;
            let keys = self.model.tables.all(table).map(|(at, _)| at);
            for at in keys.chain(found.keys()) {
                let expected = self.model.tables.get(table, at);
                if let Err(difference) =
                    compare_entry(table, at, Ok(found.get(at).copied()), expected)
                {
                    return Ok(Err(difference));
                }
            }
        }
        if let Err(difference) = self.ledger.settle(self.kernel.counts()?) {
            return Ok(Err(difference));
        }
        if self.kernel.heard()? != self.model.heard {
            let (found, expected) = (self.kernel.heard()?, &self.model.heard);
            return Ok(Err(Difference::new(format!(
                "what was heard of backends\n  program {found:?}\n  model   {expected:?}"
            ))));
        }
        if self.kernel.fragments()? != self.model.fragments {
            let (found, expected) = (self.kernel.fragments()?, &self.model.fragments);
            return Ok(Err(Difference::new(format!(
                "first fragments\n  program {found:?}\n  model   {expected:?}"
            ))));
        }
        self.compare_moves()
    }

    fn compare_moves(&self) -> Result<Result<(), Difference>> {
        let now = self.kernel.moves()?;
        let expected = self.model.tables.moves();
        for table in Table::ALL {
            for family in 0..2 {
                let [now, before] = [now, self.moves].map(|it| it[table as usize][family]);
                let found = Moves {
                    inserted: now.inserted - before.inserted,
                    removed: now.removed - before.removed,
                };
                let expected = expected[table as usize][family];
                if found != expected {
                    let family = ["IPv4", "IPv6"][family];
                    return Ok(Err(Difference::new(format!(
                        "entries that came and went in {table:?} of {family}\n  program {found:?}\n  model   {expected:?}"
                    ))));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Takes the data path away.
    pub fn close(self) -> Result<()> {
        Ok(self.path.remove()?)
    }
}

/// Of what is capped, in a window, if nothing else is said.
const PLENTY: u32 = 1_000_000;
/// Slots of the sweep's ring that [`Step::Crowd`] fills.
const CROWD: usize = 4;

fn wanted(config: &Config) -> Wanted<'_> {
    static NONE: BTreeSet<switcher_userspace::datapath::DrainedBackend> = BTreeSet::new();
    Wanted {
        config,
        drained: &NONE,
        leaving: Leaving::AT_ONCE,
    }
}

/// Makes the calling thread stay on one CPU: the program's caps are per CPU.
pub fn stay_on_one_cpu() -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    let cpu = rustix::thread::sched_getcpu();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .with_context(|| format!("staying on CPU {cpu}"))?;
    ensure!(
        rustix::thread::sched_getcpu() == cpu,
        "the thread left CPU {cpu}"
    );
    Ok(())
}
