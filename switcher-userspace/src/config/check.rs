//! `[service.check]`: how the agent asks a backend whether it can serve.

use std::{fmt, path::PathBuf};

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
    /// HTTP and HTTPS: the path, with a query if there is one.
    pub path: Option<String>,
    /// HTTP and HTTPS: the `Host` header; absent: the backend's address and port. HTTPS: without its port also the
    /// name that is asked for (SNI) and that the certificate must have; absent: the backend's address.
    pub host: Option<String>,
    /// HTTP and HTTPS: the status of a backend that can serve; absent: 200 to 399.
    pub expect_status: Option<u16>,
    /// HTTPS: PEM file with the certificates of the issuers that are trusted; absent: the system's.
    pub ca_file: Option<PathBuf>,
    /// HTTPS: whether the backend's certificate is verified; absent: it is.
    pub verify: Option<bool>,
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
    /// The same over TLS.
    Https,
}

impl CheckConfig {
    /// The path that is asked for.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }

    /// Whether a certificate that cannot be verified fails the check.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.verify.unwrap_or(true)
    }

    /// The name in `host`, without its port.
    #[must_use]
    pub fn host_name(&self) -> Option<&str> {
        let host = self.host.as_deref()?;
        let name = match host.strip_prefix('[') {
            // An IPv6 address, and perhaps a port.
            Some(rest) => rest.split(']').next(),
            None => host.split(':').next(),
        };
        Some(name.unwrap_or(host))
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
            ca_file: None,
            verify: None,
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
            CheckKind::Https => write!(f, "https {}", self.path())?,
        }
        if let Some(host) = &self.host {
            write!(f, " of {host}")?;
        }
        if let Some(status) = self.expect_status {
            write!(f, ", expected {status}")?;
        }
        if let Some(file) = &self.ca_file {
            write!(f, ", issuers of {}", file.display())?;
        }
        if !self.verifies() {
            f.write_str(", certificates not verified")?;
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
