//! The switcher's data path in a lab's node, without an agent, and flows that its own program has established.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use switcher_common::{
    address::{Address, Ipv4, Ipv6, WideAddress},
    flow::{FlowEntry, FlowKey},
    reason::Reason,
    service::{Color, Protocol, ServiceSwitch},
};
use switcher_tests::lab::{FAR_INTERFACE, Family, Lab, Topology};
use switcher_userspace::{
    config::{Config, Limits},
    datapath::{Counters, DataPath, Leaving, Wanted},
};

use super::{
    frames::{
        Direction, Ends, Frame, Kind, Part, What, client, foreign, frame_len, icmp_error, packet,
    },
    replay::{Ingress, Program, Replay, Sizes},
    target::Target,
};

/// Flows that are established at once: fewer than the unanswered table holds.
const AT_ONCE: usize = 32_768;
/// The service that is measured; its active color is blue.
const SERVICE: u16 = 1;
const ROUTERS: [&str; 2] = ["203.0.113.9", "2001:db8:ff::9"];

/// The node's interfaces to clients and to blue.
const TO_CLIENTS: &str = "c1";
const TO_BACKENDS: &str = "b";

/// A flow that is established.
#[derive(Clone, Copy, Debug)]
struct Flow {
    client: SocketAddr,
    backend: SocketAddr,
}

/// The data path, and what is measured with it.
pub(crate) struct Node<'lab> {
    lab: &'lab Lab,
    pin_dir: PathBuf,
    /// Holds the lock on the pins.
    _path: DataPath,
    counters: Counters,
    pub(crate) replay: Replay,
    /// To clients, to blue.
    interfaces: [u32; 2],
    protocol: Protocol,
    /// Of IPv4, of IPv6.
    flows: [Vec<Flow>; 2],
    unanswered: u32,
    /// Clients that have begun flows which are not kept.
    passing: u32,
}

/// Clients and backends behind routers, so that there can be any number of clients.
pub(crate) fn lab() -> Result<Lab> {
    Lab::builder().topology(Topology::routed()).build()
}

impl<'lab> Node<'lab> {
    /// Loads and attaches it; runs in the node. The flows will be of `protocol`.
    pub(crate) fn start(lab: &'lab Lab, protocol: Protocol) -> Result<Self> {
        let pin_dir = lab.bpffs().join("switcher");
        let config = configuration(lab, &pin_dir)?;
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
        let interface = |name| lab.node().interface(name).map(|it| it.index);
        let link = pin_dir.join("links").join(TO_CLIENTS);
        let sizes = Sizes {
            established: entries(&pin_dir, "ESTABLISHED4")?,
            unanswered: entries(&pin_dir, "UNANSWERED4")?,
        };
        let mut node = Self {
            lab,
            counters: path.counters()?,
            _path: path,
            unanswered: sizes.unanswered,
            replay: Replay::load(&link, sizes)?,
            pin_dir,
            interfaces: [interface(TO_CLIENTS)?, interface(TO_BACKENDS)?],
            protocol,
            flows: [Vec::new(), Vec::new()],
            passing: 1_000_000,
        };
        node.replay.set_target(node.target()?)?;
        Ok(node)
    }

    /// How frames of a kind come in.
    pub(crate) const fn ingress(&self, kind: Kind) -> Ingress {
        let from_backends = matches!(kind.what, What::Established(_, Direction::Reverse));
        Ingress {
            interface: self.interfaces[from_backends as usize],
            frame_len: kind.frame_len(),
        }
    }

    /// Establishes flows until there are as many in `family`, by packets of clients and backends.
    pub(crate) fn establish(&mut self, family: Family, flows: usize) -> Result<()> {
        while self.flows(family).len() < flows {
            let have = self.flows(family).len();
            let more = (flows - have).min(AT_ONCE);
            let before = self.count(Reason::Promoted)?;
            self.establish_some(family, have, more)
                .with_context(|| format!("establishing {more} flows beside {have}"))?;
            let promoted = self.count(Reason::Promoted)? - before;
            ensure!(
                promoted == more as u64,
                "{promoted} of {more} flows were established; {:?}",
                self.counters.verdicts()?
            );
        }
        Ok(())
    }

    fn establish_some(&mut self, family: Family, have: usize, more: usize) -> Result<()> {
        let vip = self.vip(family, self.protocol);
        let host = self.client_host(family);
        let clients = (have..have + more).map(|index| Ok(client(host, u32::try_from(index)?)));
        let clients: Vec<SocketAddr> = clients.collect::<Result<_>>()?;
        let of_clients = |part| -> Result<Vec<Frame>> {
            let ends = clients.iter().map(|&from| Ends { from, to: vip });
            ends.map(|ends| packet(self.protocol, ends, part)).collect()
        };
        let first = of_clients(Part::First)?;
        self.pass_through(family, 0, &first)?;
        let flows = match family {
            Family::V4 => self.begun::<Ipv4>("UNANSWERED4", vip, &clients)?,
            Family::V6 => self.begun::<Ipv6>("UNANSWERED6", vip, &clients)?,
        };
        let answers = flows.iter().map(|flow| Ends {
            from: flow.backend,
            to: flow.client,
        });
        let protocol = self.protocol;
        let answers = answers.map(|ends| packet(protocol, ends, Part::SynAck));
        let answers = answers.collect::<Result<Vec<_>>>()?;
        self.pass_through(family, 1, &answers)?;
        if protocol == Protocol::Tcp {
            let of_clients = clients.iter().map(|&from| Ends { from, to: vip });
            let acks = of_clients.map(|ends| packet(protocol, ends, Part::Ack));
            let acks = acks.collect::<Result<Vec<_>>>()?;
            self.pass_through(family, 0, &acks)?;
        }
        let both = flows.iter().flat_map(|flow| {
            [
                Ends {
                    from: flow.client,
                    to: vip,
                },
                Ends {
                    from: flow.backend,
                    to: flow.client,
                },
            ]
        });
        match family {
            Family::V4 => {
                let keys: Vec<_> = both.map(|ends| key::<Ipv4>(protocol, ends)).collect();
                self.replay.add_flows_v4(&keys)?;
            }
            Family::V6 => {
                let keys: Vec<_> = both.map(|ends| key::<Ipv6>(protocol, ends)).collect();
                self.replay.add_flows_v6(&keys)?;
            }
        }
        self.flows[family as usize].extend(flows);
        Ok(())
    }

    /// Runs each frame once through the switcher's program.
    fn pass_through(&mut self, family: Family, interface: usize, frames: &[Frame]) -> Result<()> {
        let ingress = Ingress {
            interface: self.interfaces[interface],
            frame_len: frame_len(family),
        };
        self.replay.set_frames(frames, ingress.frame_len)?;
        let count = u32::try_from(frames.len())?;
        self.replay.run(Program::Switcher, ingress, count)?;
        Ok(())
    }

    /// The flows of `clients` that have just begun, with the backends that the program has chosen.
    fn begun<A: Address>(
        &self,
        table: &str,
        vip: SocketAddr,
        clients: &[SocketAddr],
    ) -> Result<Vec<Flow>>
    where
        FlowKey<A>: aya::Pod,
        FlowEntry<A>: aya::Pod,
    {
        let map = self.pin_dir.join("maps").join(table);
        let map = MapData::from_pin(&map).with_context(|| format!("opening {}", map.display()))?;
        let map: HashMap<_, FlowKey<A>, FlowEntry<A>> = Map::from_map_data(map)?.try_into()?;
        let flow = |&client: &SocketAddr| {
            let ends = Ends {
                from: client,
                to: vip,
            };
            let entry = map
                .get(&key(self.protocol, ends), 0)
                .with_context(|| format!("no flow of {client}; {:?}", self.counters.verdicts()))?;
            let port = u16::from_be(entry.rewrite_port_be);
            Ok(Flow {
                client,
                backend: SocketAddr::new(entry.rewrite_addr.wide().to_ip(), port),
            })
        };
        clients.iter().map(flow).collect()
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
            What::Established(protocol, direction) => {
                ensure!(protocol == self.protocol, "the flows are of {protocol:?}");
                let vip = self.vip(family, protocol);
                let frame = |flow: &Flow| match direction {
                    Direction::Forward => {
                        let ends = Ends {
                            from: flow.client,
                            to: vip,
                        };
                        packet(protocol, ends, Part::FromClient)
                    }
                    Direction::Reverse => {
                        let ends = Ends {
                            from: flow.backend,
                            to: flow.client,
                        };
                        packet(protocol, ends, Part::FromBackend)
                    }
                };
                flows.iter().map(frame).collect()
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

    /// First packets of clients that nobody knows, and that nobody will know when they come again: more than the
    /// unanswered table holds.
    fn fresh(&mut self, family: Family, protocol: Protocol, most: usize) -> Result<Vec<Frame>> {
        let host = self.client_host(family);
        let to = self.vip(family, protocol);
        let first = self.passing;
        self.passing += u32::try_from(most)?;
        let ends = (first..self.passing).map(|index| Ends {
            from: client(host, index),
            to,
        });
        ends.map(|ends| packet(protocol, ends, Part::First))
            .collect()
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
            What::Established(_, Direction::Forward) => Some(Ends {
                from: sent.from,
                to: flow(sent.from)?.backend,
            }),
            What::Established(protocol, Direction::Reverse) => Some(Ends {
                from: vip(protocol),
                to: sent.to,
            }),
            What::NotOurs => Some(sent),
            What::NewUdp | What::Syn | What::IcmpError => None,
        }
    }

    /// Entries of the unanswered table: more than enough first packets to fill it with flows.
    pub(crate) const fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// How often the program has given `reason`.
    pub(crate) fn count(&self, reason: Reason) -> Result<u64> {
        let counts = self.counters.verdicts()?;
        let found = counts.into_iter().find(|(it, _)| *it == reason);
        Ok(found.map_or(0, |(_, count)| count))
    }

    /// New flows of the service, on its active color.
    pub(crate) fn new_flows(&self) -> Result<u64> {
        Ok(self.counters.traffic(SERVICE, Color::Blue)?.new_flows)
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

/// How many entries a map of the data path holds at most.
fn entries(pin_dir: &Path, map: &str) -> Result<u32> {
    let path = pin_dir.join("maps").join(map);
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(map.info()?.max_entries())
}

/// One service with a listener for each family and protocol; tables of the default sizes.
fn configuration(lab: &Lab, pin_dir: &Path) -> Result<Config> {
    let mut text = format!(
        "[agent]\ninterfaces = [\"{TO_CLIENTS}\", \"{TO_BACKENDS}\"]\nmode = \"native\"\npin_dir = \"{}\"\n\
         [[service]]\nname = \"measured\"\n[service.idle]\nudp = \"24h\"\n",
        pin_dir.display()
    );
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            write!(
                text,
                "[[service.listener]]\nname = \"{}-{family:?}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"\n",
                protocol.name(),
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
    let mut config = Config::parse(Path::new("made by the bench"), &text)?;
    config.agent.limits = Limits {
        // The harness is a flood.
        inserts_per_second: u32::MAX,
        ..Limits::default()
    };
    Ok(config)
}
