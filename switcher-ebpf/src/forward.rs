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
    interface::WayOut,
    packet::{self, Hop, own_error::may_be_fragmented},
    reason::Reason,
};

use crate::{
    frame::XdpFrame,
    interface,
    route::{Question, lookup},
    work::Work,
};

/// Where the kernel's routing tables send the translated packet.
enum Route {
    /// Out of an interface, to a resolved neighbour.
    Next {
        /// `None`: where it came in.
        redirect_to: Option<u32>,
        source: [u8; 6],
        destination: [u8; 6],
    },
    /// The stack must forward it.
    Stack(Reason),
    /// Nobody can.
    Nowhere(Reason),
}

/// Rewrites the packet as the entry of `work` says, and sends it on.
#[inline(always)]
pub(crate) fn send<A: Address>(frame: &mut XdpFrame<'_>, work: &mut Work<A>) -> Reason {
    send_by(frame, work, |frame, work, hop| {
        packet::translate(frame, &work.ip, work.entry.side(), &work.key, &work.to, hop)
    })
}

/// As [`send`], with another way of rewriting it.
#[inline(always)]
pub(crate) fn send_by<A: Address>(
    frame: &mut XdpFrame<'_>,
    work: &mut Work<A>,
    rewrite: impl FnOnce(&mut XdpFrame<'_>, &Work<A>, Hop) -> Option<()>,
) -> Reason {
    work.to = work.key.translated(&work.entry);
    let (hop, route) = match route(frame, work) {
        Route::Nowhere(reason) => return reason,
        Route::Stack(reason) => (Hop::Stack, Err(reason)),
        Route::Next {
            redirect_to,
            source,
            destination,
        } => (Hop::Program, Ok((redirect_to, source, destination))),
    };
    if rewrite(frame, work, hop).is_none() {
        return Reason::Inconsistent;
    }
    let (redirect_to, source, destination) = match route {
        Ok(next) => next,
        Err(reason) => return reason,
    };
    if packet::set_link_addresses(frame, source, destination).is_none() {
        return Reason::Inconsistent;
    }
    let Some(ifindex) = redirect_to else {
        return Reason::Transmitted;
    };
    // SAFETY: plain values; the kernel checks the interface when it carries the redirect out.
    unsafe { bpf_redirect(ifindex, 0) };
    Reason::Redirected
}

#[inline(always)]
fn route<A: Address>(frame: &XdpFrame<'_>, work: &mut Work<A>) -> Route {
    let question = Question {
        src: work.to.src,
        dst: work.to.dst,
        protocol: work.to.protocol,
        tos: work.ip.tos,
        ip_len: work.ip.ip_len,
    };
    let result = lookup(frame, &question, &mut work.fib);
    let fib = &work.fib;
    match result {
        Some(BPF_FIB_LKUP_RET_SUCCESS) => {
            let tags = packet::tags(frame, work.ip.ip_offset);
            let redirect_to = match interface::leaves_by(frame, tags, fib.ifindex) {
                WayOut::Transmit => None,
                WayOut::Redirect => Some(fib.ifindex),
                WayOut::TagsChange => return Route::Stack(Reason::TagChanges),
                WayOut::NoRedirect => return Route::Stack(Reason::NoRedirect),
            };
            Route::Next {
                redirect_to,
                source: fib.smac,
                destination: fib.dmac,
            }
        }
        Some(BPF_FIB_LKUP_RET_NO_NEIGH) => Route::Stack(Reason::NoNeighbour),
        Some(BPF_FIB_LKUP_RET_FWD_DISABLED) => Route::Stack(Reason::ForwardingOff),
        // In generic mode it may be several packets merged into one, which the stack splits.
        Some(BPF_FIB_LKUP_RET_FRAG_NEEDED)
            if may_be_fragmented(frame, &work.ip) || interface::is_generic(frame) =>
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
