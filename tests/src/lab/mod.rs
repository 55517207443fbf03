//! A laboratory of network namespaces: two clients, a node, one host for each color.
//!
//! ```text
//! client  eth0 ---- c1 +------+ b ---- eth0  blue
//!                      | node |
//! client2 eth0 ---- c2 +------+ g ---- eth0  green
//! ```
//!
//! Clients and colors reach everything by their default route over the node, which forwards. The
//! VIPs are addresses of the node's `lo`. Every end of every link has checksum and segmentation
//! offloads off, and the far ends have GRO on and an XDP program that passes everything, as native
//! XDP on veth needs. This is the default [`Topology`]; others have one interface of the node for
//! all, more networks, or routers between.
//!
//! Nothing of it exists outside: the namespaces have no name and live by descriptors and threads
//! of this process, the bpffs is mounted in a mount namespace of the lab, children are killed
//! with the thread that started them. So the kernel takes all of it away however this process
//! ends. One temporary directory remains after SIGKILL; the next run removes it.
//!
//! Each lab is independent of all others, so tests that use one may run in parallel. Tests start
//! with [`skip_unless_lab!`](crate::skip_unless_lab).

mod builder;
pub mod cancel;
mod child;
mod directory;
mod host;
mod namespace;
mod netlink;
mod ports;
mod requirements;
mod sys;
mod topology;
mod wiring;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use switcher_common::service::Color;

pub use builder::{LabBuilder, add_link};
pub use child::LabChild;
use directory::LabDirectory;
pub use host::Host;
pub use netlink::Interface;
pub use ports::{FIRST_PORT, Ports};
pub use requirements::{Skip, report_skip, requirements};
pub use sys::Offload;
pub use topology::{FAR_INTERFACE, Family, Link, Role, Router, Topology};

/// A running lab; dropping it kills what runs inside and removes everything.
pub struct Lab {
    hosts: Vec<Host>,
    topology: Topology,
    bpffs: PathBuf,
    // Declared last, so removed when no host needs it any more.
    directory: LabDirectory,
}

impl Lab {
    /// A lab with the default options, to be changed.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder::new()
    }

    /// The load balancer, with the interfaces `c1`, `c2`, `b` and `g`.
    #[must_use]
    pub fn node(&self) -> &Host {
        &self.hosts[0]
    }

    /// The first client.
    ///
    /// # Panics
    /// Where the lab was built with a topology that has no such host.
    #[must_use]
    pub fn client(&self) -> &Host {
        self.known("client")
    }

    /// The second client; panics as [`Lab::client`] does.
    #[must_use]
    pub fn client2(&self) -> &Host {
        self.known("client2")
    }

    /// The host of the blue backends; panics as [`Lab::client`] does.
    #[must_use]
    pub fn blue(&self) -> &Host {
        self.color(Color::Blue)
    }

    /// The host of the green backends; panics as [`Lab::client`] does.
    #[must_use]
    pub fn green(&self) -> &Host {
        self.color(Color::Green)
    }

    /// The host of the backends of `color`; panics as [`Lab::client`] does.
    #[must_use]
    pub fn color(&self, color: Color) -> &Host {
        self.known(color.name())
    }

    /// The host `name`.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let found = self.hosts.iter().find(|host| host.name() == name);
        found.with_context(|| format!("no host {name} in this lab; see Topology"))
    }

    fn known(&self, name: &str) -> &Host {
        self.host(name)
            .expect("callers use it with the default topology's hosts")
    }

    /// The host at the far end of a link that has `address` there.
    pub fn host_of(&self, address: IpAddr) -> Result<&Host> {
        let family = Family::of(address);
        let mut links = self.topology.links.iter();
        let link = links.find(|link| link.far_addresses(family).contains(&address));
        let link =
            link.with_context(|| format!("no host of this lab has the address {address}"))?;
        self.host(link.host)
    }

    /// Names, numbers and addresses.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// VIP number `index` of `family`, counted from 0.
    ///
    /// # Panics
    /// Where the lab has fewer.
    #[must_use]
    pub fn vip(&self, family: Family, index: u8) -> IpAddr {
        self.topology.vip(family, index)
    }

    /// IPv4 VIP number `index`; panics as [`Lab::vip`] does.
    #[must_use]
    pub fn vip4(&self, index: u8) -> IpAddr {
        self.vip(Family::V4, index)
    }

    /// IPv6 VIP number `index`; panics as [`Lab::vip`] does.
    #[must_use]
    pub fn vip6(&self, index: u8) -> IpAddr {
        self.vip(Family::V6, index)
    }

    /// The backend addresses of `color` and `family`.
    #[must_use]
    pub fn backends(&self, color: Color, family: Family) -> Vec<IpAddr> {
        let links = self.topology.links.iter();
        let ours = links.filter(|link| link.role == Role::Backends(color));
        ours.flat_map(|link| link.far_addresses(family)).collect()
    }

    /// Blue's IPv4 backend addresses.
    #[must_use]
    pub fn blue_backends_v4(&self) -> Vec<IpAddr> {
        self.backends(Color::Blue, Family::V4)
    }

    /// Blue's IPv6 backend addresses.
    #[must_use]
    pub fn blue_backends_v6(&self) -> Vec<IpAddr> {
        self.backends(Color::Blue, Family::V6)
    }

    /// Green's IPv4 backend addresses.
    #[must_use]
    pub fn green_backends_v4(&self) -> Vec<IpAddr> {
        self.backends(Color::Green, Family::V4)
    }

    /// Green's IPv6 backend addresses.
    #[must_use]
    pub fn green_backends_v6(&self) -> Vec<IpAddr> {
        self.backends(Color::Green, Family::V6)
    }

    /// The lab's own bpffs. Only hosts see it: their threads ([`Host::run`], [`Host::spawn`]) and
    /// children, who find it at `/sys/fs/bpf` as well.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// A directory for sockets, state and configuration files, seen by all.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = host::kill_members(&self.hosts) {
            eprintln!("ending what runs in the lab: {error:#}");
        }
    }
}
