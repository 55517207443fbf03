//! What the XDP program and userspace agree on: keys, values, reasons, and the packet logic that
//! needs no kernel. Plain `no_std` Rust, compiled for the host as well, where it is tested.
#![no_std]

pub mod service;

/// Version of everything that is shared through pinned maps. Raise it with any change of a key, a
/// value, a map's meaning or a map's name; an agent refuses pins of another version.
pub const LAYOUT_VERSION: u32 = 1;
