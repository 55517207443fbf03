//! The gate of a flip (G6): how many backends of a color could serve.

use std::{collections::BTreeSet, net::SocketAddr};

use switcher_common::service::Color;

use crate::{
    config::{BackendConfig, Config},
    switching::{Gate, Shortage},
};

/// Whether a backend may get fresh flows: it is not drained by hand. Without a check none is known to be bad.
pub(super) fn is_eligible(backend: &BackendConfig, drained: &BTreeSet<SocketAddr>) -> bool {
    !drained.contains(&(backend.address, backend.port).into())
}

/// Counts eligible backends.
pub(super) struct ConfiguredGate<'a> {
    config: &'a Config,
}

impl<'a> ConfiguredGate<'a> {
    /// The gate of `config`.
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config }
    }
}

impl Gate for ConfiguredGate<'_> {
    fn shortage(
        &self,
        service: &str,
        color: Color,
        drained: &BTreeSet<SocketAddr>,
    ) -> Option<Shortage> {
        if cfg!(mutant = "no-gate") {
            return None;
        }
        let service = self.config.services.iter().find(|s| s.name == service)?;
        let listeners = service
            .listeners
            .iter()
            .filter(|listener| !listener.preview);
        listeners
            .map(|listener| Shortage {
                listener: listener.name.clone(),
                eligible: (listener.backends(color).iter())
                    .filter(|backend| is_eligible(backend, drained))
                    .count(),
                min_healthy: service.min_healthy,
            })
            .find(|shortage| shortage.eligible < shortage.min_healthy as usize)
    }
}
