//! The configuration file: its shape ([`Config`]), its defaults, and reading it.
//!
//! Reading is all or nothing: a file is parsed, then checked as a whole ([`validate`]); every
//! finding names the file, and the line where the parser knows it.

mod check;
pub mod difference;
mod failover;
mod file;
mod fixed;
mod hook;
mod listeners;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, Protocol};

pub use self::{
    check::{CheckConfig, CheckKind},
    failover::FailoverConfig,
    file::ConfigFile,
    fixed::FixedKey,
    hook::{HookConfig, HookEvent},
    listeners::Listeners,
};
use crate::{duration::Span, switching::AtDeadline};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where and how the agent runs.
    pub agent: AgentConfig,
    /// What is switched.
    #[serde(default, rename = "service")]
    pub services: Vec<ServiceConfig>,
}

/// `[agent]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Interfaces that the program is attached to.
    pub interfaces: Vec<String>,
    /// How it is attached.
    #[serde(default)]
    pub mode: AttachMode,
    /// The API's Unix socket.
    #[serde(default = "defaults::socket")]
    pub socket: PathBuf,
    /// Directory on a bpffs that holds the pinned maps, programs and links.
    #[serde(default = "defaults::pin_dir")]
    pub pin_dir: PathBuf,
    /// Directory of the state file.
    #[serde(default = "defaults::state_dir")]
    pub state_dir: PathBuf,
    /// Table sizes, fixed while the data path stays loaded.
    #[serde(default)]
    pub limits: Limits,
    /// Commands that are run when something has happened.
    #[serde(default, rename = "hook")]
    pub hooks: Vec<HookConfig>,
}

/// `[agent.limits]`: entries per table, fixed when the data path is first loaded, and rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Established flows per address family.
    pub flows: u32,
    /// Flows whose backend has not answered yet, per address family (an LRU).
    pub unanswered: u32,
    /// Fragmented datagrams whose ports are kept for their later fragments, per address family (an
    /// LRU).
    pub fragments: u32,
    /// Services.
    pub services: u32,
    /// Listeners of all services together; during an apply those that it removes count too.
    pub listeners: u32,
    /// Backends of all listeners and colors together; those count too that an apply removes, until
    /// it is over and their flows have ended.
    pub backends: u32,
    /// Slots of all Maglev tables together, old and new during an apply.
    pub maglev_slots: u32,
    /// Flows that may be recorded per CPU and second; packets of further ones are dropped. Not
    /// fixed: takes effect at each start.
    pub inserts_per_second: u32,
    /// Indexes of network interfaces, counted from 0. Of an interface beyond them the program knows
    /// nothing: it is taken for one without a VLAN that takes redirected frames.
    pub interfaces: u32,
}

/// `mode` of `[agent]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native where the driver can, else generic, with a warning.
    #[default]
    Auto,
    /// In the driver, or refuse to start.
    Native,
    /// In the stack; slow, works everywhere.
    Generic,
}

/// `[[service]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Unique; at most [`MAX_NAME_BYTES`] of `a-z A-Z 0-9 - _ .`.
    pub name: String,
    /// Active color where neither the kernel nor the state file knows one.
    #[serde(default = "defaults::initial_active")]
    pub initial_active: Color,
    /// A flip needs as many eligible backends on the new color, per listener.
    #[serde(default = "defaults::min_healthy")]
    pub min_healthy: u32,
    /// How long a drain lasts at most unless a flip says otherwise.
    #[serde(default = "defaults::drain_timeout")]
    pub drain_timeout: Span,
    /// What happens at the end of that time to the flows that are left.
    #[serde(default)]
    pub at_deadline: AtDeadline,
    /// Silence after which a UDP flow counts as finished during a drain.
    #[serde(default = "defaults::drain_udp_idle")]
    pub drain_udp_idle: Span,
    /// Silence after which a flow is forgotten.
    #[serde(default)]
    pub idle: IdleTimeouts,
    /// A TCP connection that its backend refuses or leaves unanswered goes to another one when the client
    /// tries again.
    #[serde(default = "defaults::second_chance")]
    pub second_chance: bool,
    /// How backends are asked whether they can serve.
    #[serde(default)]
    pub check: Option<CheckConfig>,
    /// Whether and when the agent changes the active color by itself.
    #[serde(default)]
    pub failover: Option<FailoverConfig>,
    /// Where the service listens.
    #[serde(default, rename = "listener")]
    pub listeners: Listeners,
}

/// `[service.idle]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdleTimeouts {
    /// A flow whose backend has not answered yet.
    pub unanswered: Span,
    /// An established TCP flow.
    pub established: Span,
    /// A TCP flow after FIN in both directions or RST.
    pub closing: Span,
    /// A UDP flow whose backend has answered.
    pub udp: Span,
}

/// `[[service.listener]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Unique within the service.
    pub name: String,
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always selects the standby.
    #[serde(default)]
    pub preview: bool,
    /// Backends of blue.
    #[serde(default)]
    pub blue: Vec<BackendConfig>,
    /// Backends of green.
    #[serde(default)]
    pub green: Vec<BackendConfig>,
}

/// One backend of a listener and color.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// Address of the VIP's family.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Share of fresh flows relative to the other backends of the list, 1 to [`MAX_WEIGHT`].
    #[serde(default = "defaults::weight")]
    pub weight: u16,
}

/// Longest name of a service or listener in bytes: it is stored in a map value of fixed size.
pub const MAX_NAME_BYTES: usize = 63;
/// Longest drain of a service that says nothing else.
pub const DEFAULT_DRAIN_TIMEOUT: Span = Span::from_secs(30);
/// Largest weight; bounds the time that filling a Maglev table takes.
pub const MAX_WEIGHT: u16 = 1_000;

/// Why a configuration was rejected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}; name the file with --config", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML of the expected shape; the parser's message has line and column.
    #[error("the configuration {} does not parse: {message}", file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// The file parses but contradicts itself.
    #[error("the configuration {} is rejected:{}", file.display(), Lines(findings))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Everything that is wrong, a line each.
        findings: Vec<String>,
    },
    /// The file names commands, and others than root and the agent's user could have written them.
    #[error(
        "the configuration {} is rejected: it has hooks, which run with the agent's rights, and {found}; expected a file \
         of root or of the agent's user that nobody else can write: chown root and chmod go-w it", file.display()
    )]
    ForeignHooks {
        /// The file.
        file: PathBuf,
        /// What lets others write it.
        found: String,
    },
}

struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n  - {line}"))
    }
}

impl Config {
    /// Reads and checks `file`.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        ConfigFile::read(file)?.config()
    }

    /// Checks `text`, the content of `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Parse {
            file: file.to_owned(),
            message: error.to_string(),
        })?;
        let findings = validate::findings(&config, text);
        if findings.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid {
                file: file.to_owned(),
                findings,
            })
        }
    }
}

impl ServiceConfig {
    /// Addresses and ports of all backends; one for each listener and color that has it.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        let of = |listener: &ListenerConfig, color| -> Vec<SocketAddr> {
            let backends = listener.backends(color).iter();
            backends.map(BackendConfig::endpoint).collect()
        };
        self.listeners
            .iter()
            .flat_map(move |it| Color::ALL.into_iter().flat_map(move |color| of(it, color)))
    }
}

impl BackendConfig {
    /// Address and port.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        (self.address, self.port).into()
    }
}

impl ListenerConfig {
    /// The backends of `color`.
    #[must_use]
    pub fn backends(&self, color: Color) -> &[BackendConfig] {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: AttachMode::default(),
            socket: defaults::socket(),
            pin_dir: defaults::pin_dir(),
            state_dir: defaults::state_dir(),
            limits: Limits::default(),
            hooks: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 1_048_576,
            unanswered: 262_144,
            fragments: 8_192,
            services: 1_024,
            listeners: 32_768,
            backends: 131_072,
            maglev_slots: 16_777_216,
            inserts_per_second: 125_000,
            interfaces: 4_096,
        }
    }
}

impl Default for IdleTimeouts {
    fn default() -> Self {
        Self {
            unanswered: Span::from_secs(10),
            established: Span::from_secs(7_500),
            closing: Span::from_secs(10),
            udp: Span::from_secs(60),
        }
    }
}

/// Defaults as functions, the form that serde takes.
pub mod defaults {
    use std::path::PathBuf;

    use switcher_common::service::Color;

    use crate::duration::Span;

    /// The configuration file.
    pub const CONFIG: &str = "/etc/switcher/switcher.toml";
    /// The API's socket.
    pub const SOCKET: &str = "/run/switcher/switcher.sock";
    /// The pin directory.
    pub const PIN_DIR: &str = "/sys/fs/bpf/switcher";

    pub(super) fn socket() -> PathBuf {
        SOCKET.into()
    }
    pub(super) fn pin_dir() -> PathBuf {
        PIN_DIR.into()
    }
    pub(super) fn state_dir() -> PathBuf {
        "/var/lib/switcher".into()
    }
    pub(super) fn initial_active() -> Color {
        Color::Blue
    }
    pub(super) fn second_chance() -> bool {
        true
    }
    pub(super) fn min_healthy() -> u32 {
        1
    }
    pub(super) fn weight() -> u16 {
        1
    }
    pub(super) fn drain_timeout() -> Span {
        super::DEFAULT_DRAIN_TIMEOUT
    }
    pub(super) fn drain_udp_idle() -> Span {
        Span::from_secs(5)
    }
}
