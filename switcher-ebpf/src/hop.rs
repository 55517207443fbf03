//! The next hops that established flows keep, so that the kernel is not asked for each packet.

use switcher_common::{
    address::Address,
    flow::{FlowKey, FlowState},
    hop::{HopWatch, NextHop, Question, Way},
    packet::{Ethernet, IpPacket},
};

use crate::{
    frame::XdpFrame,
    interface,
    maps::{HOP_SOURCES, HOP_WATCH, Tables},
    route::FibLookup,
    work::Work,
};

/// What the agent says of them.
#[inline(always)]
pub(crate) fn watch() -> HopWatch {
    HOP_WATCH.get(0).copied().unwrap_or_default()
}

/// What the kernel is asked about the packet once its 5-tuple is `to`.
#[inline(always)]
pub(crate) fn question<A: Address>(
    frame: &XdpFrame<'_>,
    ip: &IpPacket<A>,
    to: &FlowKey<A>,
) -> Question<A> {
    Question {
        src: to.src,
        dst: to.dst,
        protocol: to.protocol,
        ingress: frame.ingress_ifindex(),
        tos: ip.tos,
        ip_len: ip.ip_len,
    }
}

/// The link address from which packets leave by the interface `egress`.
#[inline(always)]
pub(crate) fn source(egress: u16) -> Option<[u8; 6]> {
    let [source @ .., is_known, _] = HOP_SOURCES.get(egress.into())?.to_ne_bytes();
    (is_known != 0).then_some(source)
}

/// Notes the link address of the interface that the packet in `work` leaves by, and returns its index, if it is small
/// enough for a hop. One store: no CPU finds half of it.
#[inline(always)]
fn note_source(fib: &FibLookup) -> Option<u16> {
    let egress = u16::try_from(fib.ifindex).ok()?;
    let known = HOP_SOURCES.get_ptr_mut(fib.ifindex)?;
    let mut source = [0; 8];
    source[..6].copy_from_slice(&fib.smac);
    source[6] = 1;
    let source = u64::from_ne_bytes(source);
    // SAFETY: a map value. Written only if it changes: all CPUs read it for each packet.
    unsafe {
        let before = known.read_volatile();
        if before == 0 || (before != source && !cfg!(mutant = "hop-source-once")) {
            known.write_volatile(source);
        }
    }
    Some(egress)
}

/// Has the flow of the packet in `work`, if it is established, keep the hop that the packet has just been sent to
/// by `way`; `None`: it was not sent to one. What has tags, or came in generic mode, may leave otherwise than its
/// next one: then the flow keeps none.
#[inline(always)]
pub(crate) fn keep<A: Tables>(frame: &XdpFrame<'_>, work: &Work<A>, way: Option<Way>) {
    let Some(entry) = A::established().get_ptr_mut(&work.key) else {
        return;
    };
    let is_established = matches!(work.entry.state(), FlowState::Established);
    let is_plain = work.ip.ip_offset == size_of::<Ethernet>() && !interface::is_generic(frame);
    let hop = match way {
        Some(way) if is_established && is_plain => answer(frame, work, way),
        // Also one that is kept from before: no packet looks at its age now, and its bits wrap.
        _ => None,
    };
    if hop.is_none() && cfg!(mutant = "hop-never-forgotten") {
        return;
    }
    // The flow may have left the table meanwhile, and its place may be another flow's: that one does not believe the
    // hop, nor does anybody what two CPUs leave that write it at once.
    // SAFETY: as in `flow::track`.
    unsafe { (*entry).hop = hop.unwrap_or_default() };
}

#[inline(always)]
fn answer<A: Tables>(frame: &XdpFrame<'_>, work: &Work<A>, way: Way) -> Option<NextHop> {
    let hop = NextHop {
        dmac: work.fib.dmac,
        egress: note_source(&work.fib)?,
        // SAFETY: integers of the same size. On success the kernel leaves the MTU there since Linux 5.12, and before
        // it what it was asked for, up to which the answer holds too.
        mtu: unsafe { work.fib.__bindgen_anon_1.mtu_result },
        looked_at: low_bits(work.now),
        ..NextHop::default()
    };
    let question = question(frame, &work.ip, &work.to);
    Some(hop.kept(&question, way, work.hop_epoch))
}

#[expect(clippy::cast_possible_truncation, reason = "that is asked for")]
#[inline(always)]
const fn low_bits(tick: u32) -> u16 {
    tick as u16
}
