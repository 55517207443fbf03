//! Live throughput: [`generate`] makes frames that the kernel sends into the node, [`sink`] counts what has come through it,
//! [`router`] is a node that only routes, [`redirect`] one that knows where to, [`lookup`] one that looks a flow up before. IPv4 alone.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use switcher_common::{address::Ipv4, checksum::Delta, service::Protocol};

use crate::{
    floor::{knows, route},
    headers::{Ethernet, Family as _, HeaderV4, IP, KIND_V4, Ports, at, tuple},
    job::{Arrived, Expected, FIRST_PORT, FRAME, Job, PORTS_PER_ADDRESS, SAMPLES, WayOut},
};

#[btf_map]
static JOB: Array<Job, 1> = Array::new();

/// The next flow, counted from the job's first.
#[btf_map]
static ROUND: Array<u32, 1> = Array::new();

#[btf_map]
static EXPECTED: Array<Expected, 1> = Array::new();

#[btf_map]
static ARRIVED: PerCpuArray<Arrived, 1> = PerCpuArray::new();

/// The first frames that arrived.
#[btf_map]
static SAMPLE: Array<[u64; FRAME / 8], { SAMPLES as usize }> = Array::new();

/// Makes each live frame the next flow's, all of it: the page comes back as the node has left it.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    match fill(&ctx) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn fill(ctx: &XdpContext) -> Option<()> {
    let job = JOB.get(0)?;
    let round = ROUND.get_ptr_mut(0)?;
    // SAFETY: one thread runs the generator.
    let at_flow = unsafe { *round };
    let next = if at_flow + 1 < job.flows {
        at_flow + 1
    } else {
        0
    };
    // SAFETY: as above.
    unsafe { *round = next };
    let flow = job.first + at_flow;
    let address = Ipv4((job.address + flow / PORTS_PER_ADDRESS).to_be());
    // As few as that fit 16 bits.
    let port = FIRST_PORT + u16::try_from(flow % PORTS_PER_ADDRESS).ok()?;
    let port_be = port.to_be();
    let words = at::<Words>(ctx, 0)?;
    for (at, word) in job.frame.iter().enumerate() {
        // SAFETY: within the frame. One store each: all at once would be copied byte by byte.
        unsafe { (&raw mut words.0).cast::<u64>().add(at).write(*word) };
    }
    let transport = IP + size_of::<HeaderV4>();
    let header = at::<HeaderV4>(ctx, IP)?;
    let ports = at::<Ports>(ctx, transport)?;
    let delta = Delta::none().address(&Ipv4(0), &address);
    header.check = delta.apply(header.check);
    if job.is_reverse == 0 {
        header.src = address.0;
        ports.src_be = port_be;
    } else {
        header.dst = address.0;
        ports.dst_be = port_be;
    }
    let delta = delta.word(0, port_be);
    if header.protocol == Protocol::Tcp as u8 {
        let check = at::<u16>(ctx, transport + 16)?;
        *check = delta.apply(*check);
    } else {
        let check = at::<u16>(ctx, transport + 6)?;
        *check = delta.apply_udp(*check);
    }
    Some(())
}

/// A whole frame.
#[repr(C, packed(2))]
struct Words([u64; FRAME / 8]);

/// Counts and drops TCP and UDP, passes the rest: neighbours may be asked for.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    match absorb(&ctx) {
        Some(()) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn absorb(ctx: &XdpContext) -> Option<()> {
    if at::<Ethernet>(ctx, 0)?.kind_be != KIND_V4 {
        return None;
    }
    let header = at::<HeaderV4>(ctx, IP)?;
    Protocol::from_number(header.protocol)?;
    let ports = at::<Ports>(ctx, IP + size_of::<HeaderV4>())?;
    let expected = EXPECTED.get(0)?;
    let end = if expected.is_reverse == 0 {
        (header.dst, ports.dst_be)
    } else {
        (header.src, ports.src_be)
    };
    let arrived = ARRIVED.get_ptr_mut(0)?;
    // SAFETY: of this processor alone.
    let arrived = unsafe { &mut *arrived };
    if end != (expected.address, expected.port_be) {
        arrived.other += 1;
        return Some(());
    }
    if let Ok(number) = u32::try_from(arrived.good)
        && number < SAMPLES
    {
        let sample = SAMPLE.get_ptr_mut(number)?;
        // SAFETY: frames of one run arrive on one processor.
        unsafe { *sample = seen(ctx)? };
    }
    arrived.good += 1;
    Some(())
}

/// The frame. The stack cuts off what is behind the packet, which is zero as it was sent.
#[inline(always)]
fn seen(ctx: &XdpContext) -> Option<[u64; FRAME / 8]> {
    if let Some(words) = at::<Words>(ctx, 0) {
        return Some(words.0);
    }
    let cut = at::<Cut>(ctx, 0)?;
    let mut words = [0; FRAME / 8];
    let whole = cut.words;
    words[..CUT / 8].copy_from_slice(&whole);
    words[CUT / 8] =
        u64::from(cut.rest[0]) | u64::from(cut.rest[1]) << 16 | u64::from(cut.rest[2]) << 32;
    Some(words)
}

/// Whole words of a TCP segment without data.
const CUT: usize = 48;

/// A TCP segment without data.
#[repr(C, packed(2))]
struct Cut {
    words: [u64; CUT / 8],
    rest: [u16; 3],
}

/// The least that a node can do that forwards: parse, ask the kernel for the route, write the MAC addresses, redirect.
#[xdp]
pub fn router(ctx: XdpContext) -> u32 {
    let verdict = match at::<Ethernet>(&ctx, 0).map(|it| it.kind_be) {
        Some(KIND_V4) => route::<Ipv4>(&ctx, |destination| destination),
        _ => None,
    };
    verdict.unwrap_or(xdp_action::XDP_PASS)
}

/// Where a node sends what comes in by an interface.
#[btf_map]
static WAYS: Array<WayOut, 2> = Array::new();

/// What no node can do without: a time to live less, the MAC addresses, a redirect; where to is known.
#[xdp]
pub fn redirect(ctx: XdpContext) -> u32 {
    send_on(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

/// Packets whose flow was in the map.
#[btf_map]
static KNOWN: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The same for who has flows: a lookup in a hash map before, and nothing that comes of it.
#[xdp]
pub fn lookup(ctx: XdpContext) -> u32 {
    look_up(&ctx)
        .and_then(|()| send_on(&ctx))
        .unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn look_up(ctx: &XdpContext) -> Option<()> {
    if at::<Ethernet>(ctx, 0)?.kind_be != KIND_V4 {
        return None;
    }
    let is_known = knows(&tuple::<Ipv4>(ctx)?);
    let known = KNOWN.get_ptr_mut(0)?;
    // SAFETY: of this processor alone.
    unsafe { *known += u64::from(is_known) };
    Some(())
}

#[inline(always)]
fn send_on(ctx: &XdpContext) -> Option<u32> {
    if at::<Ethernet>(ctx, 0)?.kind_be != KIND_V4 {
        return None;
    }
    // SAFETY: the kernel hands the program a valid context.
    let interface = unsafe { (*ctx.ctx).ingress_ifindex };
    let first = WAYS.get(0)?;
    let way = if first.comes_in_by == interface {
        first
    } else {
        WAYS.get(1)?
    };
    let header = at::<HeaderV4>(ctx, IP)?;
    let (_, destination, _) = Ipv4::addresses(header)?;
    Ipv4::forward(header, &destination);
    let ethernet = at::<Ethernet>(ctx, 0)?;
    ethernet.destination = way.destination;
    ethernet.source = way.source;
    // SAFETY: plain values; the kernel checks the interface when it carries the redirect out.
    let verdict = unsafe { bpf_redirect(way.leaves_by, 0) };
    u32::try_from(verdict).ok()
}
