//! The kernel's routing tables.

pub(crate) use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use switcher_common::{
    address::{Address, Ipv4},
    hop::Question,
};

use crate::frame::XdpFrame;

/// Size of the helper's argument, as the kernel checks it.
const FIB_LOOKUP_BYTES: i32 = 64;
const _: () = assert!(size_of::<FibLookup>() == FIB_LOOKUP_BYTES as usize);

/// Asks for a packet like `frame`; the kernel's `BPF_FIB_LKUP_RET_*`. Its answer is in `fib`.
#[inline(always)]
pub(crate) fn lookup<A: Address>(
    frame: &XdpFrame<'_>,
    question: &Question<A>,
    fib: &mut FibLookup,
) -> Option<u32> {
    clear(fib);
    fib.family = A::AF;
    fib.l4_protocol = question.protocol;
    fib.ifindex = question.ingress;
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

/// Zero is what the kernel asks for in unused fields. By words, as in [`crate::work::copy_words`].
#[inline(always)]
fn clear(fib: &mut FibLookup) {
    let words = (&raw mut *fib).cast::<u32>();
    for at in 0..size_of::<FibLookup>() / size_of::<u32>() {
        // SAFETY: within the struct, whose alignment it has; plain integers and unions of them.
        unsafe { words.add(at).write_volatile(0) };
    }
}
