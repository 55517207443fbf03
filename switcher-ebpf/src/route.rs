//! The kernel's routing tables.

use core::mem;

pub(crate) use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use switcher_common::address::{Address, Ipv4};

use crate::frame::XdpFrame;

/// Size of the helper's argument, as the kernel checks it.
const FIB_LOOKUP_BYTES: i32 = 64;
const _: () = assert!(size_of::<FibLookup>() == FIB_LOOKUP_BYTES as usize);

/// What the routing tables are asked: where does such a packet go?
pub(crate) struct Question<A> {
    pub src: A,
    pub dst: A,
    pub protocol: u8,
    pub tos: u8,
    /// Length of the IP packet in bytes; 0: whatever the MTU.
    pub ip_len: u16,
}

/// Asks for a packet that comes in where `frame` did; the kernel's `BPF_FIB_LKUP_RET_*`. Its answer
/// is in `fib`.
#[inline(always)]
pub(crate) fn lookup<A: Address>(
    frame: &XdpFrame<'_>,
    question: &Question<A>,
    fib: &mut FibLookup,
) -> Option<u32> {
    // SAFETY: plain integers and unions of them; zero is what the kernel asks for in unused fields.
    *fib = unsafe { mem::zeroed() };
    fib.family = A::AF;
    fib.l4_protocol = question.protocol;
    fib.ifindex = frame.ingress_ifindex();
    fib.__bindgen_anon_1.tot_len = question.ip_len;
    if A::AF == Ipv4::AF {
        fib.__bindgen_anon_2.tos = question.tos;
        fib.__bindgen_anon_3.ipv4_src = question.src.wide().0[3];
        fib.__bindgen_anon_4.ipv4_dst = question.dst.wide().0[3];
    } else {
        fib.__bindgen_anon_3.ipv6_src = question.src.wide().0;
        fib.__bindgen_anon_4.ipv6_dst = question.dst.wide().0;
    }
    // SAFETY: the pointers are valid for the call, the length is that of the struct.
    let result = unsafe { bpf_fib_lookup(frame.raw().cast(), fib, FIB_LOOKUP_BYTES, 0) };
    u32::try_from(result).ok()
}
