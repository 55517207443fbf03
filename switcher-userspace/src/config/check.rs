//! `[service.check]`: how the agent asks a backend whether it can serve.

use std::fmt;

use serde::Deserialize;

use crate::{duration::Span, switching::AtDeadline};

/// `[service.check]`; without one, backends are eligible unless somebody drains them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckConfig {
    /// What is asked.
    #[serde(default)]
    pub kind: CheckKind,
    /// Port of each backend that is asked; absent: the one that it serves on.
    pub port: Option<u16>,
    /// HTTP: the path, with a query if there is one.
    pub path: Option<String>,
    /// HTTP: the `Host` header; absent: the backend's address and port.
    pub host: Option<String>,
    /// HTTP: the status of a backend that can serve; absent: 200 to 399.
    pub expect_status: Option<u16>,
    /// From the beginning of a check to that of the next.
    #[serde(default = "CheckConfig::default_interval")]
    pub interval: Span,
    /// A check that takes longer has failed.
    #[serde(default = "CheckConfig::default_timeout")]
    pub timeout: Span,
    /// So many failures in a row make a backend unhealthy.
    #[serde(default = "CheckConfig::default_fall")]
    pub fall: u32,
    /// So many successes in a row make an unhealthy backend healthy.
    #[serde(default = "CheckConfig::default_rise")]
    pub rise: u32,
    /// What becomes of the flows of a backend that has left its table because it takes no connection at all.
    /// One that takes them and fails its checks all the same keeps its flows.
    #[serde(default = "CheckConfig::default_at_ejection")]
    pub at_ejection: AtDeadline,
}

/// `kind` of `[service.check]`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A TCP connection is accepted.
    #[default]
    Tcp,
    /// An HTTP/1.1 GET is answered as expected.
    Http,
}

impl CheckConfig {
    /// The path that is asked for.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }

    /// Whether an answer with `status` is one of a backend that can serve.
    #[must_use]
    pub fn expects(&self, status: u16) -> bool {
        match self.expect_status {
            Some(expected) => status == expected,
            None => (200..400).contains(&status),
        }
    }

    /// Milliseconds after which health tells of a change at the latest: each check may begin an interval late, a
    /// twentieth of it included, and take as long as it may.
    #[must_use]
    pub fn settles_ms(&self) -> u64 {
        let interval_ms = self.interval.as_millis();
        let each_ms = interval_ms + interval_ms / 20 + self.timeout.as_millis();
        u64::from(self.fall.max(self.rise)) * each_ms
    }

    const fn default_interval() -> Span {
        Span::from_millis(200)
    }

    const fn default_timeout() -> Span {
        Span::from_millis(200)
    }

    const fn default_fall() -> u32 {
        3
    }

    const fn default_rise() -> u32 {
        2
    }

    const fn default_at_ejection() -> AtDeadline {
        AtDeadline::Reset
    }
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self {
            kind: CheckKind::default(),
            port: None,
            path: None,
            host: None,
            expect_status: None,
            interval: Self::default_interval(),
            timeout: Self::default_timeout(),
            fall: Self::default_fall(),
            rise: Self::default_rise(),
            at_ejection: Self::default_at_ejection(),
        }
    }
}

impl fmt::Display for CheckConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            CheckKind::Tcp => f.write_str("tcp")?,
            CheckKind::Http => write!(f, "http {}", self.path())?,
        }
        if let Some(host) = &self.host {
            write!(f, " of {host}")?;
        }
        if let Some(status) = self.expect_status {
            write!(f, ", expected {status}")?;
        }
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        let Self {
            interval,
            timeout,
            fall,
            rise,
            at_ejection,
            ..
        } = self;
        write!(
            f,
            ", every {interval}, timeout {timeout}, fall {fall}, rise {rise}, flows of a dead backend: {}",
            at_ejection.name()
        )
    }
}
