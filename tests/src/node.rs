//! The switcher on the lab's node: its configuration, the agent as a process, the CLI.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use switcher_common::service::{Color, Protocol};

use crate::{
    lab::{Family, Lab, LabChild},
    traffic::{ECHO_PORT, Flip, HTTP_PORT},
};

/// How long the agent may take until its API answers.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A service of the lab: one listener for each family and protocol.
#[derive(Clone, Debug)]
pub struct LabService {
    /// Its name.
    pub name: &'static str,
    /// Which of the lab's VIPs it has.
    pub vip: u8,
    /// Its port.
    pub port: u16,
    /// Its protocols.
    pub protocols: &'static [Protocol],
    /// Port of its backends.
    pub backend_port: u16,
    /// Lines that go into `[[service]]`.
    pub options: String,
}

impl LabService {
    /// HTTP on port 80.
    #[must_use]
    pub fn web(vip: u8) -> Self {
        Self {
            name: "web",
            vip,
            port: 80,
            protocols: &[Protocol::Tcp],
            backend_port: HTTP_PORT,
            options: String::new(),
        }
    }

    /// Echo over TCP, for connections that live long.
    #[must_use]
    pub fn stream(vip: u8) -> Self {
        Self {
            name: "stream",
            vip,
            port: 7,
            protocols: &[Protocol::Tcp],
            backend_port: ECHO_PORT,
            options: String::new(),
        }
    }

    /// Echo over UDP. Flows count as finished after a second of silence, so that drains are short.
    #[must_use]
    pub fn datagram(vip: u8) -> Self {
        Self {
            name: "datagram",
            vip,
            port: 7,
            protocols: &[Protocol::Udp],
            backend_port: ECHO_PORT,
            options: "drain_udp_idle = \"1s\"".to_owned(),
        }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn target(&self, lab: &Lab, family: Family) -> SocketAddr {
        SocketAddr::new(lab.vip(family, self.vip), self.port)
    }
}

/// The text of a configuration file for `services` in `lab`.
#[must_use]
pub fn configuration(lab: &Lab, services: &[LabService]) -> String {
    let dir = lab.dir().display();
    let mut text = format!(
        "[agent]\n\
         interfaces = [\"c1\", \"c2\", \"b\", \"g\"]\n\
         mode = \"native\"\n\
         socket = \"{dir}/switcher.sock\"\n\
         pin_dir = \"{}/switcher\"\n\
         state_dir = \"{dir}/state\"\n\
         [agent.limits]\n\
         flows = 65536\n\
         unanswered = 16384\n\
         services = 64\n\
         listeners = 256\n\
         backends = 1024\n\
         maglev_slots = 262144\n",
        lab.bpffs().display()
    );
    for service in services {
        write_service(&mut text, lab, service);
    }
    text
}

fn write_service(text: &mut String, lab: &Lab, service: &LabService) {
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "[[service]]\nname = \"{}\"\n{}",
        service.name, service.options
    );
    for family in [Family::V4, Family::V6] {
        for protocol in service.protocols {
            let name = format!("{}-{family:?}", protocol.name()).to_lowercase();
            let _ = writeln!(
                text,
                "[[service.listener]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"",
                lab.vip(family, service.vip),
                service.port,
                protocol.name()
            );
            for color in Color::ALL {
                let backends = lab.backends(color, family);
                let _ = writeln!(
                    text,
                    "{} = [{}]",
                    color.name(),
                    list(&backends, service.backend_port)
                );
            }
        }
    }
}

fn list(addresses: &[IpAddr], port: u16) -> String {
    let backend = |address: &IpAddr| format!("{{ address = \"{address}\", port = {port} }}");
    addresses.iter().map(backend).collect::<Vec<_>>().join(", ")
}

/// The switcher on the lab's node.
pub struct Node<'lab> {
    lab: &'lab Lab,
    binary: PathBuf,
    config: PathBuf,
    agent: Option<LabChild>,
}

impl<'lab> Node<'lab> {
    /// Writes the configuration for `services` and starts the agent.
    pub fn start(lab: &'lab Lab, services: &[LabService]) -> Result<Self> {
        let mut node = Self::configured(lab, &configuration(lab, services))?;
        node.start_agent()?;
        Ok(node)
    }

    /// Writes `configuration`, starts nothing.
    pub fn configured(lab: &'lab Lab, configuration: &str) -> Result<Self> {
        let config = lab.dir().join("switcher.toml");
        fs::write(&config, configuration)
            .with_context(|| format!("cannot write {}", config.display()))?;
        Ok(Self {
            lab,
            binary: binary()?,
            config,
            agent: None,
        })
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The agent's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.lab.dir().join("agent.log")
    }

    /// The command `switcher` on the node.
    #[must_use]
    pub fn command(&self) -> Command {
        self.lab.node().command(&self.binary)
    }

    /// Starts the agent and waits until it answers.
    pub fn start_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .context("cannot open the agent's log")?;
        let mut command = self.command();
        command.args(["agent", "--config"]).arg(&self.config);
        command.stderr(log);
        let mut agent = self.lab.node().start_child(command)?;
        self.wait_until_it_answers(&mut agent)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// There is no event to wait for from outside: the socket file appears before it is served, so
    /// a request is queued by it until the agent serves.
    fn wait_until_it_answers(&self, agent: &mut LabChild) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = agent.wait(Duration::from_millis(20))? {
                bail!("the agent ended ({status}); its log:\n{}", self.log());
            }
            if self.cli(&["status", "--json"])?.status.success() {
                return Ok(());
            }
        }
        bail!(
            "the agent does not answer after {START_LIMIT:?}; its log:\n{}",
            self.log()
        )
    }

    /// Kills the agent with SIGKILL.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("no agent runs")?.kill().map(drop)
    }

    /// Ends the agent with SIGTERM; its exit code must be 0.
    pub fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.terminate()?;
        match agent.wait(Duration::from_secs(10))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the agent ended with {status}; its log:\n{}", self.log()),
            None => bail!("the agent did not end; its log:\n{}", self.log()),
        }
    }

    /// Runs the CLI.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.command()
            .arg("--socket")
            .arg(self.lab.dir().join("switcher.sock"))
            .args(arguments)
            .output()
            .context("cannot run the switcher command")
    }

    /// Runs the CLI with `--json`; its object and exit code.
    pub fn json(&self, arguments: &[&str]) -> Result<(Value, i32)> {
        let output = self.cli(&[arguments, &["--json"]].concat())?;
        let object = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "`switcher {}` wrote no JSON object: {} {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok((object, output.status.code().unwrap_or(-1)))
    }

    /// `switcher status`.
    pub fn status(&self) -> Result<Value> {
        let (status, code) = self.json(&["status"])?;
        ensure!(code == 0, "status failed with {code}: {status}");
        Ok(status)
    }

    /// A service in `switcher status`.
    pub fn service(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let services = status["services"].as_array().cloned().unwrap_or_default();
        services
            .into_iter()
            .find(|service| service["name"] == name)
            .with_context(|| format!("no service {name} in {status}"))
    }

    /// Packets with `reason` since the data path was loaded.
    pub fn packets(&self, reason: &str) -> Result<u64> {
        let status = self.status()?;
        let verdicts = status["verdicts"].as_array().cloned().unwrap_or_default();
        let found = verdicts.iter().find(|verdict| verdict["reason"] == reason);
        Ok(found
            .and_then(|verdict| verdict["packets"].as_u64())
            .unwrap_or(0))
    }

    /// Flips by the CLI, which must succeed and change something.
    pub fn flip(&self, services: &[&str], to: Color) -> Result<Flip> {
        let started = Instant::now();
        let arguments = [&["flip"], services, &["--to", to.name()]].concat();
        let (reply, code) = self.json(&arguments)?;
        let returned = Instant::now();
        ensure!(
            code == 0 && reply["changed"] == true,
            "the flip failed with {code}: {reply}"
        );
        Ok(Flip {
            started,
            returned,
            to,
        })
    }
}

/// The built command, beside the running test or demo.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    own.ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join("switcher"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `switcher` beside {}: build it with `cargo build --bins`, or run `cargo xtask test`",
                own.display()
            )
        })
}
