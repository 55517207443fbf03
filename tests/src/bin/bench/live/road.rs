//! The way of live frames: from a client's interface through the node to a server's, and back.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, Map, PerCpuArray},
    programs::{Xdp, XdpMode},
};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use switcher_common::{
    address::Ipv4,
    flow::{FlowEntry, FlowKey},
    service::Protocol,
};
use switcher_tests::{
    bpf::update_batch,
    lab::{FAR_INTERFACE, Family, Host, Lab},
};
use switcher_userspace::config::Limits;

use super::{
    frame::{Frame, NOBODY, Says, TTL, client},
    job::{Arrived, Expected, FRAME, Job, SAMPLES, WayOut},
};
use crate::{
    bed::{self, Balancer, Bed, LIVE_PORT, LIVE_SERVER_PORT},
    object::OBJECT,
    programs::Programs,
};

/// Frames that the generator makes before the node gets them; the node's queue holds four times as many.
const BATCH: u32 = 64;

// SAFETY: plain integers without padding.
unsafe impl Pod for Job {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Expected {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Arrived {}
// SAFETY: plain integers without padding.
unsafe impl Pod for WayOut {}

/// What is on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Node {
    Switcher,
    /// An XDP program that knows where to, and nothing else: what the generator, the links and the sink leave for a node.
    Redirect,
    /// The same that looks the flow up before, in a hash map of the switcher's size: what is left for one that has flows.
    Lookup,
    /// An XDP program that routes, and nothing else.
    Router,
    /// Destination NAT with connection tracking.
    Nftables,
    /// The kernel's forwarding.
    IpForward,
}

impl Node {
    pub(crate) const ALL: [Self; 6] = [
        Self::Switcher,
        Self::Redirect,
        Self::Lookup,
        Self::Router,
        Self::Nftables,
        Self::IpForward,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Switcher => "switcher",
            Self::Redirect => "bare XDP redirect",
            Self::Lookup => "bare XDP lookup",
            Self::Router => "bare XDP router",
            Self::Nftables => "nftables DNAT",
            Self::IpForward => "ip_forward",
        }
    }

    const fn balancer(self) -> Balancer {
        match self {
            Self::Switcher => Balancer::Switcher,
            Self::Nftables => Balancer::Nftables,
            Self::Redirect | Self::Lookup | Self::Router | Self::IpForward => Balancer::None,
        }
    }
}

/// A way through the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Reverse,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) way: Way,
    pub(super) says: Says,
    /// The first flow.
    pub(super) first: u32,
    /// The frames go round so many flows.
    pub(super) flows: u32,
    /// They begin with this one, counted from the first.
    pub(super) next: u32,
    pub(super) frames: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) frames: u64,
    pub(super) time: Duration,
}

impl Passed {
    pub(super) fn per_second(&self) -> f64 {
        // Counts of a run are far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let frames = self.frames as f64;
        frames / self.time.as_secs_f64()
    }
}

/// A lab with generators and sinks on both sides of its node.
pub(crate) struct Road<'lab> {
    pub(crate) node: Node,
    lab: &'lab Lab,
    _bed: Bed<'lab>,
    ebpf: Ebpf,
}

impl<'lab> Road<'lab> {
    pub(crate) fn open(lab: &'lab Lab, node: Node, programs: &Programs) -> Result<Self> {
        let bed = Bed::start(lab, node.balancer(), programs)?;
        let mut loader = EbpfLoader::new();
        if node == Node::Lookup {
            loader.map_max_entries("HASH4", 2 * Limits::default().flows);
        }
        let mut ebpf = loader
            .load(OBJECT)
            .context("loading the programs of the bench")?;
        for name in ["generate", "sink", "redirect", "lookup", "router", "pass"] {
            let program = xdp(&mut ebpf, name)?;
            program
                .load()
                .with_context(|| format!("loading the program {name}"))?;
        }
        for host in [lab.client(), lab.blue()] {
            // The sink takes the place of the program that passes everything.
            host.set_takes_redirects(FAR_INTERFACE, true)?;
            attach(&mut ebpf, "sink", host, FAR_INTERFACE)?;
        }
        for interface in ["c1", "b"] {
            match node {
                Node::Switcher => {}
                Node::Redirect => attach(&mut ebpf, "redirect", lab.node(), interface)?,
                Node::Lookup => attach(&mut ebpf, "lookup", lab.node(), interface)?,
                Node::Router => attach(&mut ebpf, "router", lab.node(), interface)?,
                // Frames that are redirected to it are taken only so.
                // Frames that are redirected to an interface are taken where it has a program, or does GRO, which is slower.
                Node::Nftables | Node::IpForward => {
                    attach(&mut ebpf, "pass", lab.node(), interface)?;
                }
            }
        }
        let mut road = Self {
            node,
            lab,
            _bed: bed,
            ebpf,
        };
        road.tell_ways()?;
        Ok(road)
    }

    /// Tells the program that only redirects where to.
    fn tell_ways(&mut self) -> Result<()> {
        let ways = [("c1", "b", self.lab.blue()), ("b", "c1", self.lab.client())];
        let words = |mac: [u8; 6]| {
            let mut words = [0; 3];
            for (word, bytes) in words.iter_mut().zip(mac.as_chunks().0) {
                *word = u16::from_ne_bytes(*bytes);
            }
            words
        };
        for (at, (comes_in_by, leaves_by, to)) in (0..).zip(ways) {
            let node = self.lab.node();
            let leaves_by = node.interface(leaves_by)?;
            let way = WayOut {
                comes_in_by: node.interface(comes_in_by)?.index,
                leaves_by: leaves_by.index,
                destination: words(to.interface(FAR_INTERFACE)?.mac),
                source: words(leaves_by.mac),
            };
            self.set_at("WAYS", at, way)?;
        }
        Ok(())
    }

    /// Lets the program that looks flows up know the first ones, in both directions.
    pub(super) fn know(&self, flows: u32) -> Result<()> {
        let server = endpoint(bed::server(self.lab), LIVE_SERVER_PORT)?;
        let first_client = self.first_client();
        let keys = (0..flows).flat_map(|flow| {
            let client = client(first_client, flow);
            [(client, server), (server, client)].map(|(from, to)| key(from, to))
        });
        let keys: Vec<FlowKey<Ipv4>> = keys.collect();
        let entry = FlowEntry::<Ipv4> {
            state: 1,
            ..FlowEntry::default()
        };
        let map = self.ebpf.map("HASH4").context("no map HASH4")?;
        let Map::HashMap(data) = map else {
            bail!("HASH4 is {map:?}");
        };
        update_batch(data.fd().as_fd(), &keys, &vec![entry; keys.len()])
            .context("filling the map HASH4")
    }

    /// How many packets it has found the flow of.
    pub(super) fn found(&self) -> Result<u64> {
        let counts = self.ebpf.map("KNOWN").context("no map KNOWN")?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(counts)?;
        Ok(counts
            .get(&0, 0)
            .context("asking for lookups")?
            .iter()
            .sum())
    }

    /// Sends `load`; an error unless what arrives is what must.
    pub(super) fn send(&mut self, load: &Load) -> Result<Passed> {
        let [leaving, arriving] = self.frames(load.way, load.says)?;
        let job = leaving.job(self.first_client(), load.first, load.flows)?;
        self.set("JOB", job)?;
        self.set("ROUND", load.next)?;
        self.set("EXPECTED", expected(&arriving))?;
        self.forget()?;
        let time = self.run(load, &leaving.bytes()?)?;
        let arrived = self.arrived()?;
        ensure!(
            arrived.other == 0,
            "{}: {} frames arrived with another end than {}",
            self.node.name(),
            arrived.other,
            arriving.server
        );
        self.check(&arriving, &job, arrived.good)
            .with_context(|| format!("{}: {load:?}", self.node.name()))?;
        Ok(Passed {
            frames: arrived.good,
            time,
        })
    }

    /// As it leaves its sender, and as it must arrive.
    fn frames(&self, way: Way, says: Says) -> Result<[Frame; 2]> {
        let is_reverse = way == Way::Reverse;
        let server = endpoint(bed::server(self.lab), LIVE_SERVER_PORT)?;
        let front = match self.node.balancer() {
            Balancer::None => server,
            _ => endpoint(bed::vip(self.lab), LIVE_PORT)?,
        };
        let mac = |host: &Host, interface| host.interface(interface).map(|it| it.mac);
        let near_client = [
            mac(self.lab.node(), "c1")?,
            mac(self.lab.client(), FAR_INTERFACE)?,
        ];
        let near_server = [
            mac(self.lab.blue(), FAR_INTERFACE)?,
            mac(self.lab.node(), "b")?,
        ];
        let at_client = Frame {
            says,
            is_reverse,
            macs: near_client,
            ttl: TTL,
            client: NOBODY,
            server: front,
        };
        let at_server = Frame {
            macs: near_server,
            server,
            ..at_client
        };
        let turned = |frame: Frame| Frame {
            macs: [frame.macs[1], frame.macs[0]],
            ..frame
        };
        let forwarded = |frame: Frame| Frame {
            ttl: TTL - 1,
            ..frame
        };
        Ok(match way {
            Way::Forward => [at_client, forwarded(at_server)],
            Way::Reverse => [turned(at_server), forwarded(turned(at_client))],
        })
    }

    fn first_client(&self) -> Ipv4Addr {
        let links = &self.lab.topology().links;
        match links[0].far_addresses(Family::V4).first() {
            Some(IpAddr::V4(address)) => *address,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    fn run(&mut self, load: &Load, frame: &[u8; FRAME]) -> Result<Duration> {
        let host = match load.way {
            Way::Forward => self.lab.client(),
            Way::Reverse => self.lab.blue(),
        };
        let ifindex = host.interface(FAR_INTERFACE)?.index;
        let generator: &Xdp = xdp(&mut self.ebpf, "generate")?;
        let mut context = [0; 24];
        let len = u32::try_from(FRAME)?;
        for (field, value) in context
            .chunks_exact_mut(4)
            .zip([0, len, 0, ifindex, 0, 0_u32])
        {
            field.copy_from_slice(&value.to_ne_bytes());
        }
        host.run(|| {
            stay_on_one_processor()?;
            let run = generator
                .test_run(TestRunOptions {
                    data_in: Some(frame),
                    ctx_in: Some(&context),
                    repeat: load.frames,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::default()
                })
                .context("sending live frames")?;
            // The kernel's own: the call takes two grace periods besides. In nanoseconds for each frame.
            Ok(run.duration * load.frames)
        })
    }

    fn check(&mut self, arriving: &Frame, job: &Job, arrived: u64) -> Result<()> {
        let samples = self.ebpf.map("SAMPLE").context("no map SAMPLE")?;
        let samples: Array<_, [u64; FRAME / 8]> = Array::try_from(samples)?;
        let count = u32::try_from(arrived.min(u64::from(SAMPLES)))?;
        for at in 0..count {
            let words = samples.get(&at, 0)?;
            let mut bytes = [0; FRAME];
            for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
                *bytes = word.to_ne_bytes();
            }
            arriving.check(bytes, job)?;
        }
        Ok(())
    }

    fn arrived(&mut self) -> Result<Arrived> {
        let counts = self.ebpf.map("ARRIVED").context("no map ARRIVED")?;
        let counts: PerCpuArray<_, Arrived> = PerCpuArray::try_from(counts)?;
        let all = counts.get(&0, 0).context("asking the sink")?;
        let add = |sum: Arrived, it: &Arrived| Arrived {
            good: sum.good + it.good,
            other: sum.other + it.other,
        };
        Ok(all.iter().fold(Arrived::default(), add))
    }

    fn forget(&mut self) -> Result<()> {
        let counts = self.ebpf.map_mut("ARRIVED").context("no map ARRIVED")?;
        let mut counts: PerCpuArray<_, Arrived> = PerCpuArray::try_from(counts)?;
        let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let zeros = vec![Arrived::default(); processors];
        counts.set(0, zeros.try_into()?, 0)?;
        Ok(())
    }

    fn set<T: Pod>(&mut self, name: &str, value: T) -> Result<()> {
        self.set_at(name, 0, value)
    }

    fn set_at<T: Pod>(&mut self, name: &str, at: u32, value: T) -> Result<()> {
        let what = || format!("writing the map {name}");
        let map = self.ebpf.map_mut(name).with_context(what)?;
        let mut map: Array<_, T> = Array::try_from(map).with_context(what)?;
        map.set(at, value, 0).with_context(what)
    }
}

fn key(from: SocketAddrV4, to: SocketAddrV4) -> FlowKey<Ipv4> {
    let address = |it: &Ipv4Addr| Ipv4(u32::from_ne_bytes(it.octets()));
    FlowKey {
        src: address(from.ip()),
        dst: address(to.ip()),
        src_port_be: from.port().to_be(),
        dst_port_be: to.port().to_be(),
        protocol: Protocol::Tcp as u8,
        reserved: [0; 3],
    }
}

fn expected(arriving: &Frame) -> Expected {
    Expected {
        address: u32::from_ne_bytes(arriving.server.ip().octets()),
        port_be: arriving.server.port().to_be(),
        is_reverse: u16::from(arriving.is_reverse),
    }
}

fn endpoint(address: IpAddr, port: u16) -> Result<SocketAddrV4> {
    match address {
        IpAddr::V4(address) => Ok(SocketAddrV4::new(address, port)),
        IpAddr::V6(address) => anyhow::bail!("{address} is not IPv4"),
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

/// For as long as the object is loaded.
fn attach(ebpf: &mut Ebpf, name: &str, host: &Host, interface: &str) -> Result<()> {
    let program = xdp(ebpf, name)?;
    host.run(|| program.attach(interface, XdpMode::Driver))
        .with_context(|| format!("attaching {name} to {interface} of {}", host.name()))?;
    Ok(())
}

/// The last one, which has less to do for others; and before all that is not in a hurry.
fn stay_on_one_processor() -> Result<()> {
    let last = std::thread::available_parallelism().map_or(0, |it| it.get() - 1);
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).context("staying on one processor")?;
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: of the calling thread, which is a new one; the parameter lives until the call returns.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    ensure!(
        result == 0,
        "asking for real-time priority: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
