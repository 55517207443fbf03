//! Builds a lab: namespaces first, then the node, then link after link.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::directory::LabDirectory;
use super::host::Host;
use super::namespace::BaseMounts;
use super::sys::{self, Offload};
use super::topology::{FAR_INTERFACE, Link, Role, Topology};
use super::{Lab, cancel, netlink};

/// The kernel needs a second at most.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// The node's place in the list of hosts.
pub(super) const NODE: usize = 0;

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
        let Topology { vip_count, mtu, .. } = self.topology;
        self.topology = Topology {
            vip_count,
            mtu,
            ..Topology::two_colors(count)
        };
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
        }
        set_up_node(lab.node(), &self.topology).context("setting up host node")?;
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
        let names = std::iter::once("node").chain(self.topology.links.iter().map(|it| it.host));
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

    fn connect(&self, lab: &Lab, link: &Link) -> Result<()> {
        let (node, far) = (lab.node(), lab.host(link.host)?);
        add_link(
            node,
            link.node_interface,
            far,
            FAR_INTERFACE,
            self.topology.mtu,
        )?;
        set_up_far(far, link)?;
        set_up_near(node, link)?;
        wait_until_ready(node, link.node_interface)?;
        wait_until_ready(far, FAR_INTERFACE)?;
        if self.permanent_neighbours {
            let (near_mac, far_mac) = (
                node.interface(link.node_interface)?.mac,
                far.interface(FAR_INTERFACE)?.mac,
            );
            let (near, behind) = (link.node_prefixes(), link.far_prefixes());
            far.block_on(
                async move { netlink::add_neighbours(FAR_INTERFACE, near_mac, &near).await },
            )?;
            let interface = link.node_interface;
            node.block_on(
                async move { netlink::add_neighbours(interface, far_mac, &behind).await },
            )?;
        }
        // Last, so that the node needs no route to a VIP whose host is not ready.
        add_default_routes(far, link)
    }
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
        set_offloads(host, name, receive)
            .with_context(|| format!("setting the offloads of {name} on host {}", host.name()))?;
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
    host.run(|| {
        wanted.into_iter().try_for_each(|(offload, on)| {
            sys::set_offload(interface, offload, on)
                .with_context(|| format!("setting {offload:?} to {on}"))
        })
    })
}

/// Before any interface exists, so that each takes the defaults over. Without duplicate address
/// detection link-local addresses, which ask for neighbours, are usable at once too.
const ALL_HOSTS: [(&str, &str); 8] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
];

const NODE_ONLY: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

fn set_up_node(node: &Host, topology: &Topology) -> Result<()> {
    node.set_sysctls(&NODE_ONLY)?;
    let vips = topology.vip_prefixes();
    node.block_on(async move {
        netlink::set_up("lo").await?;
        netlink::add_addresses("lo", &vips).await
    })
}

/// The node's end of a link. A translated reply that the stack forwards has a VIP, an address of
/// the node itself, as its source: without `accept_local` it is dropped.
fn set_up_near(node: &Host, link: &Link) -> Result<()> {
    let (name, addresses) = (link.node_interface, link.node_prefixes());
    node.set_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    if let Role::Backends(_) = link.role {
        node.set_sysctl(&format!("net/ipv4/conf/{name}/accept_local"), "1")?;
    }
    node.block_on(async move {
        netlink::add_addresses(name, &addresses).await?;
        netlink::set_up(name).await
    })
}

fn set_up_far(far: &Host, link: &Link) -> Result<()> {
    far.set_sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    far.set_sysctl(&format!("net/ipv4/conf/{FAR_INTERFACE}/rp_filter"), "0")?;
    let addresses = link.far_prefixes();
    far.block_on(async move {
        netlink::set_up("lo").await?;
        netlink::add_addresses(FAR_INTERFACE, &addresses).await?;
        netlink::set_up(FAR_INTERFACE).await
    })
}

fn wait_until_ready(host: &Host, name: &'static str) -> Result<()> {
    let ready = async move { tokio::time::timeout(READY_LIMIT, netlink::ready(name)).await };
    host.block_on(ready)
        .with_context(|| format!("interface {name} is not ready after {READY_LIMIT:?}"))?
        .with_context(|| format!("waiting for interface {name} on host {}", host.name()))
}

fn add_default_routes(far: &Host, link: &Link) -> Result<()> {
    for gateway in super::Family::ALL.map(|family| link.node_address(family)) {
        far.block_on(async move { netlink::add_default_route(gateway).await })?;
    }
    Ok(())
}
