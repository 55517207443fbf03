//! Ten thousand connections at a time.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab, LabChild},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Backends, Client, ECHO_PORT, Identity, Load, LongLived, established_sockets},
};

/// Connections that are begun at a time: more than the servers' queues hold would only be slower.
const AT_ONCE: usize = 500;
/// How often, for each family.
const LOADS: usize = 10;
const CONNECTIONS: usize = 2 * LOADS * AT_ONCE;
/// Connections of each family that are begun after the flip.
const FRESH: usize = 100;
/// How long any step may take.
const LIMIT: Duration = Duration::from_mins(1);
/// Message to message on one connection. With so many, even this is thousands a second.
const INTERVAL: Duration = Duration::from_secs(3);

/// The echo server of one backend, with a table of descriptors of its own.
fn serve(lab: &Lab, identity: Identity) -> Result<LabChild> {
    let host = lab.color(identity.color);
    let mut command = host.command(Path::new(env!("CARGO_BIN_EXE_echo_server")));
    command.args(["--color", identity.color.name()]);
    command.args(["--backend", &identity.backend.to_string()]);
    for family in Family::ALL {
        let address = lab.backends(identity.color, family)[identity.backend as usize];
        command.arg(SocketAddr::new(address, ECHO_PORT).to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = host.start_child(command)?;
    let output = child.child().stdout.take().context("started with a pipe")?;
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .context("waiting for an echo server")?;
    ensure!(line == "ready\n", "an echo server said {line:?}");
    Ok(child)
}

/// Connections that were each answered once.
fn connect(lab: &Lab, family: Family, connections: usize) -> Result<Load> {
    let options = LongLived {
        connections,
        interval: INTERVAL,
        timeout: LIMIT,
    };
    let target = LabService::stream(1).target(lab, family);
    let load = Client::new(lab.client()).long_lived(target, options);
    load.wait_until(LIMIT, |stats| stats.fresh.len() == connections)?;
    Ok(load)
}

/// All connections are with `color`, and none has broken.
fn are_on(loads: &[Load], color: Color) -> Result<()> {
    for load in loads {
        load.read(|stats| {
            ensure!(stats.is_clean(), "{:?}", stats.samples);
            let other = *stats.per_color.get(color.other());
            ensure!(other == 0, "{other} answers of {}", color.other().name());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn ten_thousand_connections_outlive_a_flip_and_are_counted_exactly() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut backends = Backends::start(&lab)?;
    backends.stop_color(Color::Blue);
    let _blue: Vec<LabChild> = (0..2)
        .map(|backend| {
            let color = Color::Blue;
            serve(&lab, Identity { color, backend })
        })
        .collect::<Result<_>>()?;
    let node = Node::start(&lab, &[LabService::stream(1)])?;
    let began = Instant::now();
    let mut old = Vec::new();
    for family in Family::ALL {
        for _ in 0..LOADS {
            old.push(connect(&lab, family, AT_ONCE)?);
        }
    }
    let connected = began.elapsed();
    let flip = node.flip(&["stream"], Color::Green)?;
    for load in &old {
        load.wait_until(LIMIT, |stats| {
            let mut all = stats.connections.iter();
            all.all(|it| it.last_answer > Some(flip.returned) || it.broken.is_some())
        })?;
    }
    are_on(&old, Color::Blue)?;
    let fresh = [
        connect(&lab, Family::V4, FRESH)?,
        connect(&lab, Family::V6, FRESH)?,
    ];
    are_on(&fresh, Color::Green)?;
    // Nothing begins or ends now: the count is exact.
    let open = established_sockets(lab.client())?;
    ensure!(
        open == CONNECTIONS + 2 * FRESH,
        "the client has {open} open connections"
    );
    let status = node.wait_until("a scan of them all", |status| {
        status["services"][0]["in_flight"]["green"] == 2 * FRESH
    })?;
    let in_flight = &status["services"][0]["in_flight"];
    ensure!(in_flight["blue"] == CONNECTIONS, "in flight: {in_flight}");
    let entries = &status["tables"]["established_entries"];
    ensure!(*entries == 2 * open, "{entries} entries of {open} flows");
    println!(
        "{CONNECTIONS} connections in {:.1} s; with the flip and its checks {:.1} s",
        connected.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    for load in old.iter().chain(&fresh) {
        load.stop();
    }
    for load in old.into_iter().chain(fresh) {
        let talked = load.finish();
        ensure!(talked.is_clean(), "{:?}", talked.samples);
    }
    node.wait_until("none in flight", |status| {
        let flows = &status["services"][0]["in_flight"];
        flows["blue"] == 0 && flows["green"] == 0
    })?;
    Ok(())
}
