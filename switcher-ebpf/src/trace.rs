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
    flow::FlowKey,
    packet::{self, IpPacket, Network},
    reason::Reason,
    trace::{Known, TraceControl, TraceEvent, note_bit},
};

use crate::{frame::XdpFrame, maps::Tables, select, work::Work};

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
    let Some(mut event) = (if matches!(known, Known::Packet) {
        of_frame::<A>(&frame, ip_offset as usize)
    } else {
        A::work().map(|work| of_work(work, known))
    }) else {
        return;
    };
    event.time_ns = now_ns;
    event.ifindex = frame.ingress_ifindex();
    event.reason = reason as u32;
    event.known = known as u8;
    event.is_foreign = u8::from(reason as u32 == Reason::NotOurs as u32);
    event.notes = notes;
    publish(&event);
}

/// Never inlined: the same for both families.
#[inline(never)]
fn publish(event: &TraceEvent) {
    let Some(control) = TRACE.get(0) else {
        return;
    };
    // A filter that is just being written may be half an old one; the agent asks the readers' filters
    // again.
    if !control.filters.iter().any(|filter| filter.matches(event)) {
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
fn of_frame<A: Tables + Network>(frame: &XdpFrame<'_>, ip_offset: usize) -> Option<TraceEvent> {
    let ip: IpPacket<A> = packet::network(frame, ip_offset)?;
    let mut event = of_packet(&ip);
    if let Ok(transport) = packet::transport(frame, &ip) {
        event.src_port_be = transport.src_port_be;
        event.dst_port_be = transport.dst_port_be;
        event.tcp_flags = transport.segment.flags;
    }
    Some(event)
}

#[inline(always)]
fn of_packet<A: Address>(ip: &IpPacket<A>) -> TraceEvent {
    TraceEvent {
        src: ip.src.wide(),
        dst: ip.dst.wide(),
        ip_len: ip.ip_len,
        af: A::AF,
        protocol: ip.protocol,
        ..TraceEvent::default()
    }
}

/// A packet whose 5-tuple is known: its bytes may be rewritten by now.
#[inline(always)]
fn of_work<A: Tables>(work: &Work<A>, known: Known) -> TraceEvent {
    let FlowKey {
        src_port_be,
        dst_port_be,
        ..
    } = work.key;
    let event = of_packet(&work.ip);
    if matches!(known, Known::Packet | Known::Message) {
        return event;
    }
    let event = TraceEvent {
        src_port_be,
        dst_port_be,
        tcp_flags: if work.key.is_tcp() {
            work.segment.flags
        } else {
            0
        },
        ..event
    };
    let entry = &work.entry;
    match known {
        Known::Packet | Known::Message | Known::Tuple => TraceEvent {
            service: select::listener(&work.key).map_or(0, |listener| listener.service),
            ..event
        },
        Known::Color => TraceEvent {
            service: entry.service,
            color: entry.color,
            ..event
        },
        Known::Flow | Known::Fresh => TraceEvent {
            rewrite_addr: entry.rewrite_addr.wide(),
            rewrite_port_be: entry.rewrite_port_be,
            backend: entry.backend,
            service: entry.service,
            side: entry.side,
            state: entry.state,
            color: entry.color,
            flags: entry.flags,
            ..event
        },
    }
}
