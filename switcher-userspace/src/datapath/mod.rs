//! The data path from the agent's side: the only module that knows aya and the maps.
//!
//! [`DataPath`] owns the maps that the agent writes. [`Scanner`] and [`Counters`] have handles of
//! their own, so that a long scan holds up no flip.

mod bpf;
mod clock;
mod counters;
mod double;
mod error;
mod explain;
mod flow_tables;
mod hop_watch;
mod image;
mod interfaces;
mod links;
mod list;
mod load;
mod maglev;
mod node_addresses;
mod orders;
mod pins;
mod program;
mod program_log;
mod reports;
mod scan;
mod send_errors;
mod tables;
mod tracer;
mod unsaved;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use aya::Ebpf;
use switcher_common::{ProgramSlot, interface::InterfaceRecord, service::ServiceSwitch};

pub(crate) use clock::monotonic_ns;
pub use counters::{ColorTraffic, Counters};
pub use double::Replaced;
pub use error::DataPathError;
pub use explain::{Explained, Explainer, FoundListener, Question, Selection, Tried, Way, Why};
pub use flow_tables::FoundFlow;
pub use hop_watch::HopWatch;
pub use image::{Busy, DrainedBackend, Leaving, Place, RemovalTerms, RemovedListener, Wanted};
pub use links::{Attached, Mode};
pub use list::{FlowLister, ListedFlow};
// For the test of its stack.
#[doc(hidden)]
pub use load::OBJECT;
pub use orders::{EjectedBackend, HeldListeners, Orders};
pub use program::{Action, ProgramFacts, Runner, TestRun};
pub use program_log::ProgramLog;
pub use reports::{LiveReports, Reported, Reports};
pub use scan::{CutCount, Scan, Scanner};
pub use tracer::{LiveTracer, Tracer};
#[cfg(test)]
pub(crate) use unsaved::KEPT_BYTES_PER_SERVICE;

use self::{
    double::Doubled, interfaces::InterfaceTable, load::Meta, node_addresses::NodeAddresses,
    pins::PinDir, tables::Tables, unsaved::Unsaved,
};
use crate::config::{AgentConfig, AttachMode, Limits, ServiceConfig};

/// The loaded and pinned data path.
pub struct DataPath {
    pins: PinDir,
    ebpf: Ebpf,
    limits: Limits,
    switch: Doubled<ServiceSwitch>,
    unsaved: Unsaved,
    /// What the next store keeps.
    to_keep: Vec<u8>,
    tables: Tables,
    hop_watch: HopWatch,
    interfaces: InterfaceTable,
    addresses: NodeAddresses,
    adopted: bool,
}

impl DataPath {
    /// Locks the pin directory, then takes over what is pinned there, or makes it.
    ///
    /// Nothing is attached yet, and with new maps the program is not enabled yet either.
    pub fn open(config: &AgentConfig) -> Result<Self, DataPathError> {
        let pins = PinDir::lock(&config.pin_dir)?;
        let (ebpf, adopted) = match load::load(&pins, &config.limits) {
            Ok(loaded) => loaded,
            Err(error) => {
                pins.remove_if_new();
                return Err(error);
            }
        };
        let mut tables = Tables::open(&pins)?;
        tables.set_rates(config.limits.inserts_per_second)?;
        let hop_watch = HopWatch::open(&pins)?;
        Ok(Self {
            switch: Doubled::switch(&pins)?,
            unsaved: Unsaved::open(&pins)?,
            to_keep: Vec::new(),
            tables,
            interfaces: InterfaceTable::open(&pins, hop_watch.clone())?,
            hop_watch,
            addresses: NodeAddresses::open(&pins)?,
            limits: config.limits,
            pins,
            ebpf,
            adopted,
        })
    }

    /// Whether the maps were there already.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Counts frames that are lost after the program's verdict, from now on and without an agent too.
    /// Kernels may refuse it, which harms nothing else; called before [`Self::counters`].
    pub fn count_send_errors(&mut self) -> Result<(), DataPathError> {
        send_errors::attach(&mut self.ebpf, &self.pins)
    }

    /// Tells the program of the node's own addresses, from which no client sends. Returns how many are
    /// beyond what it can be told of.
    pub fn set_node_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<usize, DataPathError> {
        self.addresses.set(addresses.into_iter())
    }

    /// Tells the program of the node's interfaces, by index, and that all others are plain. Returns
    /// those beyond the limit, which it takes for plain ones.
    pub fn set_interfaces(
        &mut self,
        records: impl IntoIterator<Item = (u32, InterfaceRecord)>,
    ) -> Result<Vec<u32>, DataPathError> {
        self.interfaces.set(records.into_iter())
    }

    /// The epoch of next hops, to be raised beside everything that this does.
    #[must_use]
    pub fn hop_watch(&self) -> HopWatch {
        self.hop_watch.clone()
    }

    /// Counters with handles of their own.
    pub fn counters(&self) -> Result<Counters, DataPathError> {
        Counters::open(&self.pins)
    }

    /// An explainer with handles of its own.
    pub fn explainer(&self) -> Result<Explainer, DataPathError> {
        Explainer::open(&self.pins)
    }

    /// A lister of flows with handles of its own.
    pub fn flow_lister(&self) -> Result<FlowLister, DataPathError> {
        FlowLister::open(&self.pins)
    }

    /// The reader of traces; only one may be open.
    pub fn tracer(&self) -> Result<Tracer, DataPathError> {
        Tracer::open(&self.pins)
    }

    /// The reader of what the program reports of backends; only one may be open.
    pub fn reports(&self) -> Result<Reports, DataPathError> {
        Reports::open(&self.pins)
    }

    /// A scanner with handles of its own.
    pub fn scanner(&mut self) -> Result<Scanner, DataPathError> {
        Scanner::open(&mut self.ebpf, &self.pins)
    }

    /// Listeners that are configured no more, and still known.
    #[must_use]
    pub fn removed(&self) -> Vec<RemovedListener> {
        self.tables.image().removed()
    }

    /// Flows in flight by listener id, as `busy` has counted them.
    #[must_use]
    pub fn live_flows(&self, busy: &Busy) -> HashMap<u32, u64> {
        self.tables.image().live_flows(busy)
    }

    /// Names and ids of the services that the maps hold, those of removed listeners too.
    #[must_use]
    pub fn services(&self) -> Vec<(u16, String)> {
        self.tables.image().services()
    }

    /// The switch state of all services, by id; index 0 holds the node's generation.
    pub fn switch_states(&self) -> Result<Vec<ServiceSwitch>, DataPathError> {
        self.switch.read()
    }

    /// Replaces the switch state of all services by one store; returns after the barrier.
    pub fn switch(&mut self, states: &[ServiceSwitch]) -> Result<Replaced, DataPathError> {
        self.prepare_switch(states)?;
        self.commit_switch()
    }

    /// The first half of [`Self::switch`]: writes the states where no packet looks.
    pub fn prepare_switch(&mut self, states: &[ServiceSwitch]) -> Result<(), DataPathError> {
        self.unsaved.write(self.switch.spare(), &self.to_keep)?;
        self.switch.prepare(states)
    }

    /// Has each [`Self::switch`] from now on keep `bytes` with the state, for an agent that comes after this
    /// one and finds that the disk does not know the state.
    pub fn keep_with_switch(&mut self, bytes: Vec<u8>) {
        self.to_keep = bytes;
    }

    /// What is kept with the state that packets see; empty: nothing.
    pub fn kept_with_switch(&self) -> Result<Vec<u8>, DataPathError> {
        self.unsaved.read(1 - self.switch.spare())
    }

    /// Forgets what is kept with the state that packets see, and keeps nothing from now on.
    pub fn forget_kept(&mut self) -> Result<(), DataPathError> {
        self.to_keep.clear();
        self.unsaved.write(1 - self.switch.spare(), &[])
    }

    /// The second half of [`Self::switch`]: the store, and the barrier.
    pub fn commit_switch(&mut self) -> Result<Replaced, DataPathError> {
        self.switch.commit()
    }

    /// Makes the services, listeners and backends that are wanted visible by one store; absent: packets
    /// see nothing new.
    ///
    /// The switch state is not touched: services whose state is not set yet must get it before
    /// their listeners appear, hence `before_visible`, which is called with the ids.
    pub fn apply(
        &mut self,
        wanted: &Wanted<'_>,
        scanner: &mut Scanner,
        before_visible: impl FnOnce(&mut Self, &[(u16, String)]) -> Result<(), DataPathError>,
    ) -> Result<Option<Replaced>, DataPathError> {
        let busy = scanner.busy(self.highest_service())?;
        self.apply_counted(wanted, &busy, before_visible)
    }

    /// As [`Self::apply`], with what flows refer to counted before. An error leaves what packets see as it
    /// was.
    pub fn apply_counted(
        &mut self,
        wanted: &Wanted<'_>,
        busy: &Busy,
        before_visible: impl FnOnce(&mut Self, &[(u16, String)]) -> Result<(), DataPathError>,
    ) -> Result<Option<Replaced>, DataPathError> {
        let evolved = image::evolve(self.tables.image(), wanted, busy, &self.limits)?;
        let configured = wanted.config.services.iter();
        let configured: HashSet<&str> = configured.map(|service| service.name.as_str()).collect();
        let mut services = evolved.image.services();
        services.retain(|(_, name)| configured.contains(name.as_str()));
        before_visible(self, &services)?;
        let installed = self.tables.install(evolved);
        if installed.is_err() {
            // Some of it may be in the maps, where nobody looks.
            self.tables.read_again()?;
        }
        installed
    }

    /// As [`Self::apply`], for another choice among the backends that are configured already: whatever is in
    /// the maps keeps its meaning, so nothing needs to be counted before.
    pub fn apply_uncounted(
        &mut self,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Replaced>, DataPathError> {
        self.apply_counted(wanted, &self.tables.image().busy(), |_, _| Ok(()))
    }

    /// The highest id that a service may have.
    #[must_use]
    pub fn highest_service(&self) -> u16 {
        // The limits keep service ids below 2^16.
        u16::try_from(self.limits.services).unwrap_or(u16::MAX)
    }

    /// Sets how many flows may be recorded per CPU and second.
    pub fn set_inserts_per_second(&mut self, flows: u32) -> Result<(), DataPathError> {
        self.tables.set_rates(flows)?;
        self.limits.inserts_per_second = flows;
        Ok(())
    }

    /// Sets the idle timeouts of a service; those of UDP in milliseconds by color.
    pub fn set_idle(
        &mut self,
        id: u16,
        service: &ServiceConfig,
        udp_ms: [u64; 2],
    ) -> Result<(), DataPathError> {
        self.tables.set_idle(id, service, udp_ms)
    }

    /// Makes these the only orders: those of all other backends are taken back. Flows of preview listeners
    /// are spared.
    pub fn set_orders(&mut self, orders: Orders) -> Result<(), DataPathError> {
        self.tables.set_orders(orders)
    }

    /// Puts this version's programs into their slots, last the one that all dispatchers jump to.
    pub fn enable(&mut self) -> Result<(), DataPathError> {
        program::enable(&mut self.ebpf, &self.pins)
    }

    /// For runners of a program that is not to be enabled: puts only the stages into their slot, which the fast path
    /// leaves packets to.
    pub fn enable_stages(&mut self) -> Result<(), DataPathError> {
        program::fill(&mut self.ebpf, &self.pins, ProgramSlot::Stages)
    }

    /// Attaches to all configured interfaces. When one fails, those that this call attached are
    /// detached again.
    pub fn attach(
        &mut self,
        config: &AgentConfig,
    ) -> Result<Vec<(String, Attached)>, DataPathError> {
        let mut done: Vec<(String, Attached)> = Vec::new();
        for interface in &config.interfaces {
            match self.attach_one(interface, config.mode) {
                Ok(attached) => done.push((interface.clone(), attached)),
                Err(error) => {
                    self.undo_attach(&done)?;
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    fn attach_one(&mut self, name: &str, mode: AttachMode) -> Result<Attached, DataPathError> {
        let attached = links::attach(&mut self.ebpf, &self.pins, name, mode)?;
        if attached == Attached::Now(Mode::Generic)
            && let Some(index) = bpf::ifindex(name)
        {
            self.interfaces.set_generic(index)?;
        }
        Ok(attached)
    }

    /// Detaches what [`Self::attach`] has just attached.
    pub fn undo_attach(&self, done: &[(String, Attached)]) -> Result<(), DataPathError> {
        done.iter()
            .filter(|(_, attached)| matches!(attached, Attached::Now(_)))
            .try_for_each(|(interface, _)| links::detach(&self.pins, interface))
    }

    /// Takes the links of all interfaces off that are not configured any more.
    pub fn detach_others(&self, config: &AgentConfig) -> Result<(), DataPathError> {
        for interface in self.pins.linked_interfaces()? {
            if !config.interfaces.contains(&interface) {
                links::detach(&self.pins, &interface)?;
            }
        }
        Ok(())
    }

    /// Attaches again where an interface went away and came back. Interfaces that are not there are
    /// left for later.
    pub fn reattach(
        &mut self,
        config: &AgentConfig,
    ) -> Vec<(String, Result<Attached, DataPathError>)> {
        let missing: Vec<_> = config
            .interfaces
            .iter()
            .filter(|name| bpf::ifindex(name).is_some() && !links::is_attached(&self.pins, name))
            .cloned()
            .collect();
        missing
            .into_iter()
            .map(|name| {
                let result = self.attach_one(&name, config.mode);
                (name, result)
            })
            .collect()
    }

    /// Whether `interface` carries our program now.
    #[must_use]
    pub fn is_attached(&self, interface: &str) -> bool {
        links::is_attached(&self.pins, interface)
    }

    /// Facts about the loaded program.
    pub fn facts(&mut self) -> Result<ProgramFacts, DataPathError> {
        program::facts(&mut self.ebpf)
    }

    /// Runs frames through the loaded program, with a handle of its own.
    pub fn runner(&mut self) -> Result<Runner, DataPathError> {
        Runner::open(&mut self.ebpf)
    }

    /// As [`Runner::run`].
    pub fn test_run(&mut self, frame: &[u8], ifindex: u32) -> Result<TestRun, DataPathError> {
        self.runner()?.run(frame, ifindex)
    }

    /// The program's warnings as a stream for the agent's log.
    pub fn logger(&mut self) -> Result<ProgramLog, DataPathError> {
        ProgramLog::open(&mut self.ebpf)
    }

    /// Removes links and maps: traffic is no longer translated, all flows are forgotten.
    pub fn remove(self) -> Result<(), DataPathError> {
        self.pins.remove_all()
    }
}

/// A pinned data path without a running agent, for `switcher detach`.
pub struct Pinned {
    path: DataPath,
}

impl Pinned {
    /// Takes over what is pinned in `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self, DataPathError> {
        let pins = PinDir::lock_existing(pin_dir)?;
        let limits = Meta::read(&pins)?.limits();
        drop(pins);
        let config = AgentConfig {
            pin_dir: pin_dir.to_owned(),
            limits,
            ..AgentConfig::default()
        };
        Ok(Self {
            path: DataPath::open(&config)?,
        })
    }

    /// Flows in flight, by service: previews too, and those of services that are configured no more.
    pub fn in_flight(&mut self) -> Result<Vec<(String, u64)>, DataPathError> {
        let names: BTreeMap<u16, String> = self.path.services().into_iter().collect();
        let highest = self.path.highest_service();
        let scan = self.path.scanner()?.scan(highest, false, |_| {})?;
        let flows = |id: u16| {
            let live = scan.in_flight(id);
            live.blue + live.green + scan.preview_flows(id)
        };
        let name = |id: u16| {
            names
                .get(&id)
                .cloned()
                .unwrap_or_else(|| "a removed service".to_owned())
        };
        Ok((1..=highest)
            .filter(|id| flows(*id) > 0)
            .map(|id| (name(id), flows(id)))
            .collect())
    }

    /// Removes it.
    pub fn remove(self) -> Result<(), DataPathError> {
        self.path.remove()
    }
}

/// Removes what is pinned in `pin_dir` without looking at it: works with any version of it.
pub fn remove_pinned(pin_dir: &Path) -> Result<(), DataPathError> {
    PinDir::lock_existing(pin_dir)?.remove_all()
}

/// Ids of the XDP programs that the links in `pin_dir` carry; empty when there are none.
#[must_use]
pub fn own_program_ids(pin_dir: &Path) -> Vec<u32> {
    links::program_ids(pin_dir)
}
