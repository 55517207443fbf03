//! Flows that are cut at a drain's deadline, as real sockets on both ends see it (G10).

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::LabService,
    skip_unless_lab,
    traffic::ECHO_PORT,
};

use crate::mixed::LIMIT;

/// Both ends of a connection from the client through the VIP to blue.
struct Ends {
    client: TcpStream,
    backend: TcpStream,
}

fn connect(lab: &Lab, family: Family) -> Result<Ends> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let listener = lab
        .host("blue")?
        .run(|| TcpListener::bind(SocketAddr::new(any, ECHO_PORT)))?;
    let target = LabService::stream(1).target(lab, family);
    let client = lab.client().run(|| TcpStream::connect(target))?;
    let (backend, _) = listener.accept()?;
    for end in [&client, &backend] {
        end.set_read_timeout(Some(Duration::from_millis(20)))?;
    }
    Ok(Ends { client, backend })
}

/// Waits until `end` is reset; with `talks` it sends meanwhile, without it only listens.
fn is_reset(what: &str, end: &mut TcpStream, talks: bool) -> Result<()> {
    let began = Instant::now();
    let mut buffer = [0; 4096];
    while began.elapsed() < LIMIT {
        if talks && let Err(error) = end.write_all(b"still there?") {
            ensure!(
                error.kind() == ErrorKind::ConnectionReset,
                "{what}: {error}"
            );
            return Ok(());
        }
        match end.read(&mut buffer) {
            Ok(0) => bail!("{what}: closed in order, not reset"),
            Ok(_) => {}
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset => return Ok(()),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                _ => bail!("{what}: {error}"),
            },
        }
    }
    bail!("{what}: not reset within {LIMIT:?}")
}

#[test]
fn g10_both_ends_of_silent_connections_are_reset_at_the_deadline() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = crate::start(&lab)?;
    let mut ends = Vec::new();
    for family in Family::ALL {
        ends.push(connect(&lab, family)?);
    }
    let (reply, code) = node.json(&[
        "flip",
        "stream",
        "--to",
        "green",
        "--drain-timeout",
        "300ms",
        "--at-deadline",
        "reset",
        "--wait",
    ])?;
    ensure!(code == 0, "nothing is left, so waiting succeeds: {reply}");
    let drain = &reply["drains"]["stream"];
    ensure!(
        drain["ended"] == "deadline"
            && drain["flows_left"] == 0
            && drain["flows_reset"] == 2
            && drain["flows_silent"] == 2,
        "{drain}"
    );
    for end in &mut ends {
        is_reset("the client, which only listens", &mut end.client, false)?;
        is_reset("the backend, which only listens", &mut end.backend, false)?;
    }
    Ok(())
}

#[test]
fn g10_both_ends_are_reset_on_their_next_packet_while_no_agent_runs() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut node = crate::start(&lab)?;
    let mut ends = Vec::new();
    for family in Family::ALL {
        ends.push(connect(&lab, family)?);
    }
    let (reply, code) = node.json(&[
        "flip",
        "stream",
        "--to",
        "green",
        "--drain-timeout",
        "500ms",
        "--at-deadline",
        "reset",
    ])?;
    ensure!(code == 0, "{reply}");
    node.kill_agent()?;
    for end in &mut ends {
        is_reset("the client", &mut end.client, true)?;
        is_reset("the backend", &mut end.backend, true)?;
    }
    Ok(())
}

/// Moves data as fast as it goes until `end` is reset.
fn is_reset_in_flight(what: &str, mut step: impl FnMut() -> std::io::Result<usize>) -> Result<u64> {
    let mut bytes = 0;
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        match step() {
            Ok(0) => bail!("{what}: closed in order, not reset"),
            Ok(some) => bytes += u64::try_from(some)?,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => bail!("{what}, after {bytes} bytes: {error}"),
        }
    }
    bail!("{what}: not reset within {LIMIT:?}, after {bytes} bytes")
}

#[test]
fn g10_both_ends_of_a_running_download_are_reset() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = crate::start(&lab)?;
    for family in Family::ALL {
        let Ends { client, backend } = connect(&lab, family)?;
        backend.set_write_timeout(Some(Duration::from_millis(20)))?;
        let (mut from, mut to) = (&backend, &client);
        let (chunk, mut buffer) = (vec![7; 64 * 1024], vec![0; 64 * 1024]);
        let (sent, received, reply) = thread::scope(|scope| {
            let sender = scope.spawn(move || is_reset_in_flight("sender", || from.write(&chunk)));
            let receiver =
                scope.spawn(move || is_reset_in_flight("receiver", || to.read(&mut buffer)));
            let arguments = [
                "flip",
                "stream",
                "--drain-timeout",
                "300ms",
                "--at-deadline",
                "reset",
                "--wait",
                "--to",
                "green",
            ];
            let reply = node.json(&arguments);
            let ended = |thread: thread::ScopedJoinHandle<'_, Result<u64>>| {
                thread.join().unwrap_or_else(|_| bail!("panicked"))
            };
            anyhow::Ok((ended(sender)?, ended(receiver)?, reply?))
        })?;
        ensure!(reply.1 == 0, "{}", reply.0);
        ensure!(
            received > 1_000_000 && sent >= received,
            "{sent} bytes sent, {received} received: was it a download?"
        );
        let drain = &reply.0["drains"]["stream"];
        ensure!(drain["flows_reset"] == 1, "{drain}");
        // The next family's connection shall be to blue again.
        node.flip(&["stream"], Color::Blue)?;
        node.json(&["drain", "stream", "--wait"])?;
    }
    Ok(())
}

#[test]
fn g10_a_flip_back_before_the_deadline_cuts_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = crate::start(&lab)?;
    let mut ends = Vec::new();
    for family in Family::ALL {
        ends.push(connect(&lab, family)?);
    }
    let flip = |to, timeout, more: &[&str]| -> Result<()> {
        let arguments = ["flip", "stream", "--to", to, "--drain-timeout", timeout];
        let (reply, code) = node.json(&[&arguments, more].concat())?;
        ensure!(code == 0, "{reply}");
        Ok(())
    };
    flip("green", "1s", &["--at-deadline", "reset"])?;
    flip("blue", "1s", &["--at-deadline", "reset"])?;
    // Green, which has no flows, has drained: the orders of both deadlines are past.
    let (reply, code) = node.json(&["drain", "stream", "--wait"])?;
    ensure!(code == 0, "{reply}");
    flip("green", "0s", &["--at-deadline", "keep", "--wait"])
        .err()
        .context("the flows are left, so waiting for none of them cannot succeed")?;
    for end in &ends {
        let (client, backend) = (&end.client, &end.backend);
        for (mut from, mut to) in [(client, backend), (backend, client)] {
            from.write_all(b"still here")?;
            to.set_read_timeout(Some(LIMIT))?;
            to.read_exact(&mut [0; 10])?;
        }
    }
    Ok(())
}

#[test]
fn g10_udp_flows_select_afresh_at_the_deadline_and_tcp_flows_stay() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let mut sockets = Vec::new();
    for family in Family::ALL {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = lab.client().run(|| UdpSocket::bind((any, 0)))?;
        socket.connect(LabService::datagram(2).target(&lab, family))?;
        socket.set_read_timeout(Some(LIMIT))?;
        ensure!(color_of(&socket)? == Color::Blue, "before the flip");
        sockets.push(socket);
    }
    let arguments = [
        "flip",
        "datagram",
        "--to",
        "green",
        "--drain-timeout",
        "800ms",
        "--at-deadline",
        "move",
    ];
    let (reply, code) = node.json(&arguments)?;
    ensure!(code == 0, "{reply}");
    for socket in &sockets {
        ensure!(color_of(socket)? == Color::Blue, "before the deadline");
    }
    let began = Instant::now();
    for socket in &sockets {
        while color_of(socket)? == Color::Blue {
            ensure!(began.elapsed() < LIMIT, "not moved within {LIMIT:?}");
        }
    }
    let (reply, code) = node.json(&["drain", "datagram", "--wait"])?;
    let drain = &reply["drain"];
    ensure!(
        code == 0 && drain["flows_moved"] == 2 && drain["flows_reset"] == 0,
        "{reply}"
    );
    for socket in &sockets {
        ensure!(color_of(socket)? == Color::Green, "after the deadline");
    }
    Ok(())
}

/// The color that answers one datagram.
fn color_of(socket: &UdpSocket) -> Result<Color> {
    socket.send(&[0; 8])?;
    let mut answer = [0; 16];
    socket.recv(&mut answer).context("no answer")?;
    // The high half of the tag.
    Ok(Color::from_bit(answer[11]))
}
