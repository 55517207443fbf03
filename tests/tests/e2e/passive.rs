//! What the program reports of backends, and what the agent makes of it: ejection without waiting for the next
//! checks, and never because of one client (issue 5, point 2).

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switcher_common::{
    flow::{ACK, RST, SYN},
    service::Color,
};
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{ECHO_PORT, RawPacket, RawSender},
};

use crate::{
    forge::Forged,
    mixed::LIMIT,
    second_chance::{Server, all_connect, connect, crash_first, stream, two_hosts},
};

/// In turn a backend would be checked for minutes before it was unhealthy.
const SLOW: &str = "[service.check]\ninterval = \"2s\"\ntimeout = \"10s\"\nfall = 100\nrise = 100";

fn health(status: &Value) -> Vec<String> {
    let listeners = service_in(status, "stream")["listeners"].as_array();
    let backends = listeners.into_iter().flatten().flat_map(|listener| {
        let blue = listener["backends"]["blue"].as_array();
        blue.into_iter().flatten()
    });
    backends
        .map(|it| it["health"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn start<'lab>(lab: &'lab Lab, options: &str) -> Result<Node<'lab>> {
    let node = Node::start(lab, &[stream(options)])?;
    node.wait_until("all of blue being healthy", |status| {
        let all = health(status);
        !all.is_empty() && all.iter().all(|it| it == "healthy")
    })?;
    Ok(node)
}

/// The history's entries of backends that have become unhealthy.
fn ejections(node: &Node<'_>) -> Result<Vec<Value>> {
    let history = node.json(&["history", "stream"])?.0;
    let entries = history["entries"].as_array().cloned().unwrap_or_default();
    let is_ejection = |it: &Value| it["what"] == "health" && it["health"]["is_healthy"] == false;
    Ok(entries.into_iter().filter(is_ejection).collect())
}

/// Waits until so many backends are unhealthy; the entries that tell it.
fn wait_for_ejections(node: &Node<'_>, count: usize) -> Result<Vec<Value>> {
    node.wait_until(&format!("{count} unhealthy backends"), |status| {
        health(status)
            .iter()
            .filter(|it| *it == "unhealthy")
            .count()
            == count
    })?;
    let began = Instant::now();
    loop {
        let told = ejections(node)?;
        if told.len() >= count || began.elapsed() > LIMIT {
            ensure!(told.len() == count, "{count} ejections expected: {told:?}");
            return Ok(told);
        }
    }
}

fn reason(entry: &Value) -> &str {
    entry["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_crashed_server_is_ejected_at_its_first_refused_connection() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    let mut servers = Server::all(&lab, Color::Blue)?;
    let node = start(&lab, SLOW)?;
    ensure!(ejections(&node)?.is_empty());
    crash_first(&lab, &mut servers);
    all_connect(&lab, "a server has crashed")?;
    // One of each family.
    for entry in wait_for_ejections(&node, 2)? {
        let told = reason(&entry);
        ensure!(
            told.contains("refused the SYN of ") && told.contains(", and a check right after: "),
            "{entry}"
        );
        let taken = entry["health"]["refused_to_ejected_ms"].as_u64();
        println!("refused to ejected: {taken:?} ms");
        ensure!(taken.is_some(), "{entry}");
    }
    let withheld = node.packets("refusal_withheld")?;
    all_connect(&lab, "it is out")?;
    ensure!(
        node.packets("refusal_withheld")? == withheld,
        "it was asked again"
    );
    Ok(())
}

#[test]
fn a_host_that_has_vanished_is_ejected_at_the_first_repeated_syn() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().topology(two_hosts()).build()?;
    let _servers = Server::all(&lab, Color::Blue)?;
    let node = start(&lab, &SLOW.replace("10s", "200ms"))?;
    let vanished: Vec<IpAddr> = Family::ALL
        .into_iter()
        .flat_map(|family| lab.backends(Color::Blue, family))
        .filter(|address| lab.host_of(*address).is_ok_and(|it| it.name() == "blue2"))
        .collect();
    lab.host("blue2")?.set_up(FAR_INTERFACE, false)?;
    all_connect(&lab, "a host has vanished")?;
    for entry in wait_for_ejections(&node, vanished.len())? {
        let told = reason(&entry);
        ensure!(told.contains("left the SYN of "), "{entry}");
    }
    Ok(())
}

#[test]
fn one_client_that_is_refused_among_good_ones_ejects_nobody() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    let _servers = Server::all(&lab, Color::Blue)?;
    let node = start(&lab, SLOW)?;
    let rejected = Rejected::new(&lab)?;
    for round in 0..4 {
        rejected.try_to_connect(&lab, round)?;
        all_connect(&lab, "the good clients")?;
    }
    let refused = node.packets("syn_refused")?;
    ensure!(refused >= 40, "only {refused} SYNs were refused");
    ensure!(ejections(&node)?.is_empty(), "{:?}", ejections(&node)?);
    Ok(())
}

/// A client that its backends refuse, and nobody else: its SYNs have wrong checksums, so that the backends'
/// own stacks say nothing, and their refusals are made here.
struct Rejected {
    client: RawSender,
    backend: RawSender,
}

impl Rejected {
    fn new(lab: &Lab) -> Result<Self> {
        Ok(Self {
            client: RawSender::open(lab.host(lab.topology().links[1].host)?)?,
            backend: RawSender::open(lab.host("blue")?)?,
        })
    }

    fn try_to_connect(&self, lab: &Lab, round: u16) -> Result<()> {
        let family = Family::V4;
        let vip = LabService::stream(1).target(lab, family);
        let address = lab.topology().links[1].far_addresses(family)[0];
        for port in 0..16 {
            let client = SocketAddr::new(address, 20_000 + 100 * round + port);
            let syn = Forged {
                flags: SYN,
                seq: 1_000,
                ..Forged::default()
            };
            self.client.send(&spoilt(syn.between(client, vip)?))?;
            let refusal = Forged {
                flags: RST | ACK,
                ack: 1_001,
                ..Forged::default()
            };
            // It has gone to one of them; what the others say is of no flow.
            for backend in lab.backends(Color::Blue, family) {
                let backend = SocketAddr::new(backend, ECHO_PORT);
                self.backend.send(&refusal.between(backend, client)?)?;
            }
        }
        Ok(())
    }
}

/// With a TCP checksum that is wrong.
fn spoilt(mut packet: RawPacket) -> RawPacket {
    let checksum = 20 + 16;
    packet.bytes[checksum] ^= 0x55;
    packet
}

#[test]
fn a_server_that_refuses_three_clients_and_answers_none_is_ejected_whatever_its_check_says()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    let mut servers = Server::all(&lab, Color::Blue)?;
    // What is asked is another port than what serves.
    let port = lab.host("blue")?.ports().next();
    let mut asked = Vec::new();
    for server in &servers {
        let at = SocketAddr::new(server.address, port);
        let host = lab.host_of(server.address)?;
        asked.push(
            host.run(|| TcpListener::bind(at))
                .context("the port that is asked")?,
        );
    }
    let node = start(&lab, &format!("{SLOW}\nport = {port}"))?;
    crash_first(&lab, &mut servers);
    // Two clients are not enough, however often they try.
    for _ in 0..2 {
        connect(&lab, Family::V4);
    }
    let refused = node.packets("syn_refused")?;
    ensure!(refused > 0, "nobody was refused");
    ensure!(ejections(&node)?.is_empty(), "{:?}", ejections(&node)?);
    let vip = LabService::stream(1).target(&lab, Family::V4);
    let sender = RawSender::open(lab.client())?;
    for last in 0..64 {
        let client = SocketAddr::new([198, 51, 100, last + 1].into(), 5_000);
        let syn = Forged {
            flags: SYN,
            seq: 1_000,
            ..Forged::default()
        };
        sender.send(&syn.between(client, vip)?)?;
    }
    for entry in wait_for_ejections(&node, 1)? {
        let told = reason(&entry);
        ensure!(told.contains("refused the SYNs of 3 clients ("), "{entry}");
    }
    drop(asked);
    Ok(())
}
