//! The XDP program. A packet's way through it is [`process`]: ours? → flow → (miss) select and
//! record → rewrite → forward; every way ends in a [`Reason`], which is counted and gives the verdict.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is a copy on a stack of 512 bytes"
)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the xdp macro makes functions of that kind; the loader finds programs by symbol"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the xdp macro passes the context so"
)]

mod clock;
mod collect;
mod count;
mod filter;
mod flow;
mod forward;
mod frame;
mod maps;
mod select;
mod work;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use frame::XdpFrame;
use maps::{PROGRAMS, Tables};
use switcher_common::{
    packet::{self, IpPacket, Packet},
    reason::{Reason, Verdict},
};

/// What each link carries: a jump to the program that slot 0 holds, so that one store enables or
/// upgrades all interfaces at once. An empty slot passes.
#[xdp]
pub fn dispatch(ctx: XdpContext) -> u32 {
    // SAFETY: does not return on success, and nothing here needs dropping.
    unsafe { PROGRAMS.tail_call(&ctx, 0) };
    xdp_action::XDP_PASS
}

/// The program in slot 0.
#[xdp]
pub fn switcher(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let reason = match packet::network(&frame) {
        Ok(Packet::V4(ip)) => process(&mut frame, &ip),
        Ok(Packet::V6(ip)) => process(&mut frame, &ip),
        Err(reason) => reason,
    };
    count::verdict(&ctx, reason);
    if cfg!(mutant = "foreign-dropped") && reason as u32 == Reason::NotOurs as u32 {
        return xdp_action::XDP_DROP;
    }
    match reason.verdict() {
        Verdict::Pass | Verdict::Note => xdp_action::XDP_PASS,
        Verdict::Tx => xdp_action::XDP_TX,
        Verdict::Redirect => xdp_action::XDP_REDIRECT,
        Verdict::Drop => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn process<A: Tables>(frame: &mut XdpFrame<'_>, ip: &IpPacket<A>) -> Reason {
    if !filter::may_be_ours(ip) {
        return Reason::NotOurs;
    }
    let datagram = match packet::transport(frame, ip) {
        Ok(datagram) => datagram,
        Err(reason) => return filter::without_ports(ip, reason),
    };
    let Some(work) = A::work() else {
        return Reason::Inconsistent;
    };
    work.key = datagram.tuple;
    let now = clock::now_ticks();
    let found = match flow::track(work, ip, &datagram.segment, now) {
        Ok(true) => Ok(()),
        Ok(false) => select::fresh(work, ip, &datagram.segment, now),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = found {
        return reason;
    }
    let reason = forward::send(frame, ip, work);
    count::traffic(&work.entry, frame, reason);
    reason
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // A reachable panic makes the load fail: the verifier refuses the endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
