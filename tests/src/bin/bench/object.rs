//! The programs that the bench brings along.

/// The object that `tests/build.rs` builds.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/switcher-bench-ebpf"));
