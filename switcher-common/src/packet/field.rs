//! Fields of headers as they lie in the frame, read and written by words of 16 bits.
//!
//! Headers have an alignment of 1, so that tests may put them anywhere, and the compiler touches them byte by byte. The
//! program need not: drivers put frames at even addresses, and Ethernet, its tags and all parts of IP have even lengths.

/// A field of a header.
pub(super) trait Field {
    /// What it holds, in the order of the frame's bytes.
    type Value;
    /// Reads it.
    fn get(&self) -> Self::Value;
    /// Writes it.
    fn set(&mut self, value: Self::Value);
}

impl Field for [u8; 2] {
    type Value = u16;

    #[inline(always)]
    fn get(&self) -> u16 {
        word(self, 0)
    }

    #[inline(always)]
    fn set(&mut self, value: u16) {
        set_word(self, 0, value);
    }
}

impl Field for [u8; 4] {
    type Value = u32;

    #[inline(always)]
    fn get(&self) -> u32 {
        double_word(self, 0)
    }

    #[inline(always)]
    fn set(&mut self, value: u32) {
        set_double_word(self, 0, value);
    }
}

/// A link address; its words.
impl Field for [u8; 6] {
    type Value = Self;

    #[inline(always)]
    fn get(&self) -> Self {
        *self
    }

    #[inline(always)]
    fn set(&mut self, value: Self) {
        let [first, second, third]: [u16; 3] = bytemuck::cast(value);
        set_word(self, 0, first);
        set_word(self, 1, second);
        set_word(self, 2, third);
    }
}

/// An IPv6 address; its words of 32 bits.
impl Field for [u8; 16] {
    type Value = [u32; 4];

    #[inline(always)]
    fn get(&self) -> [u32; 4] {
        [
            double_word(self, 0),
            double_word(self, 2),
            double_word(self, 4),
            double_word(self, 6),
        ]
    }

    #[inline(always)]
    fn set(&mut self, [a, b, c, d]: [u32; 4]) {
        set_double_word(self, 0, a);
        set_double_word(self, 2, b);
        set_double_word(self, 4, c);
        set_double_word(self, 6, d);
    }
}

/// The word of 32 bits whose first half is the `at`th one of 16. All supported hosts are little-endian.
#[inline(always)]
fn double_word(field: &[u8], at: usize) -> u32 {
    u32::from(word(field, at)) | u32::from(word(field, at + 1)) << 16
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it is taken in two halves")]
fn set_double_word(field: &mut [u8], at: usize, value: u32) {
    set_word(field, at, value as u16);
    set_word(field, at + 1, (value >> 16) as u16);
}

/// The `at`th word of 16 bits of a field that has it.
#[inline(always)]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "read as what may lie anywhere, or at an even address"
)]
fn word(field: &[u8], at: usize) -> u16 {
    let place = field.as_ptr().cast::<u16>().wrapping_add(at);
    // SAFETY: within the field, as the callers here see to; in the program it lies at an even address.
    unsafe {
        if cfg!(target_arch = "bpf") {
            place.read()
        } else {
            place.read_unaligned()
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "as above")]
fn set_word(field: &mut [u8], at: usize, value: u16) {
    let place = field.as_mut_ptr().cast::<u16>().wrapping_add(at);
    // SAFETY: as above, and the borrow is exclusive.
    unsafe {
        if cfg!(target_arch = "bpf") {
            place.write(value);
        } else {
            place.write_unaligned(value);
        }
    }
}
