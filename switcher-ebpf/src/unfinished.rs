//! In generic mode: packets whose checksum their sender has left to its hardware. Only the stack can
//! send them on, and the program must not take the field for a checksum.

use aya_ebpf::{bindings::xdp_md, helpers::bpf_csum_diff, programs::XdpContext};
use switcher_common::packet::{self, Network, Part};

use crate::{frame::XdpFrame, interface, maps::Tables, work::Work};

/// What everything adds up to under a checksum that is right.
const WHOLE: u16 = 0xffff;
/// Bytes that are summed in one go; older kernels take no more.
const CHUNK: u32 = 512;
/// Packets are summed up to this length. What is longer is larger than any link takes, so the kernel
/// has merged it, and left its checksum to hardware.
const MOST_SUMMED: u32 = 18 * CHUNK;

/// Whether the kernel leaves the checksum of the packet in the family's `Work` to hardware: it shows
/// such packets in generic mode only.
#[inline(always)]
pub(crate) fn is_left_to_hardware<A: Tables>(frame: &XdpFrame<'_>) -> bool {
    interface::is_generic(frame) && A::is_unfinished(frame.raw()) == 1
}

/// Whether the checksum of the packet in `work` is left to hardware.
#[inline(always)]
pub(crate) fn is_unfinished<A: Tables + Network>(frame: &XdpFrame<'_>, work: &Work<A>) -> bool {
    let ip = &work.ip;
    if ip.part != Part::Whole {
        return false;
    }
    let pseudo = ip.pseudo_header_sum(&work.key);
    if packet::transport_checksum(frame, ip) != Some(pseudo) {
        return false;
    }
    // One whole checksum in 65536 looks the same; it is right, the other is not.
    sum(frame, ip.transport_offset, ip.transport_len(), pseudo) != Some(WHOLE)
}

/// The ones' complement sum of `len` bytes from `offset` on and of `seed`, as checksums have it; `None`
/// when they are more than are summed.
#[inline(always)]
fn sum(frame: &XdpFrame<'_>, offset: usize, len: u16, seed: u16) -> Option<u16> {
    let mut at = u32::try_from(offset).ok()?;
    let mut left = u32::from(len);
    let mut sum = u32::from(seed);
    for _ in 0..MOST_SUMMED / CHUNK {
        if left < CHUNK {
            break;
        }
        sum = sum_chunk(frame.raw(), at, sum);
        at += CHUNK;
        left -= CHUNK;
    }
    if left >= CHUNK {
        return None;
    }
    sum = sum_rest(frame.raw(), at, left, sum);
    sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).ok()
}

/// Adds a chunk. Global, as [`sum_rest`]: the kernel verifies it once, and not for each place.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_chunk(ctx: *mut xdp_md, at: u32, sum: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    added::<{ CHUNK as usize }>(&XdpFrame::new(&ctx), at as usize, sum)
}

/// Adds what is less than a chunk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_rest(ctx: *mut xdp_md, at: u32, left: u32, mut sum: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let frame = XdpFrame::new(&ctx);
    let mut at = at as usize;
    macro_rules! rest {
        ($($size:literal)*) => {$(
            if left & $size != 0 {
                sum = added::<$size>(&frame, at, sum);
                at += $size;
            }
        )*};
    }
    rest!(256 128 64 32 16 8 4);
    if left & 2 != 0 {
        sum = added_word(sum, frame.anywhere(at).copied().unwrap_or_default());
        at += 2;
    }
    if left & 1 != 0 {
        // With the byte before it: the verifier does not follow a check for a single byte.
        let before = at.wrapping_sub(1);
        let [_, last] = frame.anywhere(before).copied().unwrap_or_default();
        sum = added_word(sum, [last, 0]);
    }
    sum
}

/// `sum` with the `LEN` bytes at `at`. They are there: the packet was found to lie within its frame.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a chunk is short, and a sum has 32 bits"
)]
#[expect(
    clippy::cast_sign_loss,
    reason = "it is an error of arguments that is negative"
)]
fn added<const LEN: usize>(frame: &XdpFrame<'_>, at: usize, sum: u32) -> u32 {
    let Some(bytes) = frame.anywhere::<[u8; LEN]>(at) else {
        return sum;
    };
    let bytes = bytes.as_ptr().cast_mut().cast();
    let nothing = core::ptr::null_mut();
    // SAFETY: the bytes lie within the frame and are only read; of nothing, nothing is.
    let sum = unsafe { bpf_csum_diff(nothing, 0, bytes, LEN as u32, sum) };
    sum as u32
}

/// `sum` with a 16-bit word as it lies in the packet.
#[inline(always)]
fn added_word(sum: u32, word: [u8; 2]) -> u32 {
    let (sum, carry) = sum.overflowing_add(u32::from(u16::from_ne_bytes(word)));
    sum + u32::from(carry)
}
