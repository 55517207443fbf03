//! Stages "rewrite" and "forward": the next hop by the kernel's routing tables, then the new
//! addresses, then the way out.

use core::mem;

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE, bpf_fib_lookup as FibLookup,
    },
    helpers::{bpf_redirect, generated::bpf_fib_lookup},
};
use switcher_common::{
    address::{Address, Ipv4},
    flow::FlowKey,
    packet::{self, Hop, IpPacket},
    reason::Reason,
};

use crate::{frame::XdpFrame, work::Work};

/// Size of the helper's argument, as the kernel checks it.
const FIB_LOOKUP_BYTES: i32 = 64;
const _: () = assert!(size_of::<FibLookup>() == FIB_LOOKUP_BYTES as usize);

/// Where the kernel's routing tables send the translated packet.
enum Route {
    /// Out of an interface, to a resolved neighbour.
    Next {
        ifindex: u32,
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
pub(crate) fn send<A: Address>(
    frame: &mut XdpFrame<'_>,
    ip: &IpPacket<A>,
    work: &mut Work<A>,
) -> Reason {
    work.to = work.key.translated(&work.entry);
    let (hop, route) = match route(frame, ip, &work.to) {
        Route::Nowhere(reason) => return reason,
        Route::Stack(reason) => (Hop::Stack, Err(reason)),
        Route::Next {
            ifindex,
            source,
            destination,
        } => (Hop::Program, Ok((ifindex, source, destination))),
    };
    if packet::translate(frame, ip, work.entry.side(), &work.key, &work.to, hop).is_none() {
        return Reason::Inconsistent;
    }
    let (ifindex, source, destination) = match route {
        Ok(next) => next,
        Err(reason) => return reason,
    };
    if packet::set_link_addresses(frame, source, destination).is_none() {
        return Reason::Inconsistent;
    }
    if ifindex == frame.ingress_ifindex() {
        return Reason::Transmitted;
    }
    // SAFETY: plain values; the kernel checks the interface when it carries the redirect out.
    unsafe { bpf_redirect(ifindex, 0) };
    Reason::Redirected
}

#[inline(always)]
fn route<A: Address>(frame: &XdpFrame<'_>, ip: &IpPacket<A>, to: &FlowKey<A>) -> Route {
    // SAFETY: plain integers and unions of them; zero is what the kernel asks for in unused fields.
    let mut fib: FibLookup = unsafe { mem::zeroed() };
    fib.family = A::AF;
    fib.l4_protocol = to.protocol;
    fib.ifindex = frame.ingress_ifindex();
    fib.__bindgen_anon_1.tot_len = ip.ip_len;
    if A::AF == Ipv4::AF {
        fib.__bindgen_anon_2.tos = ip.tos;
        fib.__bindgen_anon_3.ipv4_src = to.src.wide().0[3];
        fib.__bindgen_anon_4.ipv4_dst = to.dst.wide().0[3];
    } else {
        fib.__bindgen_anon_3.ipv6_src = to.src.wide().0;
        fib.__bindgen_anon_4.ipv6_dst = to.dst.wide().0;
    }
    // SAFETY: the pointers are valid for the call, the length is that of the struct.
    let result = unsafe { bpf_fib_lookup(frame.raw().cast(), &raw mut fib, FIB_LOOKUP_BYTES, 0) };
    match u32::try_from(result) {
        Ok(BPF_FIB_LKUP_RET_SUCCESS) => Route::Next {
            ifindex: fib.ifindex,
            source: fib.smac,
            destination: fib.dmac,
        },
        Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => Route::Stack(Reason::NoNeighbour),
        Ok(BPF_FIB_LKUP_RET_FWD_DISABLED) => Route::Stack(Reason::ForwardingOff),
        Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Route::Stack(Reason::AboveMtu),
        Ok(
            BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT,
        ) => Route::Nowhere(Reason::NoRoute),
        _ => Route::Stack(Reason::RouteNeedsStack),
    }
}
