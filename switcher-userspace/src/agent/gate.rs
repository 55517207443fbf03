//! The gate of a flip (G6): how many backends of a color could serve.

use switcher_common::service::Color;

use crate::{
    config::Config,
    switching::{Gate, Shortage},
};

/// Counts configured backends. Without a check none of them is known to be bad.
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
    fn shortage(&self, service: &str, color: Color) -> Option<Shortage> {
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
                eligible: listener.backends(color).len(),
                min_healthy: service.min_healthy,
            })
            .find(|shortage| shortage.eligible < shortage.min_healthy as usize)
    }
}
