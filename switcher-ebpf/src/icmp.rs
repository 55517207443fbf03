//! ICMP and ICMPv6: echo requests to a VIP are answered here, errors about a flow's packets go where
//! the flow's packets of that direction go.

use aya_ebpf::programs::XdpContext;
use switcher_common::{
    flow::FlowKey,
    packet::icmp::{self, Icmp, IcmpHeader},
    reason::{Reason, Verdict},
};

use crate::{
    count,
    flow::table::find,
    forward,
    frame::XdpFrame,
    interface::can_answer,
    maps::Tables,
    select::{is_martian, is_vip},
    work::Work,
};

/// The verdict on the message whose IP header `work` holds.
#[inline(always)]
pub(crate) fn message<A: Tables + Icmp>(ctx: &XdpContext, work: &mut Work<A>) -> Reason {
    let mut frame = XdpFrame::new(ctx);
    let is_to_vip = is_vip(&work.ip.dst);
    match icmp::message(&frame, &work.ip) {
        Some(&IcmpHeader { kind, code: 0, .. }) if kind == A::ECHO_REQUEST && is_to_vip => {
            return echo(&mut frame, work);
        }
        Some(&IcmpHeader { kind, .. }) if A::is_error(kind) => {
            if let Some(reason) = error(&mut frame, work) {
                return reason;
            }
        }
        _ => {}
    }
    if is_to_vip {
        Reason::IcmpUnrelated
    } else {
        Reason::NotOurs
    }
}

#[inline(always)]
fn echo<A: Tables + Icmp>(frame: &mut XdpFrame<'_>, work: &Work<A>) -> Reason {
    if is_martian(&work.ip.src) || cfg!(mutant = "echo-unanswered") {
        return Reason::MartianSource;
    }
    // The stack answers it, if the VIP is an address of the node.
    if !can_answer(frame) {
        return Reason::IcmpUnrelated;
    }
    match icmp::answer_echo(frame, &work.ip) {
        Some(()) => Reason::EchoAnswered,
        None => Reason::Inconsistent,
    }
}

/// `None`: it is about no flow.
#[inline(always)]
fn error<A: Tables + Icmp>(frame: &mut XdpFrame<'_>, work: &mut Work<A>) -> Option<Reason> {
    if cfg!(mutant = "errors-untranslated") {
        return None;
    }
    let quote = icmp::quote(frame, &work.ip)?;
    let hit = find(&quote.tuple)?;
    // SAFETY: as in `flow::track`; nothing of the entry is changed.
    work.entry = unsafe { *hit.entry };
    if work.entry.is_left() {
        return Some(Reason::LateAnswer);
    }
    if !work.may_travel() {
        return Some(Reason::TtlExceeded);
    }
    // As the packet is routed: its own addresses, of which one is the flow's.
    work.key = FlowKey {
        src: work.ip.src,
        dst: work.ip.dst,
        src_port_be: 0,
        dst_port_be: 0,
        protocol: A::PROTOCOL,
        reserved: [0; 3],
    };
    let reason = forward::send_by(frame, work, false, |frame, work, hop| {
        icmp::translate_error(frame, &work.ip, &quote, &work.entry, hop)
    });
    if !matches!(reason.verdict(), Verdict::Drop) {
        count::note(Reason::IcmpTranslated);
    }
    Some(reason)
}
