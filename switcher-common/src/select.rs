//! Choosing a slot of a Maglev table for a flow: the hash, and its scaling to the table's size.

use crate::{address::Address, flow::FlowKey};

/// Spreads the bits of `word` (the finalizer of `MurmurHash3` by Austin Appleby, public domain).
#[inline(always)]
#[must_use]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

/// Hash of a flow. Every node with the same seed chooses alike.
#[inline(always)]
#[must_use]
pub fn flow_hash<A: Address>(key: &FlowKey<A>, seed: u64) -> u64 {
    let ports = u64::from(key.src_port_be) << 32
        | u64::from(key.dst_port_be) << 8
        | u64::from(key.protocol);
    let hash = mix(seed ^ key.src.digest());
    let hash = mix(hash ^ key.dst.digest());
    mix(hash ^ ports)
}

/// Slot of a table of `len` slots for `hash`. Multiplication instead of a remainder (Lemire, "A
/// fast alternative to the modulo reduction", 2016).
#[inline(always)]
#[must_use]
pub const fn slot(hash: u64, len: u32) -> u32 {
    (((hash & 0xffff_ffff) * len as u64) >> 32) as u32
}
