//! The servers: a process for each backend, on a host of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Host, Lab, LabChild},
    traffic::{ECHO_PORT, HTTP_PORT, Identity},
};

/// Which answers to HTTP checks come late.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowChecks {
    /// Each so many-th.
    pub(crate) every: u64,
    /// So late.
    pub(crate) by_ms: u64,
}

/// All servers of a lab.
pub(crate) struct Servers<'lab> {
    lab: &'lab Lab,
    binary: PathBuf,
    slow: Option<SlowChecks>,
    running: BTreeMap<Identity, LabChild>,
}

impl<'lab> Servers<'lab> {
    /// Starts them; ready when this returns.
    pub(crate) fn start(lab: &'lab Lab, slow: Option<SlowChecks>) -> Result<Self> {
        let mut servers = Self {
            lab,
            binary: binary()?,
            slow,
            running: BTreeMap::new(),
        };
        for color in Color::ALL {
            for identity in servers.of(color) {
                servers.begin(identity)?;
            }
        }
        Ok(servers)
    }

    /// The backends of a color, whether they run or not.
    pub(crate) fn of(&self, color: Color) -> Vec<Identity> {
        let count = self.lab.backends(color, Family::V4).len();
        let numbers = 0..u32::try_from(count).unwrap_or(u32::MAX);
        numbers.map(|backend| Identity { color, backend }).collect()
    }

    /// Starts one that does not run.
    pub(crate) fn begin(&mut self, identity: Identity) -> Result<()> {
        let addresses = self.addresses(identity)?;
        let at = |port: u16| addresses.map(|it| SocketAddr::new(it, port).to_string());
        let mut command = self.host(identity)?.command(&self.binary);
        command.args(["--color", identity.color.name()]);
        command.args(["--backend", &identity.backend.to_string()]);
        for address in at(HTTP_PORT) {
            command.args(["--http", &address]);
        }
        if let Some(slow) = self.slow {
            command.args(["--slow-every", &slow.every.to_string()]);
            command.args(["--slow-ms", &slow.by_ms.to_string()]);
        }
        command.args(at(ECHO_PORT)).stdout(Stdio::piped());
        let mut child = self.host(identity)?.start_child(command)?;
        let stdout = child.child().stdout.take().context("a pipe")?;
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.context("waiting for a server")?;
        ensure!(line == "ready\n", "the server of {identity} says {line:?}");
        self.running.insert(identity, child);
        Ok(())
    }

    /// Kills one with SIGKILL.
    pub(crate) fn kill(&mut self, identity: Identity) -> Result<()> {
        let found = self.running.remove(&identity);
        let mut child = found.with_context(|| format!("{identity} does not run"))?;
        child.kill().map(drop)
    }

    /// Stops the process: the kernel goes on to accept its connections.
    pub(crate) fn freeze(&self, identity: Identity) -> Result<()> {
        let found = self.running.get(&identity);
        found
            .with_context(|| format!("{identity} does not run"))?
            .freeze()
    }

    /// The host of a backend.
    pub(crate) fn host(&self, identity: Identity) -> Result<&'lab Host> {
        let [v4, _] = self.addresses(identity)?;
        self.lab.host_of(v4)
    }

    fn addresses(&self, identity: Identity) -> Result<[std::net::IpAddr; 2]> {
        let of = |family| {
            let all = self.lab.backends(identity.color, family);
            let found = all.get(identity.backend as usize).copied();
            found.with_context(|| format!("this lab has no {identity}"))
        };
        Ok([of(Family::V4)?, of(Family::V6)?])
    }
}

/// The server's program, beside this one.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let found = own.with_file_name("echo_server");
    ensure!(
        found.is_file(),
        "no {}: build it with `cargo build --bins`, or run `cargo xtask failover`",
        found.display()
    );
    Ok(found)
}
