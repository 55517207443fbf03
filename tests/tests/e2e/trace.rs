//! `switcher trace` with real traffic.

use std::{
    io::{BufRead as _, BufReader, Lines},
    net::SocketAddr,
    process::ChildStdout,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use serde_json::Value;
use switcher_common::trace::{TRACE_READERS, TraceControl, TraceFilter};
use switcher_tests::{
    lab::{Family, Lab, LabChild},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Client, UdpFlows},
};

use crate::{
    mixed::LIMIT,
    probe::{Kind, Probe},
};

/// `switcher trace --json` as a process, from the moment on at which it traces.
struct Trace {
    child: LabChild,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Trace {
    fn start(node: &Node<'_>, arguments: &[&str]) -> Result<Self> {
        let mut child = node.start_cli(&[&["trace"], arguments].concat())?;
        let (out, err) = (child.child().stdout.take(), child.child().stderr.take());
        let mut said = String::new();
        BufReader::new(err.context("a pipe")?).read_line(&mut said)?;
        ensure!(said.starts_with("tracing"), "it says {said:?}");
        Ok(Self {
            child,
            lines: BufReader::new(out.context("a pipe")?).lines(),
        })
    }

    /// The next line; `None` when it has ended.
    fn next(&mut self) -> Result<Option<Value>> {
        let Some(line) = self.lines.next() else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_str(&line?)?))
    }

    /// The packets that it tells of until it ends, which it must do by itself or has been told to.
    fn rest(&mut self) -> Result<Vec<Value>> {
        let mut decisions = Vec::new();
        while let Some(line) = self.next()? {
            ensure!(line["kind"] == "decision", "{line}");
            decisions.push(line);
        }
        let code = self.code()?;
        ensure!(code == 0, "it ended with {code}");
        Ok(decisions)
    }

    fn code(&mut self) -> Result<i32> {
        let ended = self.child.wait(LIMIT)?.context("it goes on")?;
        ended.code().context("a signal ended it")
    }
}

/// What the program is told to trace.
fn control(lab: &Lab) -> Result<TraceControl> {
    let path = lab.bpffs().join("switcher/maps/TRACE");
    lab.node().run(|| {
        let map = MapData::from_pin(path).and_then(Map::from_map_data)?;
        let map: Array<_, TraceControl> = map.try_into()?;
        Ok(map.get(&0, 0)?)
    })
}

/// Waits until the program is told to trace nothing, of which there is no event.
fn until_off(lab: &Lab, node: &Node<'_>) -> Result<()> {
    node.wait_until("tracing is off", |_| {
        control(lab).is_ok_and(|control| control == TraceControl::default())
    })
    .map(drop)
}

/// A connection from `from`, and the backend that it goes to.
fn connect(lab: &Lab, kind: Kind, from: SocketAddr) -> Result<(Probe<'_>, SocketAddr)> {
    let mut probe = Probe::open(lab, kind, from)?;
    let backend = probe.backend()?;
    Ok((probe, backend))
}

#[test]
fn a_connection_is_told_packet_by_packet_in_both_directions() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    for kind in Kind::all() {
        let (from, to) = (kind.client(&lab, 2_000), kind.target(&lab));
        let address = from.ip().to_string();
        // Of UDP and of TCP the first packets each way; the others come or not.
        let count = match kind.service() {
            "stream" => 4,
            _ => 2,
        };
        let count = count.to_string();
        let service = kind.service();
        let arguments = [
            "--client",
            &address,
            "--service",
            service,
            "--count",
            &count,
        ];
        let mut trace = Trace::start(&node, &arguments)?;
        let (_probe, backend) = connect(&lab, kind, from)?;
        let decisions = trace.rest()?;
        ensure!(decisions.len().to_string() == count, "{decisions:?}");
        let [first, second] = &decisions[..2] else {
            anyhow::bail!("{decisions:?}");
        };
        let (from, to, backend) = (from.to_string(), to.to_string(), backend.to_string());
        ensure!(
            first["from"] == from
                && first["to"] == to
                && first["sent_from"] == from
                && first["sent_to"] == backend
                && first["verdict"] == "redirect"
                && first["stage"] == "forward"
                && first["interface"] == "c1"
                && first["service"] == service
                && first["color"] == "blue"
                && first["flow"]["is_new"] == true
                && first["flow"]["backend"] == backend
                && first["protocol"] == kind.protocol.name(),
            "{kind:?}: the first packet is told as {first}"
        );
        ensure!(
            second["from"] == backend
                && second["to"] == from
                && second["sent_from"] == to
                && second["sent_to"] == from
                && second["interface"] == "b"
                && second["flow"]["direction"] == "reverse"
                && second["flow"]["is_new"] == false,
            "{kind:?}: the answer is told as {second}"
        );
        if service == "stream" {
            let flags = decisions.iter().map(|it| it["tcp_flags"].as_str());
            let flags: Vec<_> = flags.map(Option::unwrap_or_default).collect();
            ensure!(flags[..3] == ["SYN", "SYN,ACK", "ACK"], "{flags:?}");
            ensure!(
                decisions[2]["notes"] == serde_json::json!(["flow_established"]),
                "{}",
                decisions[2]
            );
        }
        until_off(&lab, &node)?;
    }
    Ok(())
}

/// Whether one end of the packet is `endpoint`.
fn is_of(decision: &Value, endpoint: SocketAddr) -> bool {
    let endpoint = endpoint.to_string();
    decision["from"] == endpoint || decision["to"] == endpoint
}

#[test]
fn readers_see_their_own_packets_only_and_tracing_ends_with_the_last_one() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    ensure!(control(&lab)? == TraceControl::default(), "off at first");
    let mut readers = Vec::new();
    for kind in Kind::all() {
        let address = kind.client(&lab, 0).ip().to_string();
        let arguments = ["--client", &address, "--service", kind.service()];
        readers.push((kind, Trace::start(&node, &arguments)?));
    }
    let mut connections = Vec::new();
    for port in [2_000, 2_001] {
        for kind in Kind::all() {
            connections.push(connect(&lab, kind, kind.client(&lab, port))?);
        }
    }
    for (kind, trace) in &mut readers {
        ensure!(control(&lab)?.until_ns > 0, "{kind:?}: others still read");
        let ours = [2_000, 2_001].map(|port| kind.client(&lab, port));
        let mut told = 0;
        // What others were told of the first connections came before the second one.
        loop {
            let decision = trace.next()?.context("it ended by itself")?;
            let is_ours = ours.iter().any(|end| is_of(&decision, *end));
            ensure!(
                is_ours && decision["service"] == kind.service(),
                "{kind:?}: {decision}"
            );
            told += 1;
            if is_of(&decision, ours[1]) {
                break;
            }
        }
        ensure!(
            told > 2,
            "{kind:?}: two packets of the first connection at least"
        );
        trace.child.interrupt()?;
        for decision in trace.rest()? {
            ensure!(
                is_of(&decision, ours[1]) || is_of(&decision, ours[0]),
                "{decision}"
            );
        }
    }
    until_off(&lab, &node)
}

#[test]
fn a_reader_that_is_killed_ends_its_trace() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let mut first = Trace::start(&node, &[])?;
    let mut second = Trace::start(&node, &["--service", "web"])?;
    first.child.kill()?;
    let one_is_left = |control: &TraceControl| {
        let free = TraceFilter::default();
        control.filters.iter().filter(|it| **it != free).count() == 1
    };
    node.wait_until("one reader is left", |_| {
        control(&lab).is_ok_and(|control| one_is_left(&control))
    })?;
    second.child.terminate()?;
    ensure!(second.rest()?.is_empty(), "there was no traffic");
    until_off(&lab, &node)
}

#[test]
fn an_agent_that_is_killed_leaves_a_trace_that_ends_by_itself() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let mut trace = Trace::start(&node, &[])?;
    node.kill_agent()?;
    let left = control(&lab)?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_ns = (now.tv_sec * 1_000_000_000 + now.tv_nsec).unsigned_abs();
    let most = Duration::from_secs(10).as_nanos();
    ensure!(
        left.until_ns > 0 && u128::from(left.until_ns.saturating_sub(now_ns)) <= most,
        "{left:?} at {now_ns}"
    );
    let last = trace.next()?.context("it says why it ends")?;
    ensure!(last["error"]["code"] == "unreachable", "{last}");
    ensure!(trace.code()? == 6, "{last}");
    node.start_agent()?;
    ensure!(
        control(&lab)? == TraceControl::default(),
        "the next agent turns it off"
    );
    let kind = Kind::all().next().context("a kind of traffic")?;
    let mut trace = Trace::start(&node, &["--count", "1"])?;
    connect(&lab, kind, kind.client(&lab, 2_000))?;
    ensure!(trace.rest()?.len() == 1, "and traces again");
    node.stop_agent()
}

#[test]
fn a_reader_that_does_not_read_is_told_what_it_lost_and_holds_up_nobody() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let mut slow = Trace::start(&node, &["--service", "datagram"])?;
    let load = Client::new(lab.client()).udp_flows(
        LabService::datagram(2).target(&lab, Family::V4),
        UdpFlows::per_second(2_000),
    );
    // Several times what the pipe, the socket and the queue hold.
    node.wait_until("much traffic", |_| {
        load.read(|stats| stats.answered) > 6_000
    })?;
    let stats = load.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    let (mut told, mut lost) = (0_u64, 0_u64);
    while lost == 0 || told < 1_000 {
        let line = slow.next()?.context("it ended by itself")?;
        match line["kind"].as_str() {
            Some("decision") => told += 1,
            _ => lost += line["decisions"].as_u64().context("how many")?,
        }
    }
    slow.child.kill()?;
    until_off(&lab, &node)
}

#[test]
fn one_reader_too_many_is_refused_and_unknown_services_are_not_found() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = crate::start(&lab)?;
    let (answer, code) = node.json(&["trace", "--service", "nosuch"])?;
    ensure!(code == 7, "{answer}");
    let mut readers = Vec::new();
    for _ in 0..TRACE_READERS {
        readers.push(Trace::start(&node, &[])?);
    }
    let (answer, code) = node.json(&["trace"])?;
    ensure!(code == 3, "{answer}");
    drop(readers.pop());
    node.wait_until("room for another one", |_| {
        control(&lab).is_ok_and(|it| it.filters.contains(&TraceFilter::default()))
    })?;
    drop(Trace::start(&node, &[])?);
    drop(readers);
    until_off(&lab, &node)
}
