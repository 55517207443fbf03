//! Telling readers of single packets. While nobody reads, [`is_on`] is all that a packet costs.

use aya_ebpf::{
    bindings::xdp_md,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
    programs::XdpContext,
};
use switcher_common::{
    address::Address,
    packet::{self, IpPacket, Network, Part},
    reason::Reason,
    trace::{Known, TraceControl, TraceEvent, note_bit},
};

use crate::{frame::XdpFrame, maps::Tables, outlined::GO_ON, select, work::Work};

/// Bytes of the ring of events.
const RING_BYTES: usize = 256 * 1024;

/// What is traced.
#[btf_map]
static TRACE: Array<TraceControl, 1> = Array::new();
/// What the program tells.
#[btf_map]
static TRACE_EVENTS: RingBuf<TraceEvent, RING_BYTES> = RingBuf::new();
/// Events that found the ring full.
#[btf_map]
static TRACE_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
/// The event that is being made: too large for the stack.
#[btf_map]
static TRACE_EVENT: PerCpuArray<TraceEvent, 1> = PerCpuArray::new();
/// What was counted beside the verdict of the packet at hand, by [`note_bit`].
#[btf_map]
static TRACE_NOTES: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Whether anybody may want to hear of a packet that has just come.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    let Some(control) = TRACE.get_ptr(0) else {
        return false;
    };
    // SAFETY: a map value, which the agent may write at any time.
    if unsafe { (&raw const (*control).until_ns).read_volatile() } == 0 {
        return false;
    }
    if let Some(notes) = TRACE_NOTES.get_ptr_mut(0) {
        // SAFETY: per-CPU value.
        unsafe { *notes = 0 };
    }
    true
}

/// Remembers what is counted beside the verdict.
#[inline(always)]
pub(crate) fn note(reason: Reason) {
    if let Some(notes) = TRACE_NOTES.get_ptr_mut(0) {
        // SAFETY: per-CPU value.
        unsafe { *notes |= note_bit(reason) };
    }
}

/// How much is known of a packet that ended in stage "select".
#[inline(always)]
pub(crate) const fn known_without_flow(reason: Reason) -> Known {
    match reason {
        Reason::NoBackend
        | Reason::ReplyTupleTaken
        | Reason::SourceIsBackend
        | Reason::InsertRate
        | Reason::FlowInsertFailed => Known::Color,
        _ => Known::Tuple,
    }
}

/// How much is known of a later fragment after [`Outlined::follow`](crate::outlined::Outlined::follow).
#[inline(always)]
pub(crate) const fn known_of_fragment(code: u32) -> Known {
    const TTL_EXCEEDED: u32 = Reason::TtlExceeded as u32;
    const FLOW_CUT: u32 = Reason::FlowCut as u32;
    match code {
        GO_ON | TTL_EXCEEDED | FLOW_CUT => Known::Flow,
        _ => Known::Packet,
    }
}

/// Tells the readers, if one wants to see it, that the packet ended with `reason`.
#[inline(always)]
pub(crate) fn tell<A: Tables + Network>(
    ctx: *mut xdp_md,
    ip_offset: u32,
    known: Known,
    reason: Reason,
) {
    let Some(control) = TRACE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: no arguments, available to all programs.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: as in `is_on`. The agent renews the end long before it comes; when it does not, it is
    // not there, and the next packets need not come here.
    unsafe {
        if now_ns >= (&raw const (*control).until_ns).read_volatile() {
            (&raw mut (*control).until_ns).write_volatile(0);
            return;
        }
    }
    let ctx = XdpContext::new(ctx);
    let frame = XdpFrame::new(&ctx);
    // SAFETY: per-CPU value.
    let notes = TRACE_NOTES.get_ptr(0).map_or(0, |notes| unsafe { *notes });
    let known = match known {
        Known::Message if notes & note_bit(Reason::IcmpTranslated) != 0 => Known::Flow,
        known => known,
    };
    let Some(event) = TRACE_EVENT.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: per-CPU value.
    let event = unsafe { &mut *event };
    *event = TraceEvent::default();
    if matches!(known, Known::Packet) {
        of_frame::<A>(&frame, ip_offset as usize, event);
    } else if let Some(work) = A::work() {
        of_work(work, known, event);
    }
    event.time_ns = now_ns;
    event.ifindex = frame.ingress_ifindex();
    event.reason = reason as u32;
    event.known = known as u8;
    // Without a whole IP header nothing makes it ours.
    let is_foreign = reason as u32 == Reason::NotOurs as u32 || event.af == 0;
    event.is_foreign = u8::from(is_foreign);
    event.notes = notes;
    publish();
}

/// Never inlined: the same for both families.
#[inline(never)]
fn publish() {
    let (Some(control), Some(event)) = (TRACE.get(0), TRACE_EVENT.get_ptr(0)) else {
        return;
    };
    // SAFETY: per-CPU value.
    let event = unsafe { &*event };
    // A filter that is just being written may be half an old one; the agent asks the readers' filters
    // again.
    let is_wanted = control.filters.iter().any(|filter| filter.matches(event));
    if cfg!(mutant = "trace-nothing") || !(is_wanted || cfg!(mutant = "trace-everything")) {
        return;
    }
    if let Some(mut place) = TRACE_EVENTS.reserve(0) {
        place.write(*event);
        place.submit(0);
    } else if let Some(lost) = TRACE_LOST.get_ptr_mut(0) {
        // SAFETY: per-CPU value.
        unsafe { *lost += 1 };
    }
}

/// A packet that did not get far: its bytes are as they came.
#[inline(always)]
fn of_frame<A: Tables + Network>(frame: &XdpFrame<'_>, ip_offset: usize, event: &mut TraceEvent) {
    let Some(ip) = packet::network::<A, _>(frame, ip_offset) else {
        return;
    };
    of_packet(&ip, event);
    let has_ports = packet::complete(frame, &ip).is_ok() && ip.part != Part::Later;
    if has_ports && let Ok(transport) = packet::transport(frame, &ip) {
        event.src_port_be = transport.src_port_be;
        event.dst_port_be = transport.dst_port_be;
        event.tcp_flags = transport.segment.flags;
    }
}

#[inline(always)]
fn of_packet<A: Address>(ip: &IpPacket<A>, event: &mut TraceEvent) {
    event.src = ip.src.wide();
    event.dst = ip.dst.wide();
    event.ip_len = ip.ip_len;
    event.af = A::AF;
    event.protocol = ip.protocol;
}

/// A packet whose 5-tuple is known: its bytes may be rewritten by now.
#[inline(always)]
fn of_work<A: Tables>(work: &Work<A>, known: Known, event: &mut TraceEvent) {
    of_packet(&work.ip, event);
    if matches!(known, Known::Packet | Known::Message) {
        return;
    }
    event.src_port_be = work.key.src_port_be;
    event.dst_port_be = work.key.dst_port_be;
    if work.key.is_tcp() {
        event.tcp_flags = work.segment.flags;
    }
    let entry = &work.entry;
    match known {
        Known::Packet | Known::Message | Known::Tuple => {
            event.service = select::listener(&work.key).map_or(0, |listener| listener.service);
        }
        Known::Color => {
            event.service = entry.service;
            event.color = entry.color;
        }
        Known::Flow | Known::Fresh => {
            event.rewrite_addr = entry.rewrite_addr.wide();
            event.rewrite_port_be = entry.rewrite_port_be;
            event.backend = entry.backend;
            event.service = entry.service;
            event.side = entry.side;
            event.state = entry.state;
            event.color = entry.color;
            event.flags = entry.flags;
        }
    }
}
