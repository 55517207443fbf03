//! Connections that their backend refuses or leaves unanswered, with real clients and real servers: they succeed
//! although nobody has noticed, also while no agent does anything (issue 5, point 3).

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::Shutdown;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Lab, Topology},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::ECHO_PORT,
};

use crate::mixed::LIMIT;

/// Connections that are opened at once: with two backends, hardly ever all to one.
const AT_ONCE: usize = 32;

const FAMILIES: u64 = Family::ALL.len() as u64;

/// A TCP server of the lab, which accepts in the kernel's backlog.
pub(crate) struct Server {
    pub(crate) address: IpAddr,
    listener: Option<TcpListener>,
}

impl Server {
    /// The servers of a color, in both families.
    pub(crate) fn all(lab: &Lab, color: Color) -> Result<Vec<Self>> {
        let addresses = Family::ALL.map(|family| lab.backends(color, family));
        let servers = addresses.into_iter().flatten().map(|address| {
            let mut server = Self {
                address,
                listener: None,
            };
            server.start(lab)?;
            Ok(server)
        });
        servers.collect()
    }

    pub(crate) fn start(&mut self, lab: &Lab) -> Result<()> {
        let at = SocketAddr::new(self.address, ECHO_PORT);
        let listen = || TcpListener::bind(at);
        self.listener = Some(lab.host_of(self.address)?.run(listen)?);
        Ok(())
    }

    /// Its process crashes: the kernel refuses what comes. At once, although a process that another test has
    /// just begun may still hold the socket.
    pub(crate) fn crash(&mut self) {
        if let Some(listener) = self.listener.take() {
            rustix::net::shutdown(&listener, Shutdown::Both).expect("it listens");
        }
    }
}

/// The first server of each family crashes.
pub(crate) fn crash_first(lab: &Lab, servers: &mut [Server]) {
    let first = Family::ALL.map(|family| lab.backends(Color::Blue, family)[0]);
    for server in servers.iter_mut().filter(|it| first.contains(&it.address)) {
        server.crash();
    }
}

pub(crate) fn stream(options: &str) -> LabService {
    LabService {
        options: options.to_owned(),
        ..LabService::stream(1)
    }
}

/// Opens connections to the VIP all at once; how long each took, or how it failed.
pub(crate) fn connect(lab: &Lab, family: Family) -> Vec<std::io::Result<Duration>> {
    let target = LabService::stream(1).target(lab, family);
    let one = || {
        let began = Instant::now();
        TcpStream::connect_timeout(&target, LIMIT).map(|_| began.elapsed())
    };
    // Threads have the namespace of the one that begins them.
    lab.client().run(|| {
        thread::scope(|scope| {
            let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
            let joined = all.into_iter().map(thread::ScopedJoinHandle::join);
            joined
                .map(|it| it.unwrap_or_else(|_| Err(ErrorKind::Other.into())))
                .collect()
        })
    })
}

/// All of them succeed.
pub(crate) fn all_connect(lab: &Lab, when: &str) -> Result<()> {
    for family in Family::ALL {
        let all = connect(lab, family);
        let slowest = all.iter().filter_map(|it| it.as_ref().ok()).max();
        let failed: Vec<_> = all.iter().filter(|it| it.is_err()).collect();
        ensure!(failed.is_empty(), "{when}, {family:?}: {failed:?}");
        println!("{when}, {family:?}: {AT_ONCE} connections, the slowest took {slowest:?}");
    }
    Ok(())
}

#[test]
fn connections_succeed_while_a_server_has_crashed_and_the_agent_stands_still() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    let mut servers = Server::all(&lab, Color::Blue)?;
    let mut node = Node::start(&lab, &[stream("")])?;
    all_connect(&lab, "all is well")?;
    ensure!(node.packets("second_chance")? == 0, "without a need");
    let agent = rustix::process::Pid::from_raw(node.agent_id()?.try_into()?).context("a pid")?;
    rustix::process::kill_process(agent, rustix::process::Signal::STOP)?;
    crash_first(&lab, &mut servers);
    let stopped = all_connect(&lab, "the agent is stopped");
    rustix::process::kill_process(agent, rustix::process::Signal::CONT)?;
    stopped?;
    let (withheld, taken) = (
        node.packets("refusal_withheld")?,
        node.packets("second_chance")?,
    );
    ensure!(
        withheld > 0 && taken >= withheld,
        "{withheld} withheld, {taken} second chances"
    );
    node.kill_agent()?;
    all_connect(&lab, "the agent is dead")?;
    node.start_agent()?;
    ensure!(
        node.packets("second_chance")? > taken,
        "none without an agent"
    );
    Ok(())
}

#[test]
fn a_service_that_is_down_everywhere_refuses_its_clients() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    let mut servers = Server::all(&lab, Color::Blue)?;
    let node = Node::start(&lab, &[stream("")])?;
    all_connect(&lab, "all is well")?;
    servers.iter_mut().for_each(Server::crash);
    for family in Family::ALL {
        let all = connect(&lab, family);
        let refused = |it: &std::io::Result<Duration>| matches!(it, Err(error) if error.kind() == ErrorKind::ConnectionRefused);
        ensure!(all.iter().all(refused), "{family:?}: {all:?}");
    }
    ensure!(node.packets("syn_refused")? >= 2 * AT_ONCE as u64);
    Ok(())
}

#[test]
fn connections_to_a_host_that_has_vanished_succeed_with_their_first_retransmission() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().topology(two_hosts()).build()?;
    let _servers = Server::all(&lab, Color::Blue)?;
    let mut node = Node::start(&lab, &[stream("")])?;
    all_connect(&lab, "all is well")?;
    // Nobody watches, and nothing of what follows is the agent's doing.
    node.kill_agent()?;
    lab.host("blue2")?.set_up(FAR_INTERFACE, false)?;
    let retransmitted = |lab: &Lab| lab.client().run(retransmissions);
    let before = retransmitted(&lab)?;
    all_connect(&lab, "a host has vanished")?;
    // Most are sent again once; on a machine that is busy some more, until their answer is heard.
    let times = retransmitted(&lab)? - before;
    ensure!(
        times > 0 && times <= 3 * FAMILIES * AT_ONCE as u64,
        "{times} SYNs were sent again"
    );
    node.start_agent()?;
    ensure!(node.packets("syn_unanswered")? > 0);
    Ok(())
}

/// The backends of a color are two hosts on networks of their own.
pub(crate) fn two_hosts() -> Topology {
    let mut topology = Topology::several_networks();
    for link in &mut topology.links {
        link.far.truncate(1);
    }
    topology
}

/// Segments that this thread's network namespace has sent again.
fn retransmissions() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|it| it.strip_prefix("Tcp: "));
    let names = lines.next().context("no names")?.split(' ');
    let values = lines.next().context("no values")?.split(' ');
    let value = names.zip(values).find(|(name, _)| *name == "RetransSegs");
    Ok(value.context("no RetransSegs")?.1.parse()?)
}
