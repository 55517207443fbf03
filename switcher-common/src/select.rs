//! Choosing for a packet without a flow: the color, and the slot of that color's Maglev table. The
//! program and `switcher explain` choose by the same code.

use crate::{
    address::Address,
    flow::FlowKey,
    service::{Color, ListenerRecord, ServiceSwitch},
};

/// Seed of the flow hash; the same on every node, so that nodes choose alike.
pub const FLOW_HASH_SEED: u64 = 0x7377_6974_6368_6572;

/// How many backends are tried until one is found that is not the source itself and whose reply
/// tuple is free.
pub const BACKEND_TRIES: u32 = 4;

/// Seed of the hash that shares clients between the colors: another one than the flow hash's, so that
/// a share of the clients is no share of a table's slots.
const SPLIT_SEED: u64 = 0x7370_6c69_7420_6279;

/// The color of a packet that no flow pins: what begins goes to the active color, or, from a share of
/// the clients, to the standby; what is in the middle of a stream goes to the base color (G9), and a
/// preview's to the standby.
#[inline(always)]
#[must_use]
pub fn color<A: Address>(
    listener: &ListenerRecord,
    switch: &ServiceSwitch,
    client: &A,
    begins: bool,
) -> Color {
    if listener.is_preview() || (begins && is_in_share(client, switch.split_percent)) {
        Color::from_bit(switch.active).other()
    } else if begins || cfg!(mutant = "no-base-color") {
        Color::from_bit(switch.active ^ u8::from(cfg!(mutant = "fault-color")))
    } else {
        Color::from_bit(switch.base)
    }
}

/// Whether fresh flows of `client` go to the standby when `percent` of the clients do. The shares are
/// nested: a larger one has all clients of a smaller one.
#[inline(always)]
#[must_use]
pub fn is_in_share<A: Address>(client: &A, percent: u8) -> bool {
    slot(mix(SPLIT_SEED ^ client.digest()), 100) < u32::from(percent) && !cfg!(mutant = "no-split")
}

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
