//! HAProxy in the switcher's place: the same lab, servers, load and crash.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Stdio,
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab, LabChild, cancel},
    traffic::{ECHO_PORT, Identity},
};

use crate::{
    load::Loads,
    measure::{Fault, Figures},
    plan::{LIMIT, MIN_ATTEMPTS, Plan, WARM_UP},
    scene::{lab, service},
    servers::Servers,
};

/// A way to configure it.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Lines of `defaults`, beside what both have.
    defaults: &'static str,
}

/// As it comes, and as quick as it can be made.
pub(crate) const ALL: [Peer; 2] = [
    Peer {
        name: "haproxy_default",
        defaults: "default-server check\n",
    },
    Peer {
        name: "haproxy_fastest",
        defaults: "option redispatch 1\nretries 3\n\
                   default-server check inter 100ms fall 2 rise 2 observe layer4 error-limit 1 on-error mark-down\n",
    },
];

/// Kills one of four servers behind HAProxy.
pub(crate) fn run(plan: &Plan, peer: &Peer, program: &Path) -> Result<Figures> {
    let lab = lab()?;
    let cancel = cancel::on_signal()?;
    let mut servers = Servers::start(&lab, None)?;
    let (_haproxy, downs) = start(plan, peer, program, &lab)?;
    let loads = Loads::start(&lab, &service(String::new()))?;
    thread::sleep(WARM_UP);
    loads.wait_for_answers(MIN_ATTEMPTS / 4)?;
    ensure!(
        downs.try_recv().is_err(),
        "a server is down before the fault"
    );
    let fault = Fault::now();
    let victim = Identity {
        color: Color::Blue,
        backend: 0,
    };
    servers.kill(victim)?;
    let down = downs.recv_timeout(LIMIT).context("no server went down")?;
    thread::sleep(plan.cool_down());
    ensure!(!cancel.is_cancelled(), "interrupted");
    let seen = loads.finish()?;
    let mut figures = Figures::of(peer.name, fault, &[victim], &seen);
    figures.detect_ms = Some(fault.ms_to(down));
    figures.ejections = 1 + downs.try_iter().count();
    let enough = figures.requests_after >= MIN_ATTEMPTS;
    figures.expect(enough, "too little happened after the fault");
    Ok(figures)
}

/// Starts it on the node; the moments at which it says that a server is down.
fn start(
    plan: &Plan,
    peer: &Peer,
    program: &Path,
    lab: &Lab,
) -> Result<(LabChild, mpsc::Receiver<SystemTime>)> {
    let file = lab.dir().join("haproxy.cfg");
    fs::write(&file, configuration(peer, lab)).context("cannot write HAProxy's configuration")?;
    let mut command = lab.node().command(program);
    if let Some(libraries) = &plan.haproxy_libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.args(["-db", "-f"]).arg(&file);
    command.stdout(Stdio::piped());
    let mut child = lab.node().start_child(command)?;
    let stdout = child.child().stdout.take().context("a pipe")?;
    let (told, downs) = mpsc::channel();
    // Ends with HAProxy.
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.contains(" is DOWN") {
                let _ = told.send(SystemTime::now());
            }
        }
    });
    for family in Family::ALL {
        wait_until_it_listens(&mut child, lab, service(String::new()).target(lab, family))?;
    }
    Ok((child, downs))
}

/// It says nothing when it is ready; whoever connects before is refused.
fn wait_until_it_listens(child: &mut LabChild, lab: &Lab, target: SocketAddr) -> Result<()> {
    const PATIENCE: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + LIMIT;
    let is_refused = || lab.client().run(|| TcpStream::connect(target)).is_err();
    while is_refused() {
        if let Some(status) = child.wait(PATIENCE)? {
            bail!("HAProxy ended with {status}");
        }
        ensure!(
            Instant::now() < deadline,
            "HAProxy does not listen at {target}"
        );
    }
    Ok(())
}

fn configuration(peer: &Peer, lab: &Lab) -> String {
    let mut text = format!(
        "global\nmaxconn 8000\nlog stdout format raw local0 notice\n\
         defaults\nmode tcp\nlog global\ntimeout connect 5s\ntimeout client 60s\ntimeout server 60s\n{}",
        peer.defaults
    );
    for family in Family::ALL {
        let target = service(String::new()).target(lab, family);
        // Writing to a String does not fail.
        let _ = writeln!(text, "listen {family:?}\nbind {target}\nbalance roundrobin");
        for (number, address) in lab.backends(Color::Blue, family).iter().enumerate() {
            let endpoint = SocketAddr::new(*address, ECHO_PORT);
            let _ = writeln!(text, "server blue{number} {endpoint}");
        }
    }
    text
}
