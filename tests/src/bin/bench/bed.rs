//! A lab with one balancer, or none, on its node. All beds are built alike, so that only what is on the node differs.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{IpAddr, SocketAddr, TcpStream},
    ops::RangeInclusive,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Lab, LabChild, Link, Offload, Role, Topology},
    node::Node,
};

use crate::programs::Programs;

/// Ports of listeners, and of the web server behind them: each is used for one run, so that none meets another's
/// connections in `TIME_WAIT`.
pub(crate) const WEB_PORTS: RangeInclusive<u16> = 8_001..=8_020;
/// Ports of listeners for bulk data, likewise.
pub(crate) const BULK_PORTS: RangeInclusive<u16> = 8_021..=8_030;
/// Port of the listeners for live frames, TCP and UDP.
pub(crate) const LIVE_PORT: u16 = 7_000;
/// Port of the server behind them.
pub(crate) const LIVE_SERVER_PORT: u16 = 7_001;
/// A port that tells whether all is ready.
const PROBE_PORT: u16 = 8_000;
/// Until a balancer is ready.
const LIMIT: Duration = Duration::from_secs(20);
/// Addresses of the client.
const CLIENT_ADDRESSES: RangeInclusive<u8> = 2..=65;

/// What stands between clients and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Balancer {
    /// Ours.
    Switcher,
    /// Destination NAT with connection tracking.
    Nftables,
    /// In TCP mode.
    Haproxy,
    /// The node forwards, and clients know the server.
    None,
}

impl Balancer {
    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Switcher => "switcher",
            Self::Nftables => "nftables",
            Self::Haproxy => "HAProxy",
            Self::None => "no balancer",
        }
    }
}

/// Offloads of all interfaces of a bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Offloads {
    /// What native XDP on veth leaves, for everybody: no segmentation and no checksums by the device.
    Native,
    /// What veth has without XDP. Nothing is ever segmented then.
    Default,
}

/// The lab of a bed.
pub(crate) fn lab(offloads: Offloads) -> Result<Lab> {
    let link = |host, role, node_interface, number, far| Link {
        host,
        role,
        node_interface,
        number,
        far,
        router: None,
    };
    let color = |color: Color, interface, number| {
        link(
            color.name(),
            Role::Backends(color),
            interface,
            number,
            vec![11],
        )
    };
    let topology = Topology {
        links: vec![
            link("client", Role::Client, "c1", 1, CLIENT_ADDRESSES.collect()),
            color(Color::Blue, "b", 3),
            color(Color::Green, "g", 4),
        ],
        vip_count: 1,
        ..Topology::two_colors(1)
    };
    let lab = Lab::builder().topology(topology).build()?;
    if offloads == Offloads::Default {
        give_offloads(&lab)?;
    }
    Ok(lab)
}

/// As veth comes.
fn give_offloads(lab: &Lab) -> Result<()> {
    for link in &lab.topology().links {
        let far = lab.host(link.host)?;
        far.set_takes_redirects(FAR_INTERFACE, false)?;
        for (host, interface) in [(lab.node(), link.node_interface), (far, FAR_INTERFACE)] {
            for offload in [
                Offload::TxChecksum,
                Offload::GenericSegmentation,
                Offload::TcpSegmentation,
            ] {
                host.set_offload(interface, offload, true)?;
            }
        }
    }
    Ok(())
}

/// A lab whose balancer runs.
pub(crate) struct Bed<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) balancer: Balancer,
    /// They run as long as the bed is there.
    _node: Option<Node<'lab>>,
    _haproxy: Option<LabChild>,
}

impl<'lab> Bed<'lab> {
    /// Starts the balancer.
    pub(crate) fn start(lab: &'lab Lab, balancer: Balancer, programs: &Programs) -> Result<Self> {
        let (mut node, mut haproxy) = (None, None);
        match balancer {
            Balancer::Switcher => node = Some(start_switcher(lab)?),
            Balancer::Nftables => start_nftables(lab, programs)?,
            Balancer::Haproxy => haproxy = Some(start_haproxy(lab, programs)?),
            Balancer::None => {}
        }
        Ok(Self {
            lab,
            balancer,
            _node: node,
            _haproxy: haproxy,
        })
    }

    /// Where clients connect to, for the server at `port`.
    pub(crate) fn target(&self, port: u16) -> SocketAddr {
        let address = match self.balancer {
            Balancer::None => server(self.lab),
            _ => vip(self.lab),
        };
        SocketAddr::new(address, port)
    }

    /// Waits until the server at [`PROBE_PORT`] is reached; who connects before is refused, and nothing tells when.
    pub(crate) fn wait_until_ready(&self, server: &mut LabChild) -> Result<()> {
        const PATIENCE: Duration = Duration::from_millis(20);
        let target = self.target(PROBE_PORT);
        let deadline = Instant::now() + LIMIT;
        let connect = || {
            self.lab
                .client()
                .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(1)))
        };
        while let Err(error) = connect() {
            if let Some(status) = server.wait(PATIENCE)? {
                bail!("the server ended with {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "{target} is not reached through {} after {LIMIT:?}: {error}",
                self.balancer.name()
            );
        }
        Ok(())
    }
}

/// The address of the listeners.
pub(crate) fn vip(lab: &Lab) -> IpAddr {
    lab.vip(Family::V4, 0)
}

/// The address of the servers.
pub(crate) fn server(lab: &Lab) -> IpAddr {
    lab.backends(Color::Blue, Family::V4)[0]
}

/// The ports of the web server, that of the probe too.
pub(crate) fn web_ports() -> RangeInclusive<u16> {
    PROBE_PORT..=*WEB_PORTS.end()
}

/// The ports of all listeners.
const ALL_PORTS: RangeInclusive<u16> = PROBE_PORT..=*BULK_PORTS.end();

fn start_switcher(lab: &Lab) -> Result<Node<'_>> {
    let mut node = Node::configured(lab, &switcher_configuration(lab))?;
    node.start_agent()?;
    Ok(node)
}

/// Limits are the defaults, but for the rate of new flows: that is what is measured.
fn switcher_configuration(lab: &Lab) -> String {
    let dir = lab.dir().display();
    let mut text = format!(
        "[agent]\n\
         interfaces = {:?}\n\
         mode = \"native\"\n\
         socket = \"{dir}/switcher.sock\"\n\
         pin_dir = \"{}/switcher\"\n\
         state_dir = \"{dir}/state\"\n\
         [agent.limits]\n\
         inserts_per_second = 100000000\n\
         [[service]]\n\
         name = \"bench\"\n",
        lab.topology().node_interfaces(),
        lab.bpffs().display()
    );
    let vip = vip(lab);
    let mut listener = |protocol: &str, port: u16, server_port: u16| {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "[[service.listener]]\nname = \"{protocol}-{port}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\""
        );
        for color in Color::ALL {
            let address = lab.backends(color, Family::V4)[0];
            let _ = writeln!(
                text,
                "{} = [{{ address = \"{address}\", port = {server_port} }}]",
                color.name()
            );
        }
    };
    for port in ALL_PORTS {
        listener("tcp", port, port);
    }
    for protocol in ["tcp", "udp"] {
        listener(protocol, LIVE_PORT, LIVE_SERVER_PORT);
    }
    text
}

fn start_nftables(lab: &Lab, programs: &Programs) -> Result<()> {
    let (first, last) = ALL_PORTS.into_inner();
    let (vip, server) = (vip(lab), server(lab));
    let rules = format!(
        "table ip bench {{\n\
         chain translate {{\n\
         type nat hook prerouting priority dstnat; policy accept;\n\
         ip daddr {vip} meta l4proto {{ tcp, udp }} th dport {LIVE_PORT} dnat to {server}:{LIVE_SERVER_PORT}\n\
         ip daddr {vip} tcp dport {first}-{last} dnat to {server}\n\
         }}\n\
         }}\n"
    );
    let file = lab.dir().join("rules.nft");
    fs::write(&file, rules).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = programs.command(lab.node(), "nft")?;
    let output = command
        .arg("-f")
        .arg(&file)
        .output()
        .context("cannot run nft")?;
    ensure!(
        output.status.success(),
        "nft ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn start_haproxy(lab: &Lab, programs: &Programs) -> Result<LabChild> {
    let (first, last) = ALL_PORTS.into_inner();
    // A server without a port is connected to at the listener's.
    let configuration = format!(
        "global\nmaxconn 8000\n\
         defaults\nmode tcp\ntimeout connect 5s\ntimeout client 60s\ntimeout server 60s\n\
         listen bench\nbind {}:{first}-{last}\nserver blue {}\n",
        vip(lab),
        server(lab)
    );
    let file = lab.dir().join("haproxy.cfg");
    fs::write(&file, configuration).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = programs.command(lab.node(), "haproxy")?;
    command.args(["-db", "-f"]).arg(&file);
    let log = File::create(lab.dir().join("haproxy.log")).context("cannot make HAProxy's log")?;
    command.stdin(Stdio::null());
    command.stdout(log.try_clone().context("cannot share HAProxy's log")?);
    command.stderr(log);
    lab.node().start_child(command)
}
