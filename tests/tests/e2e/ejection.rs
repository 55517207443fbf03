//! What becomes of the flows of a backend that leaves its table.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::ECHO_PORT,
};

use crate::mixed::LIMIT;

/// A backend that the test serves by itself.
struct Backend {
    address: IpAddr,
    /// Closed: it takes no connections, and goes on with those that it has.
    listener: Option<TcpListener>,
}

impl Backend {
    fn open(lab: &Lab, address: IpAddr) -> Result<TcpListener> {
        let at = SocketAddr::new(address, ECHO_PORT);
        let listener = lab.host_of(address)?.run(|| TcpListener::bind(at))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

/// Both ends of a connection through the VIP.
struct Ends {
    client: TcpStream,
    backend: TcpStream,
    /// Which of the backends it is.
    at: usize,
}

fn start<'lab>(lab: &'lab Lab, check: &str) -> Result<(Node<'lab>, Vec<Backend>)> {
    let stream = LabService {
        options: format!("[service.check]\ntimeout = \"10s\"\n{check}"),
        ..LabService::stream(1)
    };
    let mut backends = Vec::new();
    for address in lab.backends(Color::Blue, Family::V4) {
        backends.push(Backend {
            address,
            listener: Some(Backend::open(lab, address)?),
        });
    }
    let node = Node::start(lab, &[stream])?;
    wait_for(&node, ["healthy", "healthy"])?;
    Ok((node, backends))
}

fn wait_for(node: &Node<'_>, expected: [&str; 2]) -> Result<()> {
    let health = |status: &serde_json::Value| -> Vec<String> {
        let listeners = service_in(status, "stream")["listeners"].as_array();
        let v4 = listeners.into_iter().flatten().find(|it| {
            let vip = it["vip"].as_str().unwrap_or_default();
            vip.parse().is_ok_and(|vip: IpAddr| vip.is_ipv4())
        });
        let blue = v4.and_then(|it| it["backends"]["blue"].as_array());
        blue.into_iter()
            .flatten()
            .map(|it| it["health"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    node.wait_until(&format!("{expected:?}"), |status| {
        health(status) == expected
    })?;
    Ok(())
}

/// Connects until there is a connection to each of the backends that listen.
fn connect_to_each(lab: &Lab, backends: &[Backend]) -> Result<Vec<Ends>> {
    let target = LabService::stream(1).target(lab, Family::V4);
    let mut found: Vec<Ends> = Vec::new();
    let wanted = backends.iter().filter(|it| it.listener.is_some()).count();
    let began = Instant::now();
    while found.len() < wanted {
        ensure!(began.elapsed() < LIMIT, "connections to each backend");
        let client = lab.client().run(|| TcpStream::connect(target))?;
        let (at, backend) = accepted(backends)?;
        for end in [&client, &backend] {
            end.set_nonblocking(false)?;
            end.set_read_timeout(Some(Duration::from_millis(20)))?;
        }
        if found.iter().all(|it| it.at != at) {
            found.push(Ends {
                client,
                backend,
                at,
            });
        }
    }
    found.sort_by_key(|it| it.at);
    Ok(found)
}

/// The connection that a client has just made, checks' own left out: those are reset at once.
fn accepted(backends: &[Backend]) -> Result<(usize, TcpStream)> {
    let node: Vec<IpAddr> = backends.iter().map(|it| it.address).collect();
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        for (at, backend) in backends.iter().enumerate() {
            let accepted = backend.listener.as_ref().map(TcpListener::accept);
            if let Some(Ok((stream, peer))) = accepted
                && !is_check(peer.ip(), &node)
            {
                return Ok((at, stream));
            }
        }
        std::thread::yield_now();
    }
    bail!("no connection has arrived")
}

/// Whether a connection comes from the backends' own network, as the agent's do.
fn is_check(peer: IpAddr, backends: &[IpAddr]) -> bool {
    let network = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[..3].to_vec(),
        IpAddr::V6(v6) => v6.octets()[..8].to_vec(),
    };
    backends.iter().any(|it| network(*it) == network(peer))
}

fn is_reset(end: &mut TcpStream) -> Result<()> {
    let began = Instant::now();
    let mut buffer = [0; 64];
    while began.elapsed() < LIMIT {
        match end.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => bail!("{other:?}, expected a reset"),
        }
    }
    bail!("not reset within {LIMIT:?}")
}

/// Both ends still talk to each other.
fn talks(ends: &mut Ends) -> Result<()> {
    let mut buffer = [0; 4];
    let (client, backend) = (&mut ends.client, &mut ends.backend);
    for end in [&*client, &*backend] {
        end.set_read_timeout(Some(LIMIT))?;
    }
    client.write_all(b"ping").context("the client's data")?;
    backend.read_exact(&mut buffer).context("at the backend")?;
    backend.write_all(b"pong").context("the backend's data")?;
    client.read_exact(&mut buffer).context("at the client")?;
    Ok(())
}

#[test]
fn flows_of_a_backend_that_is_dead_are_reset_on_both_sides_and_no_others() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    let (mut node, mut backends) = start(&lab, "")?;
    let mut ends = connect_to_each(&lab, &backends)?;
    backends[0].listener = None;
    wait_for(&node, ["unhealthy", "healthy"])?;
    // Neither side says anything: a scan finds them.
    is_reset(&mut ends[0].client).context("the client")?;
    is_reset(&mut ends[0].backend).context("the backend")?;
    talks(&mut ends[1]).context("the other backend's connection")?;
    // The order outlives the agent, and does not touch what begins when the backend is back.
    node.kill_agent()?;
    node.start_agent()?;
    backends[0].listener = Some(Backend::open(&lab, backends[0].address)?);
    wait_for(&node, ["healthy", "healthy"])?;
    let mut again = connect_to_each(&lab, &backends)?;
    node.status()?;
    for ends in &mut again {
        talks(ends).context("after its return")?;
    }
    talks(&mut ends[1]).context("the other backend's connection, later")?;
    Ok(())
}

#[test]
fn flows_of_a_dead_backend_go_on_where_the_configuration_keeps_them() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    let (node, mut backends) = start(&lab, "at_ejection = \"keep\"")?;
    let mut ends = connect_to_each(&lab, &backends)?;
    backends[0].listener = None;
    wait_for(&node, ["unhealthy", "healthy"])?;
    node.status()?;
    for ends in &mut ends {
        talks(ends)?;
    }
    Ok(())
}

#[test]
fn flows_of_a_backend_that_fails_its_checks_and_is_not_dead_go_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    // What is asked is another port than what serves.
    let port = lab.host("blue")?.ports().next();
    let asked = |lab: &Lab, address| -> Result<TcpListener> {
        let at = SocketAddr::new(address, port);
        Ok(lab.host_of(address)?.run(|| TcpListener::bind(at))?)
    };
    let mut checked = Vec::new();
    for address in lab.backends(Color::Blue, Family::V4) {
        checked.push(asked(&lab, address)?);
    }
    let (node, backends) = start(&lab, &format!("port = {port}"))?;
    let mut ends = connect_to_each(&lab, &backends)?;
    drop(checked.remove(0));
    wait_for(&node, ["unhealthy", "healthy"])?;
    node.status()?;
    for ends in &mut ends {
        talks(ends)?;
    }
    Ok(())
}
