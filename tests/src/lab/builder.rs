//! Builds a lab: namespaces first, then the node, then link after link.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::directory::LabDirectory;
use super::host::Host;
use super::namespace::BaseMounts;
use super::sys::{self, Offload};
use super::topology::{Link, NODE, Role, SWITCH, Topology};
use super::wiring::{End, Wire};
use super::{Lab, cancel, netlink};

/// The kernel needs a second at most.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// The largest MTU with which a veth takes XDP programs that know no frags, in bytes.
const SINGLE_BUFFER_MTU: u32 = 3506;
/// The switch's port to the node.
const UPLINK: &str = "uplink";

/// Options of a lab; the defaults are those of the end-to-end tests.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    topology: Topology,
    permanent_neighbours: bool,
}

impl LabBuilder {
    pub(super) fn new() -> Self {
        Self {
            topology: Topology::two_colors(2),
            permanent_neighbours: true,
        }
    }

    /// How many addresses of each family the blue and the green host have each (default 2).
    #[must_use]
    pub fn backends_per_color(mut self, count: u8) -> Self {
        self.topology.links = Topology::two_colors(count).links;
        self
    }

    /// How many VIPs of each family the node has on `lo` (default 3, at most 250).
    #[must_use]
    pub const fn vip_count(mut self, count: u8) -> Self {
        self.topology.vip_count = count;
        self
    }

    /// MTU of all links in bytes (default 1500); native XDP without frags needs 3506 or less.
    #[must_use]
    pub const fn mtu(mut self, bytes: u32) -> Self {
        self.topology.mtu = bytes;
        self
    }

    /// Whether all neighbours are entered for good (default) or resolved by ARP and NDP.
    #[must_use]
    pub const fn permanent_neighbours(mut self, permanent: bool) -> Self {
        self.permanent_neighbours = permanent;
        self
    }

    /// A topology of the caller's own.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// Builds the lab; needs root.
    pub fn build(self) -> Result<Lab> {
        ensure!(
            self.topology.vip_count <= 250,
            "a lab has at most 250 VIPs of each family"
        );
        cancel::watch()?;
        allow_many_descriptors()?;
        let directory = LabDirectory::new()?;
        let lab = self.start_hosts(directory)?;
        for host in &lab.hosts {
            host.set_sysctls(&ALL_HOSTS)?;
            host.block_on(netlink::set_up("lo"))?;
        }
        for router in self.topology.routers() {
            lab.host(router)?.set_sysctls(&FORWARDING)?;
        }
        set_up_node(lab.node(), &self.topology).context("setting up host node")?;
        for name in self.topology.shared_interfaces() {
            self.add_switch(&lab, name)
                .with_context(|| format!("setting up the switch at {name}"))?;
        }
        for link in &self.topology.links {
            self.connect(&lab, link)
                .with_context(|| format!("connecting host {} to the node", link.host))?;
        }
        Ok(lab)
    }

    fn start_hosts(&self, directory: LabDirectory) -> Result<Lab> {
        let bpffs = directory.path().join("bpf");
        std::fs::create_dir(&bpffs).with_context(|| format!("making {}", bpffs.display()))?;
        let base = Arc::new(BaseMounts::new(&bpffs)?);
        let names = self.topology.hosts().into_iter();
        let hosts = names
            .map(|name| Host::start(name, &base, &bpffs))
            .collect::<Result<_>>()?;
        Ok(Lab {
            hosts,
            topology: self.topology.clone(),
            bpffs,
            directory,
        })
    }

    /// The interface `name` of the node, connected to a bridge of the same name on the switch.
    fn add_switch(&self, lab: &Lab, name: &'static str) -> Result<()> {
        let switch = lab.host(SWITCH)?;
        switch.block_on(netlink::add_bridge(name))?;
        let mtu = self.topology.mtu;
        add_link(lab.node(), name, switch, UPLINK, mtu)?;
        take_transmitted_frames(switch, UPLINK, mtu)?;
        switch.block_on(netlink::join_bridge(UPLINK, name))
    }

    fn connect(&self, lab: &Lab, link: &Link) -> Result<()> {
        for wire in link.wires() {
            self.add_wire(lab, &wire)?;
        }
        if let Role::Backends(_) = link.role {
            accept_own_addresses(lab.node(), link.node_interface)?;
        }
        for route in link.routes() {
            let host = lab.host(route.host)?;
            host.block_on(async move { netlink::add_route(&route).await })?;
        }
        Ok(())
    }

    fn add_wire(&self, lab: &Lab, wire: &Wire) -> Result<()> {
        let [near, far] = &wire.ends;
        let (near_host, far_host) = (lab.host(near.host)?, lab.host(far.host)?);
        let mtu = wire.mtu.unwrap_or(self.topology.mtu);
        if near.host == NODE && self.topology.shared_interfaces().contains(near.interface) {
            let (switch, port, bridge) = (lab.host(SWITCH)?, far.host, near.interface);
            add_link(switch, port, far_host, far.interface, mtu)?;
            switch.block_on(netlink::join_bridge(port, bridge))?;
        } else {
            add_link(near_host, near.interface, far_host, far.interface, mtu)?;
            take_transmitted_frames(far_host, far.interface, mtu)?;
        }
        for (host, end) in [(near_host, near), (far_host, far)] {
            set_up(host, end.clone())?;
        }
        for (host, end) in [(near_host, near), (far_host, far)] {
            wait_until_ready(host, end.interface)?;
        }
        if self.permanent_neighbours {
            introduce(near_host, near, far_host, far)?;
            introduce(far_host, far, near_host, near)?;
        }
        Ok(())
    }
}

/// Makes `other` a permanent neighbour of `host`.
fn introduce(host: &Host, end: &End, other: &Host, other_end: &End) -> Result<()> {
    let mac = other.interface(other_end.interface)?.mac;
    let (interface, addresses) = (end.interface, other_end.addresses.clone());
    host.block_on(async move { netlink::add_neighbours(interface, mac, &addresses).await })
}

/// Servers and clients of a load live in one process; the usual soft limit of 1024 is for less.
fn allow_many_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit of open files")
}

/// Connects two hosts, of one lab or of two, by a veth pair that is down yet; the far end may be redirected to.
pub fn add_link(near: &Host, near_name: &str, far: &Host, far_name: &str, mtu: u32) -> Result<()> {
    let (here, there) = (near_name.to_owned(), far_name.to_owned());
    let peer: Arc<OwnedFd> = far.network_namespace();
    near.block_on(async move { netlink::add_veth(&here, &there, peer, mtu).await })?;
    for (host, name, receive) in [(near, near_name, false), (far, far_name, true)] {
        set_offloads(host, name, receive)?;
    }
    Ok(())
}

/// No frame may reach an XDP program that is too large, or whose checksum is not computed yet;
/// and frames that XDP redirects to a veth vanish unless its peer does GRO. On the node GRO stays
/// off: a program in generic mode would be shown frames larger than any link takes.
fn set_offloads(host: &Host, interface: &str, receive: bool) -> Result<()> {
    let wanted = [
        (Offload::TcpSegmentation, false),
        (Offload::GenericSegmentation, false),
        (Offload::TxChecksum, false),
        (Offload::GenericReceive, receive),
    ];
    wanted
        .into_iter()
        .try_for_each(|(offload, on)| host.set_offload(interface, offload, on))
}

/// A veth that is sent frames by `XDP_TX` looks at them at once only if it has a program itself;
/// without, they wait until some other frame comes.
fn take_transmitted_frames(host: &Host, interface: &'static str, mtu: u32) -> Result<()> {
    let program = sys::load_pass_program(mtu > SINGLE_BUFFER_MTU)
        .context("loading an XDP program that passes everything")?;
    host.block_on(async move { netlink::attach_native(interface, program).await })
}

/// Before any interface exists, so that each takes the defaults over. Without duplicate address
/// detection link-local addresses, which ask for neighbours, are usable at once too.
const ALL_HOSTS: [(&str, &str); 10] = [
    // Sockets for echo requests.
    ("net/ipv4/ping_group_range", "0 0"),
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
];

const FORWARDING: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

fn set_up_node(node: &Host, topology: &Topology) -> Result<()> {
    node.set_sysctls(&FORWARDING)?;
    let addresses = topology.lo_addresses();
    node.block_on(async move { netlink::add_addresses("lo", &addresses).await })
}

/// A translated reply that the stack forwards has a VIP, an address of the node itself, as its
/// source: without this it is dropped.
fn accept_own_addresses(node: &Host, interface: &str) -> Result<()> {
    node.set_sysctl(&format!("net/ipv4/conf/{interface}/accept_local"), "1")
}

fn set_up(host: &Host, end: End) -> Result<()> {
    host.block_on(async move {
        netlink::add_addresses(end.interface, &end.addresses).await?;
        netlink::set_up(end.interface).await
    })
}

fn wait_until_ready(host: &Host, name: &'static str) -> Result<()> {
    let ready = async move { tokio::time::timeout(READY_LIMIT, netlink::ready(name)).await };
    host.block_on(ready)
        .with_context(|| format!("interface {name} is not ready after {READY_LIMIT:?}"))?
        .with_context(|| format!("waiting for interface {name} on host {}", host.name()))
}
