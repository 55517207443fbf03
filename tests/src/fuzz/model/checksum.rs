//! Internet checksums by full recomputation (RFC 1071), in a form that also says what becomes of a
//! checksum that was wrong before: by as much as it was wrong, it stays wrong.
//!
//! In ones' complement arithmetic, which is modulo 65 535, the checksum and everything under it sum up
//! to a constant: 0 for a good one, anything else for a bad one. A rewrite keeps the constant.

/// Sum of the big-endian 16-bit words of `bytes`, modulo 65 535; an odd last byte is padded.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u64 = words
        .by_ref()
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    if let [last] = words.remainder() {
        total += u64::from(u16::from_be_bytes([*last, 0]));
    }
    total % 65_535
}

/// A checksum field after everything under it changed from `before` to `after`, two sums. Never
/// 0xffff: zero has one form in a checksum field, unless a protocol says otherwise.
#[must_use]
pub fn kept(field: u16, before: u64, after: u64) -> u16 {
    low((u64::from(field) + before + 65_535 - after % 65_535) % 65_535)
}

/// The checksum of `bytes` in which its own field is zero.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    low((65_535 - sum(bytes)) % 65_535)
}

/// A value below 65 536.
fn low(value: u64) -> u16 {
    u16::try_from(value).expect("callers pass remainders")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(of(&bytes), !0xddf2);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_as_much() {
        let (old, new) = ([0x12, 0x34, 0x56], [0xfe, 0xdc, 0x56]);
        assert_eq!(kept(of(&old), sum(&old), sum(&new)), of(&new));
        assert_eq!(kept(of(&old) + 7, sum(&old), sum(&new)), of(&new) + 7);
    }
}
