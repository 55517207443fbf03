//! What the XDP program and userspace agree on: keys, values, reasons, and the packet logic that
//! needs no kernel. Plain `no_std` Rust, compiled for the host as well, where it is tested.
#![no_std]

pub mod address;
pub mod checksum;
pub mod clock;
pub mod cut;
pub mod filter;
pub mod flow;
pub mod heard;
pub mod hop;
pub mod interface;
pub mod packet;
pub mod rate;
pub mod reason;
pub mod report;
pub mod scan;
pub mod select;
pub mod send_error;
pub mod service;
pub mod stats;
pub mod trace;

/// Version of everything that is shared through pinned maps. Raise it with any change of a key, a
/// value, a map's meaning or a map's name; an agent refuses pins of another version.
pub const LAYOUT_VERSION: u32 = 9;

/// Slots of the map of programs. They are stored one after the other, so packets may meet the fast path of one
/// build and the stages of another, until an agent starts again if one dies in between. So builds of one
/// [`LAYOUT_VERSION`] agree on the maps' meaning in halves too; what the fast path leaves to the stages is as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ProgramSlot {
    /// What the dispatchers jump to.
    Fast = 0,
    /// What the fast path jumps to with whatever it is not sure of.
    Stages = 1,
}

impl ProgramSlot {
    /// All of them, by number.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Stages];

    /// The program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Fast => "switcher",
            Self::Stages => "stages",
        }
    }
}

/// Declares that a struct may cross the kernel boundary, and proves its size.
///
/// `aya::Pod` asks for what `bytemuck::Pod` guarantees; only userspace needs it.
macro_rules! shared {
    ($type:ty, $size:literal) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: the type is `bytemuck::Pod`: `repr(C)`, no padding, every bit pattern valid.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
use shared;
