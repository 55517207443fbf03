//! Frames that are lost after the program's verdict: nobody tells the program, but the kernel's
//! tracepoints tell whoever listens. They fire for all XDP programs, in all network namespaces.
//!
//! The arguments are those of `include/trace/events/xdp.h`, the same since Linux 5.13.

use aya_ebpf::{
    bindings::xdp_action::XDP_TX, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use switcher_common::send_error::SendError;

use crate::maps::SEND_ERRORS;

/// The kernel refused a redirect: `(dev, prog, target, err, map_type, map_id, index)`.
#[btf_tracepoint(function = "xdp_redirect_err")]
pub fn xdp_redirect_err(_ctx: BtfTracePointContext) -> i32 {
    count(SendError::RedirectRefused, 1)
}

/// A driver has taken redirected frames, or some of them: `(from, to, sent, drops, err)`.
#[btf_tracepoint(function = "xdp_devmap_xmit")]
pub fn xdp_devmap_xmit(ctx: BtfTracePointContext) -> i32 {
    count(SendError::RedirectDropped, ctx.arg(3))
}

/// A driver has sent frames back: `(dev, sent, drops, err)`.
#[btf_tracepoint(function = "xdp_bulk_tx")]
pub fn xdp_bulk_tx(ctx: BtfTracePointContext) -> i32 {
    count(SendError::TransmitDropped, ctx.arg(2))
}

/// A driver could not do what a program asked for, in most drivers send one frame back: `(dev, prog,
/// act)`.
#[btf_tracepoint(function = "xdp_exception")]
pub fn xdp_exception(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u32>(2) == XDP_TX {
        count(SendError::TransmitDropped, 1);
    }
    0
}

#[inline(always)]
fn count(error: SendError, frames: i32) -> i32 {
    if let Ok(frames) = u64::try_from(frames)
        && frames > 0
        && let Some(counter) = SEND_ERRORS.get_ptr_mut(error as u32)
    {
        // SAFETY: this CPU's own; the kernel sends frames where nothing else of XDP interrupts it.
        unsafe { *counter += frames };
    }
    0
}
