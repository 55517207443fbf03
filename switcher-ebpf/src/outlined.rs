//! Stages as global functions: the kernel verifies each of them once, and not again for each way that
//! leads to it, and each has a stack of its own while it runs. They find everything in [`Work`], and
//! answer with the number of a [`Reason`], or with [`GO_ON`].

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use switcher_common::{
    address::{Ipv4, Ipv6},
    packet::Network,
    reason::Reason,
};

use crate::{flow, forward, frame::XdpFrame, maps::Tables, read, reply, select, work::Work};

/// No verdict: the packet is to be translated by the entry in its [`Work`].
pub(crate) const GO_ON: u32 = 0;
/// No verdict: there is no flow, or it is over.
pub(crate) const NO_FLOW: u32 = u32::MAX;

/// As a global function returns it.
#[inline(always)]
fn code(result: Result<(), Reason>) -> u32 {
    match result {
        Ok(()) => GO_ON,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn select<A: Tables>(ctx: *mut xdp_md) -> u32 {
    let Some(work) = A::work() else {
        return Reason::Inconsistent as u32;
    };
    match select::fresh(work) {
        Err(Reason::NotOurs) => code(reply::repin(&XdpContext::new(ctx), work)),
        result => code(result),
    }
}

#[inline(always)]
fn read<A: Tables + Network>(ctx: *mut xdp_md, ip_offset: u32) -> u32 {
    let Some(work) = A::work() else {
        return Reason::Inconsistent as u32;
    };
    code(read::packet(
        &XdpFrame::new(&XdpContext::new(ctx)),
        ip_offset as usize,
        work,
    ))
}

#[inline(always)]
fn track<A: Tables>(ctx: *mut xdp_md) -> u32 {
    let Some(work) = A::work() else {
        return Reason::Inconsistent as u32;
    };
    match flow::track(&XdpContext::new(ctx), work) {
        Ok(true) => GO_ON,
        Ok(false) => NO_FLOW,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn send<A: Tables>(ctx: *mut xdp_md) -> u32 {
    let Some(work) = A::work() else {
        return Reason::Inconsistent as u32;
    };
    forward::send(&mut XdpFrame::new(&XdpContext::new(ctx)), work) as u32
}

#[inline(always)]
fn with_work<A: Tables>(stage: impl FnOnce(&mut Work<A>)) -> u32 {
    if let Some(work) = A::work() {
        stage(work);
    }
    GO_ON
}

#[inline(always)]
fn comes_by_its_route<A: Tables>(ctx: *mut xdp_md) -> u32 {
    let Some(work) = A::work() else {
        return 0;
    };
    u32::from(reply::comes_by_its_route(&XdpContext::new(ctx), work))
}

macro_rules! outlined {
    ($family:ty, $read:ident, $track:ident, $select:ident, $send:ident, $promote:ident, $demote:ident, $mend:ident, $comes_by_its_route:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $read(ctx: *mut xdp_md, ip_offset: u32) -> u32 {
            read::<$family>(ctx, ip_offset)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $track(ctx: *mut xdp_md) -> u32 {
            track::<$family>(ctx)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $select(ctx: *mut xdp_md) -> u32 {
            select::<$family>(ctx)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $send(ctx: *mut xdp_md) -> u32 {
            send::<$family>(ctx)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $promote() -> u32 {
            with_work::<$family>(flow::promote)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $demote() -> u32 {
            with_work::<$family>(flow::demote)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $mend() -> u32 {
            with_work::<$family>(flow::mend)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $comes_by_its_route(ctx: *mut xdp_md) -> u32 {
            comes_by_its_route::<$family>(ctx)
        }
        impl Outlined for $family {
            #[inline(always)]
            fn read(ctx: *mut xdp_md, ip_offset: u32) -> u32 {
                $read(ctx, ip_offset)
            }
            #[inline(always)]
            fn track(ctx: *mut xdp_md) -> u32 {
                $track(ctx)
            }
            #[inline(always)]
            fn select(ctx: *mut xdp_md) -> u32 {
                $select(ctx)
            }
            #[inline(always)]
            fn send(ctx: *mut xdp_md) -> Reason {
                Reason::from_code($send(ctx))
            }
            #[inline(always)]
            fn promote() {
                $promote();
            }
            #[inline(always)]
            fn demote() {
                $demote();
            }
            #[inline(always)]
            fn mend() {
                $mend();
            }
            #[inline(always)]
            fn comes_by_its_route(ctx: *mut xdp_md) -> bool {
                $comes_by_its_route(ctx) != 0
            }
        }
    };
}

/// An address family's global functions; each works on that family's `Work`.
pub(crate) trait Outlined: Sized {
    /// Reads the packet whose IP header is at `ip_offset`, or why it ends here.
    fn read(ctx: *mut xdp_md, ip_offset: u32) -> u32;
    /// Finds the packet's flow and moves it on: its entry, [`NO_FLOW`], or why it ends here.
    fn track(ctx: *mut xdp_md) -> u32;
    /// For a packet without a flow: its entry, or why there is none.
    fn select(ctx: *mut xdp_md) -> u32;
    /// Rewrites the packet as its entry says, and sends it on.
    fn send(ctx: *mut xdp_md) -> Reason;
    /// Moves the flow to the established table.
    fn promote();
    /// Moves the flow out of it.
    fn demote();
    /// Makes the entry for the replies again if it is gone.
    fn mend();
    /// Whether the packet came in by the interface that leads back to its source.
    fn comes_by_its_route(ctx: *mut xdp_md) -> bool;
}

outlined!(
    Ipv4,
    read4,
    track4,
    select4,
    send4,
    promote4,
    demote4,
    mend4,
    comes_by_its_route4
);
outlined!(
    Ipv6,
    read6,
    track6,
    select6,
    send6,
    promote6,
    demote6,
    mend6,
    comes_by_its_route6
);
