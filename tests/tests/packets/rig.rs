//! The loaded program inside a lab's node: frames go in, and every step says what comes out, what
//! is counted, and how the frame looks afterwards.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use switcher_common::rate::Capped;
use switcher_common::reason::{REASON_SLOTS, Reason, Verdict};
use switcher_common::service::{Color, Protocol, ServiceSwitch};
use switcher_tests::lab::{FAR_INTERFACE, Family, Lab};
use switcher_userspace::config::Config;
use switcher_userspace::datapath::{
    Action, Counters, DataPath, Leaving, Runner, Scanner, TestRun, Wanted,
};

use crate::describe;
use crate::flows::{Flow, Flows};
use crate::packet::{Link, Packet};
use crate::setup::{Kind, Setup};

/// The data path of one lab.
pub(crate) struct Rig<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) path: DataPath,
    pub(crate) scanner: Scanner,
    pub(crate) runner: Runner,
    pub(crate) counters: Counters,
    pub(crate) flows: Flows,
    pub(crate) config: Config,
    links: Vec<(&'static str, u32, Link)>,
    /// Interface that frames come in by; `None`: the one that leads to their source.
    pub(crate) ingress: Option<u32>,
}

/// What the program is to do with a frame.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    reason: Reason,
    notes: Vec<Reason>,
    after: After,
}

/// How the frame looks afterwards.
#[derive(Clone, Debug)]
enum After {
    Untouched,
    Packet(Packet),
    Bytes(Vec<u8>),
}

impl Expected {
    /// Sent out of another interface as `packet`.
    pub(crate) fn redirected(packet: Packet) -> Self {
        Self::rewritten(Reason::Redirected, packet)
    }

    /// Rewritten to `packet`, with the verdict of `reason`.
    pub(crate) fn rewritten(reason: Reason, packet: Packet) -> Self {
        Self::new(reason, After::Packet(packet))
    }

    /// Made `bytes`, with the verdict of `reason`.
    pub(crate) fn frame(reason: Reason, bytes: Vec<u8>) -> Self {
        Self::new(reason, After::Bytes(bytes))
    }

    /// Not changed, with the verdict of `reason`.
    pub(crate) fn untouched(reason: Reason) -> Self {
        Self::new(reason, After::Untouched)
    }

    const fn new(reason: Reason, after: After) -> Self {
        Self {
            reason,
            notes: Vec::new(),
            after,
        }
    }

    /// Counted as `reason` too.
    pub(crate) fn noting(mut self, reason: Reason) -> Self {
        self.notes.push(reason);
        self
    }
}

impl Expected {
    /// An error in English unless this is what became of `frame`.
    pub(crate) fn judge(
        &self,
        frame: &[u8],
        run: &TestRun,
        counted: &[(Reason, u64)],
    ) -> Result<()> {
        let wrong = |text: String| format!("{text}\n  sent     {}", describe::frame(frame));
        let mut wanted: Vec<_> = std::iter::once(&self.reason)
            .chain(&self.notes)
            .map(|&reason| (reason, 1))
            .collect();
        wanted.sort_by_key(|(reason, _)| *reason as u32);
        if counted != wanted {
            bail!(wrong(format!("counted {counted:?}, expected {wanted:?}")));
        }
        let action = action(self.reason);
        if run.action != action {
            bail!(wrong(format!("{:?}, expected {action:?}", run.action)));
        }
        let bytes = match &self.after {
            After::Packet(packet) => packet.bytes()?,
            After::Bytes(bytes) => bytes.clone(),
            After::Untouched => frame.to_vec(),
        };
        if let Some(difference) = describe::difference(&bytes, &run.frame) {
            bail!(wrong(format!("the frame is not as expected: {difference}")));
        }
        Ok(())
    }
}

impl<'a> Rig<'a> {
    /// Runs `test` inside the node of `lab`, over the loaded program with [`Setup::plain`].
    pub(crate) fn plain(lab: &Lab, test: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
        Self::with(lab, &Setup::plain(lab), test)
    }

    /// Runs `test` inside the node of `lab`, over the loaded program with `setup`; blue is active.
    pub(crate) fn with(
        lab: &Lab,
        setup: &Setup,
        test: impl FnOnce(&mut Rig) -> Result<()> + Send,
    ) -> Result<()> {
        lab.node().run(|| {
            let mut rig = Rig::new(lab, setup)?;
            test(&mut rig)
        })
    }

    fn new(lab: &'a Lab, setup: &Setup) -> Result<Self> {
        let pin_dir = lab.bpffs().join("switcher");
        let config = setup.config(&pin_dir)?;
        let mut path = DataPath::open(&config.agent)?;
        let mut scanner = path.scanner()?;
        let wanted = Wanted {
            config: &config,
            drained: &BTreeSet::new(),
            leaving: Leaving::AT_ONCE,
        };
        path.apply(&wanted, &mut scanner, |path, ids| {
            let blue = states(&vec![(Color::Blue, Color::Blue); ids.len()]);
            path.switch(&blue).map(drop)
        })?;
        for (id, service) in (1..).zip(&config.services) {
            path.set_idle(id, service, [service.idle.udp.as_millis(); 2])?;
        }
        path.enable()?;
        path.attach(&config.agent)?;
        let mut links = Vec::new();
        for link in &lab.topology().links {
            let near = lab.node().interface(link.node_interface)?;
            let frames = Link {
                destination: lab.host(link.host)?.interface(FAR_INTERFACE)?.mac,
                source: near.mac,
            };
            links.push((link.host, near.index, frames));
        }
        Ok(Self {
            lab,
            scanner,
            runner: path.runner()?,
            counters: path.counters()?,
            flows: Flows::open(&pin_dir)?,
            path,
            config,
            links,
            ingress: None,
        })
    }

    /// An endpoint of the first client.
    pub(crate) fn client(&self, family: Family, port: u16) -> SocketAddr {
        let links = &self.lab.topology().links;
        SocketAddr::new(links[0].far_addresses(family)[0], port)
    }

    /// The node's own address on the link to blue.
    pub(crate) fn node_address(&self, family: Family) -> std::net::IpAddr {
        let links = &self.lab.topology().links;
        let blue = links.iter().find(|link| link.host == "blue");
        blue.unwrap_or(&links[0]).node_address(family)
    }

    /// The VIP of the plain setup.
    pub(crate) fn vip(&self, kind: Kind) -> SocketAddr {
        kind.vip(self.lab, 0)
    }

    /// The one backend of `color` in the plain setup.
    pub(crate) fn backend(&self, kind: Kind, color: Color) -> SocketAddr {
        kind.backends(self.lab, color)[0]
    }

    /// Ethernet addresses of frames from the node to `host`.
    pub(crate) fn link(&self, host: &str) -> Result<Link> {
        self.find_link(host).map(|(_, link)| link)
    }

    /// Index of the node's interface to `host`.
    pub(crate) fn interface(&self, host: &str) -> Result<u32> {
        self.find_link(host).map(|(index, _)| index)
    }

    fn find_link(&self, host: &str) -> Result<(u32, Link)> {
        let found = self.links.iter().find(|(name, ..)| *name == host);
        let (_, index, link) = found.with_context(|| format!("no link to a host {host}"))?;
        Ok((*index, *link))
    }

    /// Makes `color` the active and the base color of all services.
    pub(crate) fn flip(&mut self, color: Color) -> Result<()> {
        let all = vec![(color, color); self.config.services.len()];
        self.switch(&all)
    }

    /// Sets the active and the base color of each service.
    pub(crate) fn switch(&mut self, colors: &[(Color, Color)]) -> Result<()> {
        self.path.switch(&states(colors))?;
        Ok(())
    }

    /// The first call of [`Self::switch`].
    pub(crate) fn prepare_switch(&mut self, colors: &[(Color, Color)]) -> Result<()> {
        self.path.prepare_switch(&states(colors))?;
        Ok(())
    }

    /// The second call of [`Self::switch`].
    pub(crate) fn commit_switch(&mut self) -> Result<()> {
        self.path.commit_switch()?;
        Ok(())
    }

    /// What `packet` becomes on its way to a backend of `color`.
    pub(crate) fn to_backend(&self, packet: &Packet, color: Color) -> Result<Expected> {
        let family = Family::of(packet.to.ip());
        let kind = Kind {
            family,
            protocol: packet.protocol,
        };
        let backend = self.backend(kind, color);
        Ok(Expected::redirected(
            packet.sent_to(backend, self.link(color.name())?),
        ))
    }

    /// What the reply `packet` becomes on its way to the first client.
    pub(crate) fn to_client(&self, packet: &Packet, vip: SocketAddr) -> Result<Expected> {
        Ok(Expected::redirected(
            packet.sent_from(vip, self.link("client")?),
        ))
    }

    /// Lets the node send as many errors of its own as a test provokes.
    pub(crate) fn uncap_own_errors(&self) -> Result<()> {
        self.cap_own_errors([u32::MAX; 2])
    }

    /// How many errors of its own the node may send in a window: time to live over, too large.
    pub(crate) fn cap_own_errors(&self, most: [u32; 2]) -> Result<()> {
        let path = self.config.agent.pin_dir.join("maps/RATE_BUDGETS");
        let mut budgets: Array<_, u32> = MapData::from_pin(&path)
            .and_then(Map::from_map_data)
            .and_then(Array::try_from)
            .with_context(|| format!("opening {}", path.display()))?;
        for (what, budget) in [Capped::TimeExceeded, Capped::TooBig].into_iter().zip(most) {
            budgets.set(what as u32, budget, 0)?;
        }
        Ok(())
    }

    /// Runs a frame through the program.
    pub(crate) fn run(&mut self, frame: &[u8]) -> Result<TestRun> {
        let ingress = match self.ingress {
            Some(index) => index,
            None => self.interface_of(frame),
        };
        Ok(self.runner.run(frame, ingress)?)
    }

    /// The interface to the host that has the frame's source address, else the loopback device.
    fn interface_of(&self, frame: &[u8]) -> u32 {
        let Some(source) = describe::source(frame) else {
            return 0;
        };
        let mut links = self.lab.topology().links.iter();
        let of_source = links.find(|link| link.far_addresses(Family::of(source)).contains(&source));
        of_source
            .and_then(|link| self.interface(link.host).ok())
            .unwrap_or(0)
    }

    /// Runs a frame, and says what was counted.
    pub(crate) fn run_counted(&mut self, frame: &[u8]) -> Result<(TestRun, Vec<(Reason, u64)>)> {
        let before = self.counts()?;
        let run = self.run(frame)?;
        let after = self.counts()?;
        let counted = Reason::ALL.iter().map(|&reason| {
            let at = reason as usize;
            (reason, after[at] - before[at])
        });
        // Where the program is attached, the lab's hosts may send multicast of their own meanwhile.
        let is_multicast = frame.first().is_some_and(|byte| byte & 1 == 1);
        let is_of_frame = |(reason, count): &(Reason, u64)| {
            *count > 0 && (is_multicast || *reason != Reason::LinkMulticast)
        };
        Ok((run, counted.filter(is_of_frame).collect()))
    }

    fn counts(&self) -> Result<[u64; REASON_SLOTS as usize]> {
        let mut counts = [0; REASON_SLOTS as usize];
        for (reason, count) in self.counters.verdicts()? {
            counts[reason as usize] = count;
        }
        Ok(counts)
    }

    /// Runs `packet`; an error in English when anything else than `expected` happens.
    pub(crate) fn expect(
        &mut self,
        what: &str,
        packet: &Packet,
        expected: &Expected,
    ) -> Result<()> {
        self.expect_frame(what, &packet.bytes()?, expected)
    }

    /// As [`Self::expect`], for a frame that is no whole packet.
    pub(crate) fn expect_frame(
        &mut self,
        what: &str,
        frame: &[u8],
        expected: &Expected,
    ) -> Result<()> {
        let (run, counted) = self.run_counted(frame)?;
        expected
            .judge(frame, &run, &counted)
            .with_context(|| what.to_owned())
    }

    /// The flow of a packet from the client; an error when there is none.
    pub(crate) fn flow(&self, packet: &Packet) -> Result<Flow> {
        let flow = self.flows.of(packet)?;
        flow.with_context(|| format!("no flow of {} > {}", packet.from, packet.to))
    }

    /// Makes the half-open flow of a packet as if it had just been seen, in the future: its SYN again is then no
    /// SYN that was left unanswered, however slow this machine is.
    pub(crate) fn just_seen(&mut self, packet: &Packet) -> Result<()> {
        self.flows.age(packet, 0_u32.wrapping_sub(1 << 20))
    }

    /// An error unless the tables hold exactly `flows` flows.
    pub(crate) fn expect_flows(&self, what: &str, flows: usize) -> Result<()> {
        let (entries, alone) = (self.flows.entries(), self.flows.alone()?);
        ensure!(
            entries + alone == 2 * flows,
            "{what}: the tables hold {entries} entries, {alone} of them alone, expected {flows} flows"
        );
        Ok(())
    }
}

/// The switch state of services 1, 2, .. by their active and base colors.
pub(crate) fn states(colors: &[(Color, Color)]) -> Vec<ServiceSwitch> {
    let of_services = colors.iter().map(|&(active, base)| ServiceSwitch {
        active: active as u8,
        base: base as u8,
        ..ServiceSwitch::default()
    });
    std::iter::once(ServiceSwitch::default())
        .chain(of_services)
        .collect()
}

/// The verdict that goes with a reason.
fn action(reason: Reason) -> Action {
    match reason.verdict() {
        Verdict::Pass | Verdict::Note => Action::Pass,
        Verdict::Tx => Action::Tx,
        Verdict::Redirect => Action::Redirect,
        Verdict::Drop => Action::Drop,
    }
}

/// A first packet of a client: a SYN with sequence number 1000, or a datagram.
pub(crate) fn first(kind: Kind, from: SocketAddr, to: SocketAddr) -> Packet {
    match kind.protocol {
        Protocol::Tcp => Packet::tcp(from, to, crate::packet::SYN, 1_000, 0),
        Protocol::Udp => Packet::udp(from, to),
    }
}
