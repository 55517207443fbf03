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
pub const LAYOUT_VERSION: u32 = 8;

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
