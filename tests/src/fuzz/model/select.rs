//! Rule 3.5's choice of a slot: the flow hash as the page gives it.

use std::net::IpAddr;

use super::types::Tuple;

/// "switcher" in ASCII.
const SEED: u64 = 0x7377_6974_6368_6572;
/// Bits of the map of addresses.
const FILTER_BITS: u64 = 131_072;

const fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

fn digest(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(it) => u64::from(u32::from_le_bytes(it.octets())),
        IpAddr::V6(it) => {
            let bytes = it.octets();
            let word = |at: usize| {
                let four = bytes[at..at + 4].try_into().expect("four bytes");
                u64::from(u32::from_le_bytes(four))
            };
            mix(word(0) << 32 | word(4)) ^ (word(8) << 32 | word(12))
        }
    }
}

/// Place of the flow of `tuple` in a table of `len` slots.
#[must_use]
pub(super) fn slot(tuple: &Tuple, len: u32) -> u32 {
    let wire = |port: u16| u64::from(port.swap_bytes());
    let ports =
        wire(tuple.src.port()) << 32 | wire(tuple.dst.port()) << 8 | u64::from(tuple.protocol);
    let hash = mix(SEED ^ digest(tuple.src.ip()));
    let hash = mix(hash ^ digest(tuple.dst.ip()));
    let low = mix(hash ^ ports) & 0xffff_ffff;
    u32::try_from((low * u64::from(len)) >> 32).expect("less than the length")
}

/// Where a client stands among all, in percent: below a service's split it goes to the standby.
#[must_use]
pub(super) fn share(client: IpAddr) -> u8 {
    /// "split by" in ASCII.
    const SEED: u64 = 0x7370_6c69_7420_6279;
    let low = mix(SEED ^ digest(client)) & 0xffff_ffff;
    u8::try_from((low * 100) >> 32).expect("below 100")
}

/// The bit of an address in the map of addresses.
#[must_use]
pub(super) fn filter_bit(address: IpAddr) -> usize {
    usize::try_from(mix(digest(address)) & (FILTER_BITS - 1)).expect("a small number")
}
