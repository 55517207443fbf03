//! Counters that the program keeps per CPU.

use bytemuck::{Pod, Zeroable};

use crate::{service::Color, shared};

/// Traffic of one color of a service, both directions; one value per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ColorStats {
    /// Packets that were rewritten.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
    /// Flows that were recorded.
    pub new_flows: u64,
    /// Packets in the middle of a stream without a pin.
    pub unpinned_packets: u64,
}
shared!(ColorStats, 32);

impl ColorStats {
    /// Index of the counters of `color` of a service.
    #[inline(always)]
    #[must_use]
    pub const fn index(service: u16, color: Color) -> u32 {
        service as u32 * 2 + color as u32
    }
}
