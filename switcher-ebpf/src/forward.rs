//! Stages "rewrite" and "forward": the next hop by the kernel's routing tables, then the new
//! addresses, then the way out.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE,
    },
    helpers::bpf_redirect,
};
use switcher_common::{
    address::Address,
    flow::FlowState,
    interface::WayOut,
    packet::{self, Hop, Network, own_error::may_be_fragmented},
    reason::Reason,
};

use crate::{
    frame::XdpFrame, hop, interface, maps::Tables, route::lookup, unfinished::is_left_to_hardware,
    work::Work,
};

/// Where the kernel's routing tables send the translated packet.
#[derive(Clone, Copy)]
enum Route {
    /// To the neighbour in `work.fib`, out of the interface that it came in by.
    Transmit,
    /// To the neighbour in `work.fib`, out of the interface there.
    Redirect,
    /// The stack must forward it.
    Stack(Reason),
    /// Nobody can.
    Nowhere(Reason),
}

/// Rewrites the packet as the entry of `work` says, and sends it on.
#[inline(always)]
pub(crate) fn send<A: Tables + Network>(frame: &mut XdpFrame<'_>, work: &mut Work<A>) -> Reason {
    // Only a reply of a cut UDP flow comes here with it.
    if !work.ip.may_travel() {
        return Reason::TtlExceeded;
    }
    let is_unfinished = is_left_to_hardware::<A>(frame);
    let reason = send_by(frame, work, is_unfinished, |frame, work, hop| {
        packet::translate(frame, &work.ip, work.entry.side(), &work.key, &work.to, hop)?;
        if is_unfinished {
            packet::leave_unfinished(frame, &work.ip, &work.to)?;
        }
        Some(())
    });
    // An unanswered flow is in the other table.
    if !matches!(work.entry.state(), FlowState::Unanswered) {
        A::keep_hop(frame.raw(), reason as u32);
    }
    reason
}

/// As [`send`], with another way of rewriting it. An unfinished packet only the stack can send on.
#[inline(always)]
pub(crate) fn send_by<A: Address>(
    frame: &mut XdpFrame<'_>,
    work: &mut Work<A>,
    is_unfinished: bool,
    rewrite: impl FnOnce(&mut XdpFrame<'_>, &Work<A>, Hop) -> Option<()>,
) -> Reason {
    work.to = work.key.translated(&work.entry);
    // Before the kernel is asked: an answer from before a change is not of the epoch after it.
    work.hop_epoch = hop::watch().epoch;
    let route = match route(frame, work, is_unfinished) {
        Route::Nowhere(reason) => return reason,
        Route::Transmit | Route::Redirect if is_unfinished => Route::Stack(Reason::ChecksumLeft),
        route => route,
    };
    let hop = match route {
        Route::Stack(_) | Route::Nowhere(_) => Hop::Stack,
        Route::Transmit | Route::Redirect => Hop::Program,
    };
    if rewrite(frame, work, hop).is_none() {
        return Reason::Inconsistent;
    }
    leave(frame, work, route)
}

/// Sends the rewritten packet on.
#[inline(always)]
fn leave<A: Address>(frame: &mut XdpFrame<'_>, work: &Work<A>, route: Route) -> Reason {
    if let Route::Stack(reason) | Route::Nowhere(reason) = route {
        return reason;
    }
    if packet::set_link_addresses(frame, work.fib.smac, work.fib.dmac).is_none() {
        return Reason::Inconsistent;
    }
    match route {
        Route::Transmit => Reason::Transmitted,
        _ => redirect(work.fib.ifindex),
    }
}

/// Sends the packet out of another interface than it came in by.
#[inline(always)]
pub(crate) fn redirect(egress: u32) -> Reason {
    // SAFETY: plain values; the kernel checks the interface when it carries the redirect out.
    unsafe { bpf_redirect(egress, 0) };
    Reason::Redirected
}

#[inline(always)]
fn route<A: Address>(frame: &XdpFrame<'_>, work: &mut Work<A>, is_unfinished: bool) -> Route {
    let question = hop::question(frame, &work.ip, &work.to);
    match lookup(frame, &question, &mut work.fib) {
        Some(BPF_FIB_LKUP_RET_SUCCESS) => {
            let tags = packet::tags(frame, work.ip.ip_offset);
            match interface::leaves_by(frame, tags, work.fib.ifindex) {
                WayOut::Transmit => Route::Transmit,
                WayOut::Redirect => Route::Redirect,
                WayOut::TagsChange => Route::Stack(Reason::TagChanges),
                WayOut::NoRedirect => Route::Stack(Reason::NoRedirect),
            }
        }
        Some(BPF_FIB_LKUP_RET_NO_NEIGH) => Route::Stack(Reason::NoNeighbour),
        Some(BPF_FIB_LKUP_RET_FWD_DISABLED) => Route::Stack(Reason::ForwardingOff),
        // An unfinished packet may be several that the kernel has merged, which the stack splits again.
        Some(BPF_FIB_LKUP_RET_FRAG_NEEDED)
            if is_unfinished || may_be_fragmented(frame, &work.ip) =>
        {
            Route::Stack(Reason::AboveMtu)
        }
        Some(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Route::Nowhere(Reason::TooBig),
        Some(
            BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT,
        ) => Route::Nowhere(Reason::NoRoute),
        _ => Route::Stack(Reason::RouteNeedsStack),
    }
}
