//! What a program of this kind cannot do without.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_fib_lookup as FibLookup, xdp_action},
    btf_maps::{Array, HashMap, LruHashMap},
    helpers::{bpf_fib_lookup, bpf_redirect},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use switcher_common::{
    address::{Address, Ipv4, Ipv6},
    checksum::Delta,
    flow::FlowEntry,
    service::Protocol,
};

use crate::{
    headers::{self, Ethernet, Family, IP, KIND_V4, KIND_V6, Ports, Tuple, at},
    target::Target,
};

#[btf_map]
static TARGET: Array<Target, 1> = Array::new();

/// As the switcher's tables of established flows.
#[btf_map]
static HASH4: HashMap<Tuple<Ipv4>, FlowEntry<Ipv4>, 1> = HashMap::new();
#[btf_map]
static HASH6: HashMap<Tuple<Ipv6>, FlowEntry<Ipv6>, 1> = HashMap::new();
/// The same keys and values.
#[btf_map]
static LRU4: LruHashMap<Tuple<Ipv4>, FlowEntry<Ipv4>, 1> = LruHashMap::new();
#[btf_map]
static LRU6: LruHashMap<Tuple<Ipv6>, FlowEntry<Ipv6>, 1> = LruHashMap::new();
/// As the switcher's tables of unanswered flows.
#[btf_map]
static NEW4: LruHashMap<Tuple<Ipv4>, FlowEntry<Ipv4>, 1> = LruHashMap::new();
#[btf_map]
static NEW6: LruHashMap<Tuple<Ipv6>, FlowEntry<Ipv6>, 1> = LruHashMap::new();

/// Size of the helper's argument, as the kernel checks it.
const FIB_BYTES: i32 = 64;

/// A family's maps.
trait Maps: Family {
    fn in_hash(key: &Tuple<Self>) -> bool;
    fn in_lru(key: &Tuple<Self>) -> bool;
    fn insert_new(key: &Tuple<Self>, entry: &FlowEntry<Self>) -> bool;
    fn in_new(key: &Tuple<Self>) -> bool;
    fn target(target: &Target) -> Self;
}

macro_rules! maps {
    ($family:ty, $hash:ident, $lru:ident, $new:ident, $target:expr) => {
        impl Maps for $family {
            #[inline(always)]
            fn in_hash(key: &Tuple<Self>) -> bool {
                is_there($hash.get_ptr(key))
            }
            #[inline(always)]
            fn in_lru(key: &Tuple<Self>) -> bool {
                is_there($lru.get_ptr(key))
            }
            #[inline(always)]
            fn insert_new(key: &Tuple<Self>, entry: &FlowEntry<Self>) -> bool {
                $new.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok()
            }
            #[inline(always)]
            fn in_new(key: &Tuple<Self>) -> bool {
                $new.get_ptr(key).is_some()
            }
            #[inline(always)]
            fn target(target: &Target) -> Self {
                $target(target)
            }
        }
    };
}
maps!(Ipv4, HASH4, LRU4, NEW4, |it: &Target| Ipv4(it.v4));
maps!(Ipv6, HASH6, LRU6, NEW6, |it: &Target| Ipv6(it.v6));

/// Looks an IPv4 flow up in the hash map.
#[inline(always)]
pub(crate) fn knows(key: &Tuple<Ipv4>) -> bool {
    Ipv4::in_hash(key)
}

/// A hit counts when the entry was read.
#[inline(always)]
fn is_there<A: Address>(entry: Option<*const FlowEntry<A>>) -> bool {
    // SAFETY: a map value. Volatile: that it is read is the point.
    entry.is_some_and(|it| unsafe { (&raw const (*it).state).read_volatile() } != 0)
}

/// Of a plain packet, the verdict of `v4` or `v6`.
#[inline(always)]
fn by_family(
    ctx: &XdpContext,
    v4: impl FnOnce(&XdpContext) -> Option<u32>,
    v6: impl FnOnce(&XdpContext) -> Option<u32>,
) -> u32 {
    let verdict = match at::<Ethernet>(ctx, 0).map(|it| it.kind_be) {
        Some(KIND_V4) => v4(ctx),
        Some(KIND_V6) => v6(ctx),
        _ => None,
    };
    verdict.unwrap_or(xdp_action::XDP_ABORTED)
}

/// Router floor: the kernel's route to the target, the new MAC addresses, a redirect.
#[xdp]
pub fn router_floor(ctx: XdpContext) -> u32 {
    by_family(&ctx, route_to_target::<Ipv4>, route_to_target::<Ipv6>)
}

#[inline(always)]
fn route_to_target<A: Maps>(ctx: &XdpContext) -> Option<u32> {
    let target = TARGET.get(0)?;
    route::<A>(ctx, |_| A::target(target))
}

/// Forwards the packet the kernel's way to the address that `to` makes of its destination.
#[inline(always)]
pub(crate) fn route<A: Family>(ctx: &XdpContext, to: impl FnOnce(A) -> A) -> Option<u32> {
    let header = at::<A::Header>(ctx, IP)?;
    let (src, dst, protocol) = A::addresses(header)?;
    let target = to(dst);
    let mut place = MaybeUninit::<FibLookup>::uninit();
    let fib = zeroed(&mut place);
    fib.family = A::AF;
    fib.l4_protocol = protocol;
    // SAFETY: the kernel hands the program a valid context.
    fib.ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    fib.__bindgen_anon_1.tot_len = A::len(header);
    if A::AF == Ipv4::AF {
        fib.__bindgen_anon_3.ipv4_src = src.wide().0[3];
        fib.__bindgen_anon_4.ipv4_dst = target.wide().0[3];
    } else {
        fib.__bindgen_anon_3.ipv6_src = src.wide().0;
        fib.__bindgen_anon_4.ipv6_dst = target.wide().0;
    }
    // SAFETY: the pointers are valid for the call, the length is that of the struct.
    let result = unsafe { bpf_fib_lookup(ctx.ctx.cast(), fib, FIB_BYTES, 0) };
    if result != 0 {
        return None;
    }
    A::forward(header, &dst);
    let ethernet = at::<Ethernet>(ctx, 0)?;
    ethernet.destination = words(fib.dmac);
    ethernet.source = words(fib.smac);
    // SAFETY: plain values; the kernel checks the interface when it carries the redirect out.
    let verdict = unsafe { bpf_redirect(fib.ifindex, 0) };
    u32::try_from(verdict).ok()
}

/// All zero, set word by word: else the compiler calls a function that sets byte after byte.
#[inline(always)]
fn zeroed<T: Plain>(place: &mut MaybeUninit<T>) -> &mut T {
    const {
        assert!(
            align_of::<T>() == align_of::<u32>() && size_of::<T>().is_multiple_of(size_of::<u32>())
        );
    };
    for word in 0..size_of::<T>() / size_of::<u32>() {
        // SAFETY: within the place, whose alignment it has.
        unsafe { place.as_mut_ptr().cast::<u32>().add(word).write_volatile(0) };
    }
    // SAFETY: `Plain`, and all of it was set.
    unsafe { place.assume_init_mut() }
}

/// All zero is a value.
///
/// # Safety
/// Plain integers, and structs and unions of them.
unsafe trait Plain {}
// SAFETY: as above.
unsafe impl Plain for FibLookup {}
// SAFETY: as above.
unsafe impl<A: Address> Plain for FlowEntry<A> {}

#[inline(always)]
const fn words(mac: [u8; 6]) -> [u16; 3] {
    let [first, second, third, fourth, fifth, sixth] = mac;
    [
        u16::from_ne_bytes([first, second]),
        u16::from_ne_bytes([third, fourth]),
        u16::from_ne_bytes([fifth, sixth]),
    ]
}

/// Lookup floor: one hit in an LRU, a constant translation with its checksums, a transmission.
#[xdp]
pub fn lookup_floor_lru(ctx: XdpContext) -> u32 {
    by_family(
        &ctx,
        |ctx| look_up::<Ipv4>(ctx, Ipv4::in_lru),
        |ctx| look_up::<Ipv6>(ctx, Ipv6::in_lru),
    )
}

/// The same with a plain hash map, which established flows are in.
#[xdp]
pub fn lookup_floor_hash(ctx: XdpContext) -> u32 {
    by_family(
        &ctx,
        |ctx| look_up::<Ipv4>(ctx, Ipv4::in_hash),
        |ctx| look_up::<Ipv6>(ctx, Ipv6::in_hash),
    )
}

#[inline(always)]
fn look_up<A: Maps>(ctx: &XdpContext, finds: impl FnOnce(&Tuple<A>) -> bool) -> Option<u32> {
    let key = headers::tuple::<A>(ctx)?;
    if !finds(&key) {
        return None;
    }
    let constant = TARGET.get(0)?;
    let target = A::target(constant);
    let ports = at::<Ports>(ctx, A::TRANSPORT)?;
    ports.dst_be = constant.port_be;
    let delta = Delta::none()
        .address(&key.dst, &target)
        .word(key.dst_port_be, constant.port_be);
    let is_tcp = key.protocol == Protocol::Tcp as u32;
    let check = at::<u16>(ctx, A::TRANSPORT + if is_tcp { 16 } else { 6 })?;
    *check = if is_tcp {
        delta.apply(*check)
    } else {
        delta.apply_udp(*check)
    };
    A::forward(at::<A::Header>(ctx, IP)?, &target);
    let ethernet = at::<Ethernet>(ctx, 0)?;
    // One by one: else the compiler calls a function that copies byte after byte.
    for at in 0..3 {
        // SAFETY: within the arrays.
        unsafe {
            (&raw mut ethernet.destination)
                .cast::<u16>()
                .add(at)
                .write_volatile(constant.destination[at]);
            (&raw mut ethernet.source)
                .cast::<u16>()
                .add(at)
                .write_volatile(constant.source[at]);
        }
    }
    Some(xdp_action::XDP_TX)
}

/// What recording a flow with two directions cannot do without: one lookup, two insertions into an LRU.
#[xdp]
pub fn two_inserts(ctx: XdpContext) -> u32 {
    by_family(&ctx, record::<Ipv4>, record::<Ipv6>)
}

#[inline(always)]
fn record<A: Maps>(ctx: &XdpContext) -> Option<u32> {
    let key = headers::tuple::<A>(ctx)?;
    if A::in_new(&key) {
        return None;
    }
    let target = TARGET.get(0)?;
    let peer_key = Tuple {
        src: A::target(target),
        src_port_be: target.port_be,
        dst: key.src,
        dst_port_be: key.src_port_be,
        ..key
    };
    let mut place = MaybeUninit::<FlowEntry<A>>::uninit();
    let entry = zeroed(&mut place);
    entry.rewrite_addr = A::target(target);
    entry.rewrite_port_be = target.port_be;
    entry.last_seen = 1;
    entry.state = 1;
    (A::insert_new(&key, entry) && A::insert_new(&peer_key, entry)).then_some(xdp_action::XDP_PASS)
}
