//! The XDP programs. Most packets end in [`switcher`], the fast path. All others' way is [`process`]: ours? → flow
//! → (miss) select and record → rewrite → forward. Every way ends in a [`Reason`], which is counted and gives the verdict.
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

mod chance;
mod clock;
mod collect;
mod count;
mod cut;
mod expiry;
mod fast;
mod filter;
mod flow;
mod forward;
mod fragment;
mod frame;
mod hop;
mod icmp;
mod interface;
mod maps;
mod outlined;
mod own_error;
mod rate;
mod read;
mod redirect_errors;
mod reply;
mod report;
mod route;
mod select;
mod trace;
mod unfinished;
mod work;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use frame::XdpFrame;
use maps::{PROGRAMS, Tables};
use outlined::{
    AGAIN, CARRY_OUT, EXTENSIONS, GO_ON, LATER_FRAGMENT, MESSAGE, NO_FLOW, PROMOTE, REFUSED,
    REPEATED, UNREACHABLE,
};
use switcher_common::{
    ProgramSlot,
    address::{Ipv4, Ipv6},
    packet::{self, Ethernet, Family, Link},
    reason::{Reason, Verdict},
    trace::Known,
};

/// What each link carries: a jump to the program that the first slot holds, so that one store enables all
/// interfaces at once, and none is attached anew for an upgrade. An empty slot passes.
#[xdp]
pub fn dispatch(ctx: XdpContext) -> u32 {
    jump(&ctx, ProgramSlot::Fast)
}

/// The program in the first slot: the fast path. What it leaves to the stages is as it came.
#[xdp]
pub fn switcher(ctx: XdpContext) -> u32 {
    // Without log lines, so that it calls no function: where the kernel has no JIT, a program calls or jumps.
    if let Some(reason) = fast(&ctx) {
        count::only(reason);
        return action(reason);
    }
    let action = jump(&ctx, ProgramSlot::Stages);
    // The agent fills this slot first: somebody else has emptied it.
    count::only(Reason::Inconsistent);
    action
}

/// The program in the second slot. Inlined: kernels before 6.9 count 32 bytes of stack for each function.
#[xdp]
#[inline(always)]
pub fn stages(ctx: XdpContext) -> u32 {
    let reason = match packet::link(&XdpFrame::new(&ctx)) {
        Ok(Link {
            family: Family::V4,
            ip_offset,
            ..
        }) => traced::<Ipv4>(&ctx, ip_offset),
        Ok(Link {
            family: Family::V6,
            ip_offset,
            ..
        }) => traced::<Ipv6>(&ctx, ip_offset),
        Err(reason) => reason,
    };
    count::verdict(&ctx, reason);
    action(reason)
}

/// Goes on in another program, if there is one.
#[inline(always)]
fn jump(ctx: &XdpContext, slot: ProgramSlot) -> u32 {
    // SAFETY: does not return on success, and nothing here needs dropping.
    unsafe { PROGRAMS.tail_call(ctx, slot as u32) };
    xdp_action::XDP_PASS
}

#[inline(always)]
fn action(reason: Reason) -> u32 {
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

/// What becomes of a packet on the fast path: not of one with tags, nor while somebody reads traces.
#[inline(always)]
fn fast(ctx: &XdpContext) -> Option<Reason> {
    if trace::is_on() {
        return None;
    }
    let mut frame = XdpFrame::new(ctx);
    match packet::link(&frame) {
        Ok(link) if link.ip_offset != size_of::<Ethernet>() => None,
        Ok(link) => match link.family {
            Family::V4 => fast::packet::<Ipv4>(&mut frame),
            Family::V6 => fast::packet::<Ipv6>(&mut frame),
        },
        Err(reason) => Some(reason),
    }
}

#[inline(always)]
fn traced<A: Tables>(ctx: &XdpContext, ip_offset: usize) -> Reason {
    let is_traced = trace::is_on();
    let (known, reason) = process::<A>(ctx, ip_offset);
    if is_traced {
        A::trace(ctx.ctx, argument(ip_offset), known as u32, reason as u32);
    }
    reason
}

/// As a global function takes it.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "an IP header begins behind two VLAN tags at most"
)]
const fn argument(ip_offset: usize) -> u32 {
    ip_offset as u32
}

/// The packet's way: how much was known of it, and the verdict.
#[inline(always)]
fn process<A: Tables>(ctx: &XdpContext, ip_offset: usize) -> (Known, Reason) {
    let mut code = A::read(ctx.ctx, argument(ip_offset));
    if code == EXTENSIONS {
        code = A::step_over(ctx.ctx);
    }
    let (known, reason) = match code {
        GO_ON => datagram::<A>(ctx),
        LATER_FRAGMENT => later_fragment::<A>(ctx),
        MESSAGE => (Known::Message, message::<A>(ctx)),
        code => (Known::Packet, Reason::from_code(code)),
    };
    match reason {
        Reason::TtlExceeded | Reason::TooBig => {
            let told = A::tell(ctx.ctx, reason as u32);
            (known, Reason::from_code(told))
        }
        _ => (known, reason),
    }
}

#[inline(always)]
fn message<A: Tables>(ctx: &XdpContext) -> Reason {
    let mut code = A::message(ctx.ctx, 0);
    if code == UNREACHABLE {
        code = chance::of_unreachable::<A>();
    }
    if code == GO_ON {
        code = A::message(ctx.ctx, 1);
    }
    Reason::from_code(code)
}

#[inline(always)]
fn datagram<A: Tables>(ctx: &XdpContext) -> (Known, Reason) {
    let mut known = Known::Flow;
    let mut code = follow_flow::<A>(ctx);
    if code == NO_FLOW {
        code = A::select(ctx.ctx);
        known = match code {
            GO_ON => Known::Fresh,
            AGAIN => Known::Flow,
            _ => trace::known_without_flow(Reason::from_code(code)),
        };
    }
    if code == AGAIN {
        code = match follow_flow::<A>(ctx) {
            // The LRU has just evicted what was just made; its copy is still there.
            NO_FLOW | AGAIN => GO_ON,
            code => code,
        };
    }
    if code == PROMOTE {
        code = A::promote();
    }
    (known, send::<A>(ctx, code))
}

/// Finds the packet's flow and moves it on.
#[inline(always)]
fn follow_flow<A: Tables>(ctx: &XdpContext) -> u32 {
    let code = match A::track() {
        CARRY_OUT => A::carry_out(ctx.ctx),
        code => code,
    };
    match code {
        REPEATED => chance::of_repeated_syn::<A>(),
        REFUSED => chance::of_refusal::<A>(),
        code => code,
    }
}

#[inline(always)]
fn later_fragment<A: Tables>(ctx: &XdpContext) -> (Known, Reason) {
    let code = A::follow();
    let known = trace::known_of_fragment(code);
    (known, send::<A>(ctx, code))
}

/// Sends on a packet for whose flow `code` says [`GO_ON`].
#[inline(always)]
fn send<A: Tables>(ctx: &XdpContext, code: u32) -> Reason {
    if code == Reason::ResetSent as u32 {
        return Reason::from_code(A::reset(ctx.ctx));
    }
    if code != GO_ON {
        return Reason::from_code(code);
    }
    let reason = Reason::from_code(A::send(ctx.ctx));
    if reason.verdict() != Verdict::Drop
        && let Some(work) = A::work()
    {
        count::traffic(&XdpFrame::new(ctx), &work.entry, work.now_ns);
    }
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
