//! Source ports that come back as late as possible.

use std::sync::atomic::{AtomicU32, Ordering};

/// The first port that is handed out.
pub const FIRST_PORT: u16 = 1024;

/// Hands out source ports one after the other.
///
/// A port that comes back soon would meet its own `TIME_WAIT`, or, with UDP, a flow that is still
/// tracked and therefore not fresh. The range lasts 64 512 connections: at up to 1 000 per second
/// and host none comes back within a minute.
#[derive(Debug)]
pub struct Ports(AtomicU32);

impl Ports {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The next port.
    pub fn next(&self) -> u16 {
        let span = u32::from(u16::MAX - FIRST_PORT) + 1;
        let offset = self.0.fetch_add(1, Ordering::Relaxed) % span;
        u16::try_from(u32::from(FIRST_PORT) + offset).unwrap_or(FIRST_PORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_comes_back_before_all_were_used() {
        let ports = Ports::new();
        let count = usize::from(u16::MAX - FIRST_PORT) + 1;
        let used: std::collections::HashSet<u16> = (0..count).map(|_| ports.next()).collect();
        assert_eq!(used.len(), count);
        assert_eq!(ports.next(), FIRST_PORT);
    }
}
