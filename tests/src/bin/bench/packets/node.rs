//! The switcher's data path in a lab's node, and the flows that it has.

mod establish;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use switcher_common::{
    address::{Address, Ipv4, WideAddress},
    clock::ticks_from_ms,
    flow::{FlowEntry, FlowKey},
    reason::Reason,
    service::{Color, Protocol, ServiceSwitch},
    stats::ColorStats,
};
use switcher_tests::{
    bpf::update_batch,
    lab::{FAR_INTERFACE, Family, Lab, Topology},
};
use switcher_userspace::{
    config::{Config, Limits},
    datapath::{DataPath, Leaving, Wanted},
};

use super::{
    frames::{Direction, Ends, Frame, Kind, Part, What, client, foreign, icmp_error, packet},
    replay::{Ingress, Replay, Sizes},
    target::Target,
};

/// Flows that are copied or aged at once.
const AT_ONCE: usize = 32_768;
/// Clients below this number establish their flows.
const FIRST_PASSING: u32 = 8_000_000;
/// The service that is measured; its active color is blue.
const SERVICE: u16 = 1;
const ROUTERS: [&str; 2] = ["203.0.113.9", "2001:db8:ff::9"];

/// The node's interfaces to clients and to blue.
const TO_CLIENTS: &str = "c1";
const TO_BACKENDS: &str = "b";
/// The one to green, which nobody uses.
const PARKED: &str = "g";

/// A flow that is established.
#[derive(Clone, Copy, Debug)]
struct Flow {
    client: SocketAddr,
    backend: SocketAddr,
}

/// A pinned data path, whoever has made it, and what it is measured with.
pub(crate) struct Node<'lab> {
    lab: &'lab Lab,
    pin_dir: PathBuf,
    verdicts: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, ColorStats>,
    unanswered: u32,
    pub(crate) replay: Replay,
    /// To clients, to blue.
    interfaces: [u32; 2],
    protocol: Protocol,
    /// Of IPv4, of IPv6.
    flows: [Vec<Flow>; 2],
    /// How many clients have begun them, by family.
    begun: [u32; 2],
    /// How many flows the floors know.
    floors_know: [usize; 2],
    /// Number of the next client whose flow is not established, by family.
    passing: [u32; 2],
    /// Families whose tables of new flows are full.
    is_flooded: [bool; 2],
}

/// Clients and backends behind routers, so that there can be any number of clients.
pub(crate) fn lab() -> Result<Lab> {
    Lab::builder().topology(Topology::routed()).build()
}

/// Where the lab's data path is pinned.
pub(crate) fn pin_dir(lab: &Lab) -> PathBuf {
    lab.bpffs().join("switcher")
}

/// A data path without an agent, with tables of this size; runs in the node.
pub(crate) fn load(lab: &Lab, limits: Limits) -> Result<DataPath> {
    let text = format!(
        "[agent]\ninterfaces = [\"{TO_CLIENTS}\", \"{TO_BACKENDS}\"]\nmode = \"native\"\npin_dir = \"{}\"\n{}",
        pin_dir(lab).display(),
        service(lab)?
    );
    let mut config = Config::parse(Path::new("made by the bench"), &text)?;
    config.agent.limits = Limits {
        // The harness is a flood.
        inserts_per_second: u32::MAX,
        ..limits
    };
    let mut path = DataPath::open(&config.agent)?;
    let mut scanner = path.scanner()?;
    let wanted = Wanted {
        config: &config,
        drained: &BTreeSet::new(),
        leaving: Leaving::AT_ONCE,
    };
    path.apply(&wanted, &mut scanner, |path, _| {
        // Blue is 0, the active and the base color.
        path.switch(&[ServiceSwitch::default(); SERVICE as usize + 1])
            .map(drop)
    })?;
    let service = config.services.first().context("there is one service")?;
    path.set_idle(SERVICE, service, [service.idle.udp.as_millis(); 2])?;
    path.enable()?;
    path.attach(&config.agent)?;
    Ok(path)
}

impl<'lab> Node<'lab> {
    /// Over the data path that is pinned in the lab and has [`service`] as its first one; runs in the node. The flows
    /// will be of `protocol`.
    pub(crate) fn over(lab: &'lab Lab, protocol: Protocol) -> Result<Self> {
        let pin_dir = pin_dir(lab);
        let interface = |name| lab.node().interface(name).map(|it| it.index);
        let link = pin_dir.join("links").join(TO_CLIENTS);
        let sizes = Sizes {
            established: entries(&pin_dir, "ESTABLISHED4")?,
            unanswered: entries(&pin_dir, "UNANSWERED4")?,
        };
        lab.node().set_up(PARKED, false)?;
        let mut node = Self {
            lab,
            verdicts: Map::PerCpuArray(open(&pin_dir, "VERDICTS")?).try_into()?,
            traffic: Map::PerCpuArray(open(&pin_dir, "TRAFFIC")?).try_into()?,
            unanswered: sizes.unanswered,
            replay: Replay::load(&link, PARKED, sizes)?,
            pin_dir,
            interfaces: [interface(TO_CLIENTS)?, interface(TO_BACKENDS)?],
            protocol,
            flows: [Vec::new(), Vec::new()],
            begun: [0; 2],
            floors_know: [0; 2],
            passing: [FIRST_PASSING; 2],
            is_flooded: [false; 2],
        };
        node.replay.set_target(node.target()?)?;
        Ok(node)
    }

    /// How frames of a kind come in.
    pub(crate) const fn ingress(&self, kind: Kind) -> Ingress {
        let by_backends = matches!(
            kind.what,
            What::Established(_, Direction::Reverse) | What::OneArm(_, Direction::Forward)
        );
        Ingress {
            interface: self.interfaces[by_backends as usize],
            frame_len: kind.frame_len(),
        }
    }

    /// Puts the flows into the lookup floors' tables too, those since the last time.
    pub(crate) fn tell_floors(&mut self, family: Family) -> Result<()> {
        let known = self.floors_know[family as usize];
        let flows = &self.flows(family)[known..];
        match family {
            Family::V4 => self.replay.add_flows_v4(&self.keys(family, flows))?,
            Family::V6 => self.replay.add_flows_v6(&self.keys(family, flows))?,
        }
        self.floors_know[family as usize] = self.flows(family).len();
        Ok(())
    }

    /// The keys of both directions of flows.
    fn keys<A: Address>(&self, family: Family, flows: &[Flow]) -> Vec<FlowKey<A>> {
        let vip = self.vip(family, self.protocol);
        let keys = flows.iter().flat_map(|flow| {
            let forward = Ends {
                from: flow.client,
                to: vip,
            };
            let reverse = Ends {
                from: flow.backend,
                to: flow.client,
            };
            [forward, reverse].map(|ends| key::<A>(self.protocol, ends))
        });
        keys.collect()
    }

    /// Makes the oldest flows as if they had been silent for so much longer.
    pub(crate) fn age_v4(&self, flows: usize, by_ms: u64) -> Result<()> {
        let table = "ESTABLISHED4";
        let raw = open(&self.pin_dir, table)?;
        let flows = &self.flows(Family::V4)[..flows];
        for flows in flows.chunks(AT_ONCE) {
            let keys = self.keys::<Ipv4>(Family::V4, flows);
            let mut entries = self.entries(table, &keys)?;
            for entry in &mut entries {
                entry.last_seen = entry.last_seen.wrapping_sub(ticks_from_ms(by_ms));
            }
            update_batch(raw.fd().as_fd(), &keys, &entries).context("making flows look old")?;
        }
        Ok(())
    }

    /// The entries of `keys` in a flow table.
    fn entries<A: Address>(&self, table: &str, keys: &[FlowKey<A>]) -> Result<Vec<FlowEntry<A>>>
    where
        FlowKey<A>: aya::Pod,
        FlowEntry<A>: aya::Pod,
    {
        let map = Map::from_map_data(open(&self.pin_dir, table)?)?;
        let map: HashMap<_, FlowKey<A>, FlowEntry<A>> = map.try_into()?;
        let entries = keys.iter().map(|key| {
            map.get(key, 0)
                .with_context(|| format!("{table} has no entry of a flow; {}", self.verdicts()))
        });
        entries.collect()
    }

    /// Knows no more of the oldest flows, which are gone.
    pub(crate) fn forget(&mut self, family: Family, flows: usize) {
        self.flows[family as usize].drain(..flows);
    }

    /// Frames of a kind, as many as asked for or as there are flows, in random order.
    pub(crate) fn frames(
        &mut self,
        kind: Kind,
        most: usize,
        random: &mut fastrand::Rng,
    ) -> Result<Vec<Frame>> {
        let family = kind.family;
        let mut flows = self.flows(family).clone();
        random.shuffle(&mut flows);
        flows.truncate(most);
        match kind.what {
            What::Established(protocol, direction) | What::OneArm(protocol, direction) => {
                ensure!(protocol == self.protocol, "the flows are of {protocol:?}");
                self.of_flows(family, direction, &flows)
            }
            What::NewUdp => self.fresh(family, Protocol::Udp, most),
            What::Syn => self.fresh(family, Protocol::Tcp, most),
            What::NotOurs => {
                let foreign = (0..most).map(|_| foreign(random, family));
                let frame = |ends| packet(Protocol::Tcp, ends, Part::FromClient);
                foreign.map(frame).collect()
            }
            What::IcmpError => {
                let router: IpAddr = ROUTERS[family as usize].parse()?;
                let vip = self.vip(family, Protocol::Tcp);
                let frame = |flow: &Flow| {
                    // As the client's side knows the packet.
                    let about = Ends {
                        from: vip,
                        to: flow.client,
                    };
                    icmp_error(router, about)
                };
                flows.iter().map(frame).collect()
            }
        }
    }

    /// Packets of the newest flows, in random order.
    pub(crate) fn frames_of_newest(
        &self,
        family: Family,
        direction: Direction,
        most: usize,
    ) -> Result<Vec<Frame>> {
        let flows = self.flows(family);
        let mut flows = flows[flows.len().saturating_sub(most)..].to_vec();
        fastrand::shuffle(&mut flows);
        self.of_flows(family, direction, &flows)
    }

    fn of_flows(&self, family: Family, direction: Direction, flows: &[Flow]) -> Result<Vec<Frame>> {
        let vip = self.vip(family, self.protocol);
        let frame = |flow: &Flow| {
            let (ends, part) = match direction {
                Direction::Forward => {
                    let ends = Ends {
                        from: flow.client,
                        to: vip,
                    };
                    (ends, Part::FromClient)
                }
                Direction::Reverse => {
                    let ends = Ends {
                        from: flow.backend,
                        to: flow.client,
                    };
                    (ends, Part::FromBackend)
                }
            };
            packet(self.protocol, ends, part)
        };
        flows.iter().map(frame).collect()
    }

    /// First packets of clients that nobody knows, and that nobody will know when they come again: more than the
    /// unanswered table holds.
    fn fresh(&mut self, family: Family, protocol: Protocol, most: usize) -> Result<Vec<Frame>> {
        let host = self.client_host(family);
        let to = self.vip(family, protocol);
        let passing = &mut self.passing[family as usize];
        let first = *passing;
        *passing += u32::try_from(most)?;
        let frame = |index| {
            let from = client(host, index)?;
            packet(protocol, Ends { from, to }, Part::First)
        };
        (first..*passing).map(frame).collect()
    }

    /// What must come of the frame of `sent`, by kind.
    pub(crate) fn becomes(&self, kind: Kind, sent: Ends) -> Option<Ends> {
        let vip = |protocol| self.vip(kind.family, protocol);
        let flow = |client| {
            self.flows(kind.family)
                .iter()
                .find(|it| it.client == client)
        };
        match kind.what {
            What::Established(_, Direction::Forward) | What::OneArm(_, Direction::Forward) => {
                Some(Ends {
                    from: sent.from,
                    to: flow(sent.from)?.backend,
                })
            }
            What::Established(protocol, Direction::Reverse)
            | What::OneArm(protocol, Direction::Reverse) => Some(Ends {
                from: vip(protocol),
                to: sent.to,
            }),
            What::NotOurs => Some(sent),
            What::NewUdp | What::Syn | What::IcmpError => None,
        }
    }

    /// First packets that make the tables of new flows full: from then on each new flow takes the place of an old one,
    /// as in a flood, and after some time without one. 0: they are.
    pub(crate) const fn flood(&mut self, family: Family) -> u32 {
        let is_flooded = &mut self.is_flooded[family as usize];
        if core::mem::replace(is_flooded, true) {
            0
        } else {
            self.unanswered
        }
    }

    /// A map of the data path.
    pub(crate) fn table(&self, name: &str) -> Result<MapData> {
        open(&self.pin_dir, name)
    }

    /// How often the program has given `reason`.
    pub(crate) fn count(&self, reason: Reason) -> Result<u64> {
        let counts = self.verdicts.get(&(reason as u32), 0);
        Ok(counts.context("reading a counter")?.iter().sum())
    }

    /// All counts, for an error.
    pub(crate) fn verdicts(&self) -> String {
        let counts = Reason::ALL.iter().map(|&it| (it.name(), self.count(it)));
        let seen = counts.filter(|(_, count)| !matches!(count, Ok(0)));
        format!("{:?}", seen.collect::<Vec<_>>())
    }

    /// New flows of the service, on its active color.
    pub(crate) fn new_flows(&self) -> Result<u64> {
        let index = ColorStats::index(SERVICE, Color::Blue);
        let stats = self.traffic.get(&index, 0).context("reading a counter")?;
        Ok(stats.iter().map(|it| it.new_flows).sum())
    }

    fn flows(&self, family: Family) -> &Vec<Flow> {
        &self.flows[family as usize]
    }

    fn vip(&self, family: Family, protocol: Protocol) -> SocketAddr {
        SocketAddr::new(self.lab.vip(family, 0), vip_port(protocol))
    }

    fn client_host(&self, family: Family) -> IpAddr {
        self.lab.topology().links[0].far_addresses(family)[0]
    }

    fn target(&self) -> Result<Target> {
        let near = self.lab.node().interface(TO_BACKENDS)?.mac;
        let far = self.lab.host("blue-router")?.interface(FAR_INTERFACE)?.mac;
        let backend = |family| {
            let backends = self.lab.backends(Color::Blue, family);
            backends.first().copied().context("blue has a backend")
        };
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (backend(Family::V4)?, backend(Family::V6)?) else {
            bail!("backends of the wrong family");
        };
        let words = |mac: [u8; 6]| {
            let mut words = [0; 3];
            for (word, bytes) in words.iter_mut().zip(mac.as_chunks().0) {
                *word = u16::from_ne_bytes(*bytes);
            }
            words
        };
        Ok(Target {
            v4: u32::from_ne_bytes(v4.octets()),
            v6: bytemuck::cast(v6.octets()),
            port_be: backend_port(Protocol::Tcp).to_be(),
            destination: words(far),
            source: words(near),
            reserved: 0,
        })
    }
}

fn key<A: Address>(protocol: Protocol, ends: Ends) -> FlowKey<A> {
    let address = |ip| A::narrow(&WideAddress::from_ip(ip));
    FlowKey {
        src: address(ends.from.ip()),
        dst: address(ends.to.ip()),
        src_port_be: ends.from.port().to_be(),
        dst_port_be: ends.to.port().to_be(),
        protocol: protocol as u8,
        reserved: [0; 3],
    }
}

const fn vip_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 80,
        Protocol::Udp => 53,
    }
}

const fn backend_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 8080,
        Protocol::Udp => 5353,
    }
}

fn open(pin_dir: &Path, map: &str) -> Result<MapData> {
    let path = pin_dir.join("maps").join(map);
    MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
}

/// How many entries a map of the data path holds at most.
fn entries(pin_dir: &Path, map: &str) -> Result<u32> {
    Ok(open(pin_dir, map)?.info()?.max_entries())
}

/// The part of a configuration file about the measured service: a listener for each family and protocol.
pub(crate) fn service(lab: &Lab) -> Result<String> {
    let mut text =
        String::from("[[service]]\nname = \"measured\"\n[service.idle]\nudp = \"24h\"\n");
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            write!(
                text,
                "[[service.listener]]\nname = \"{}-{}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"\n",
                protocol.name(),
                family as u8,
                lab.vip(family, 0),
                vip_port(protocol),
                protocol.name()
            )?;
            for color in Color::ALL {
                write!(text, "{} = [", color.name())?;
                for address in lab.backends(color, family) {
                    let port = backend_port(protocol);
                    write!(text, "{{ address = \"{address}\", port = {port} }},")?;
                }
                writeln!(text, "]")?;
            }
        }
    }
    Ok(text)
}
