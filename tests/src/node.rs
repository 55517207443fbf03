//! The switcher on the lab's node: its configuration, the agent as a process, the CLI.

mod another;
mod many;
mod rights;
mod services;

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::CapabilitySet;
use serde_json::Value;
use switcher_common::service::Color;

pub use self::{
    many::Many,
    rights::NOBODY,
    services::{LabService, configuration},
};
use crate::{
    lab::{Lab, LabChild},
    steps::Watch,
    traffic::Flip,
};

/// How long the agent may take until its API answers.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a command may take that is expected to end by itself.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Time between two looks at a state that sends no event.
const LOOK: Duration = Duration::from_millis(20);

/// How a command ended that was expected to.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// The JSON object on standard output; anything beside it is an error.
    pub fn object(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("standard output is not exactly one JSON object: {self:?}"))
    }
}

/// The switcher on the lab's node.
pub struct Node<'lab> {
    lab: &'lab Lab,
    binary: PathBuf,
    config: PathBuf,
    agent: Option<LabChild>,
    /// Of the agent; `None` is root with all of them.
    capabilities: Option<CapabilitySet>,
    /// Of the agent's steps.
    watch: Option<Arc<Watch>>,
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
            capabilities: None,
            watch: None,
        })
    }

    /// Agents that are started from now on are an unprivileged user's, with `capabilities` only.
    pub fn limit(&mut self, capabilities: CapabilitySet) -> Result<()> {
        rights::give(self.lab.dir())?;
        self.capabilities = Some(capabilities);
        Ok(())
    }

    /// Agents that are started from now on are watched.
    pub fn watch(&mut self, watch: Arc<Watch>) {
        self.watch = Some(watch);
    }

    /// Installs another build of the command, whose program has the same meaning and other instructions.
    /// Agents that are started from now on are of that build; the other one is returned.
    pub fn install_another(&mut self) -> Result<PathBuf> {
        let mut command = fs::read(&self.binary)
            .with_context(|| format!("cannot read {}", self.binary.display()))?;
        another::rebuild(&mut command).context("making another build of the command")?;
        let path = self.lab.dir().join("switcher");
        fs::write(&path, command).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} a command", path.display()))?;
        Ok(self.install(path))
    }

    /// Agents that are started from now on are of the build `binary`; the other one is returned.
    pub fn install(&mut self, binary: PathBuf) -> PathBuf {
        std::mem::replace(&mut self.binary, binary)
    }

    /// The process id of the agent.
    pub fn agent_id(&self) -> Result<u32> {
        let agent = self.agent.as_ref().context("no agent runs")?;
        Ok(agent.id())
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Replaces the configuration file; the agent reads it when it starts, or at SIGHUP.
    pub fn reconfigure(&self, configuration: &str) -> Result<()> {
        fs::write(&self.config, configuration)
            .with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// Sends the agent SIGHUP.
    pub fn hang_up_agent(&self) -> Result<()> {
        self.agent.as_ref().context("no agent runs")?.hang_up()
    }

    /// A file with `configuration` beside the agent's own.
    pub fn another_file(&self, name: &str, configuration: &str) -> Result<String> {
        let file = self.lab.dir().join(name);
        fs::write(&file, configuration)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file.display().to_string())
    }

    /// Runs `switcher apply` with another file than the agent's own; its object and exit code.
    pub fn apply(&self, configuration: &str, arguments: &[&str]) -> Result<(Value, i32)> {
        let file = self.another_file("another.toml", configuration)?;
        self.json(&[&["apply", file.as_str()], arguments].concat())
    }

    /// The agent's log so far.
    #[must_use]
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
        self.spawn_agent()?;
        let mut agent = self.agent.take().context("it was just started")?;
        self.wait_until_it_answers(&mut agent)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Starts the agent and waits for nothing.
    pub fn spawn_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .context("cannot open the agent's log")?;
        let mut command = self.agent_command(self.capabilities)?;
        command.args(["agent", "--config"]).arg(&self.config);
        command.stdout(log.try_clone().context("cannot share the agent's log")?);
        command.stderr(log);
        // A Ctrl-C is the harness's to handle.
        command.process_group(0);
        let watch = self.watch.clone();
        self.agent = Some(self.started(command, watch.as_ref())?);
        Ok(())
    }

    fn started(&self, mut command: Command, watch: Option<&Arc<Watch>>) -> Result<LabChild> {
        let supervisor = watch.map(|watch| watch.over(&mut command)).transpose()?;
        let child = self.lab.node().start_child(command)?;
        if let Some(supervisor) = supervisor {
            supervisor.start(child.id())?;
        }
        Ok(child)
    }

    /// Runs `switcher agent --config CONFIG`, which is expected to end by itself, as root or as an
    /// unprivileged user with some capabilities.
    pub fn agent_that_ends(
        &self,
        config: &Path,
        arguments: &[&str],
        capabilities: Option<CapabilitySet>,
    ) -> Result<Ended> {
        let mut command = self.agent_command(capabilities)?;
        command.args(["agent", "--config"]).arg(config);
        command.args(arguments);
        self.ends(command)
    }

    fn agent_command(&self, capabilities: Option<CapabilitySet>) -> Result<Command> {
        let Some(capabilities) = capabilities else {
            return Ok(self.command());
        };
        let mut command = self.lab.node().command(self.binary_for_all()?);
        rights::limit(&mut command, capabilities);
        Ok(command)
    }

    /// Runs `switcher detach` for the configuration.
    pub fn detach(&self, arguments: &[&str]) -> Result<(Value, i32)> {
        let mut command = self.command();
        command.args(["detach", "--json", "--config"]);
        command.arg(&self.config).args(arguments);
        let ended = self.ends(command)?;
        Ok((ended.object()?, ended.code))
    }

    /// Starts the CLI with `--json` beside the caller; [`Node::end_of`] waits for it.
    pub fn start_cli(&self, arguments: &[&str]) -> Result<LabChild> {
        self.start_watched_cli(arguments, None)
    }

    /// As [`Node::start_cli`], with a watch over its steps.
    pub fn start_watched_cli(
        &self,
        arguments: &[&str],
        watch: Option<&Arc<Watch>>,
    ) -> Result<LabChild> {
        let mut command = self.command();
        command.arg("--json").arg("--socket").arg(self.socket());
        command.args(arguments);
        self.piped(command, watch)
    }

    /// Waits for the end of a command that was started with pipes.
    pub fn end_of(&self, mut child: LabChild) -> Result<Ended> {
        let Some(status) = child.wait(END_LIMIT)? else {
            bail!("a command did not end within {END_LIMIT:?}");
        };
        let pipes = child.child();
        Ok(Ended {
            code: status.code().unwrap_or(-1),
            stdout: read(pipes.stdout.take())?,
            stderr: read(pipes.stderr.take())?,
        })
    }

    fn ends(&self, command: Command) -> Result<Ended> {
        self.end_of(self.piped(command, None)?)
    }

    fn piped(&self, mut command: Command, watch: Option<&Arc<Watch>>) -> Result<LabChild> {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.started(command, watch)
    }

    /// A copy of the command where everybody can reach it.
    fn binary_for_all(&self) -> Result<PathBuf> {
        let copy = self.lab.dir().join("switcher");
        if copy.exists() {
            return Ok(copy);
        }
        fs::copy(&self.binary, &copy)
            .with_context(|| format!("cannot copy the command to {}", copy.display()))?;
        Ok(copy)
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

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.lab.dir().join("switcher.sock")
    }

    /// Runs the CLI.
    ///
    /// Not in the node's namespaces: the API's socket is a file, and entering namespaces would make
    /// the caller fork with all its memory, which takes longer than the flip.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.binary)
            .arg("--socket")
            .arg(self.socket())
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
        let found = service_in(&status, name);
        ensure!(!found.is_null(), "no service {name} in {status}");
        Ok(found.clone())
    }

    /// Waits until `done` holds for `switcher status`, which sends no events; `what` names it.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let status = self.status()?;
            if done(&status) {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{what}: not within {END_LIMIT:?}; the status is {status}"
            );
            thread::sleep(LOOK);
        }
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

/// A service in an answer of `switcher status`; null when it is not there.
#[must_use]
pub fn service_in<'a>(status: &'a Value, name: &str) -> &'a Value {
    let services = status["services"].as_array();
    let mut services = services.into_iter().flatten();
    services
        .find(|service| service["name"] == name)
        .unwrap_or(&Value::Null)
}

fn read(pipe: Option<impl io::Read>) -> Result<String> {
    let mut text = String::new();
    let mut pipe = pipe.context("the command was started without pipes")?;
    pipe.read_to_string(&mut text)
        .context("cannot read what a command wrote")?;
    Ok(text)
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
