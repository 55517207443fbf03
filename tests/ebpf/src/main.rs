//! What the switcher's program is measured with, and beside: [`replay`] hands one frame after the other to the measured
//! program; the others are what the costs are compared with.
//!
//! The floors read headers by themselves, as tightly as they can: what the switcher's parser costs must show.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the xdp macro makes functions of that kind; the loader finds programs by symbol"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the xdp macro passes the context so"
)]

mod floor;
mod headers;
mod job;
mod live;
mod replay;
mod target;
mod walk;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// What the harness costs by itself.
#[xdp]
pub fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // A reachable panic makes the load fail: the verifier refuses the endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
