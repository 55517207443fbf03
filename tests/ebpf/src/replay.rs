//! The harness. A program that rewrites its packet leaves it rewritten for the next round of `BPF_PROG_TEST_RUN`, and
//! one packet alone stays in the caches with all that it leads to: so each round gets the next frame of a list.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// Bytes that a frame has room for: a cache line or two, since they are copied for each packet.
const ROOM: usize = 128;

/// Words of a frame.
type Words = [u64; ROOM / 8];

/// The frames, in the order in which they come. The loader sets the size.
#[btf_map]
static FRAMES: Array<Words, 1> = Array::new();

/// The next frame's number, how many there are, and the length of all of them: 64, 96 or 128 bytes.
#[btf_map]
static CURSOR: Array<[u32; 3], 1> = Array::new();

/// Slot 0: the measured program.
#[btf_map]
static NEXT: ProgramArray<1> = ProgramArray::new();

/// Makes the packet, which must be as long, the next frame, and jumps to the measured program.
#[xdp]
pub fn replay(ctx: XdpContext) -> u32 {
    if refresh(&ctx).is_some() {
        // SAFETY: does not return on success, and nothing here needs dropping.
        unsafe { NEXT.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn refresh(ctx: &XdpContext) -> Option<()> {
    let cursor = CURSOR.get_ptr_mut(0)?;
    // SAFETY: one thread runs the harness.
    let [at, len, frame_len] = unsafe { *cursor };
    let next = if at + 1 < len { at + 1 } else { 0 };
    // SAFETY: as above.
    unsafe { (*cursor)[0] = next };
    let frame = FRAMES.get(at)?;
    match frame_len {
        64 => copy::<8>(ctx, frame),
        96 => copy::<12>(ctx, frame),
        128 => copy::<16>(ctx, frame),
        _ => None,
    }
}

#[inline(always)]
fn copy<const WORDS: usize>(ctx: &XdpContext, frame: &Words) -> Option<()> {
    let start = ctx.data();
    if start + WORDS * 8 > ctx.data_end() {
        return None;
    }
    let packet = start as *mut u64;
    for (at, word) in frame.iter().enumerate().take(WORDS) {
        // SAFETY: within the packet, as was just checked; its first byte is aligned.
        unsafe { packet.add(at).write(*word) };
    }
    Some(())
}
