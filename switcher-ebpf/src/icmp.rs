//! ICMP and ICMPv6: echo requests to a VIP are answered here, errors about a flow's packets go where
//! the flow's packets of that direction go.

use aya_ebpf::programs::XdpContext;
use switcher_common::{
    flow::{FlowKey, Side},
    packet::icmp::{self, Icmp, IcmpHeader, Quote},
    reason::{Reason, Verdict},
};

use crate::{
    count,
    flow::alone,
    forward,
    frame::XdpFrame,
    interface::can_answer,
    maps::Tables,
    select::{is_martian, is_vip},
    work::Work,
};

/// The verdict on the message whose IP header `work` holds. `None` if it says that the backend of a
/// half-open flow, which is then in `work`, cannot be reached: unless `is_sent_on`, another one may be
/// asked first.
#[inline(always)]
pub(crate) fn message<A: Tables + Icmp>(
    ctx: &XdpContext,
    work: &mut Work<A>,
    is_sent_on: bool,
) -> Option<Reason> {
    let mut frame = XdpFrame::new(ctx);
    let is_to_vip = is_vip(&work.ip.dst);
    match icmp::message(&frame, &work.ip) {
        Some(&IcmpHeader { kind, code: 0, .. }) if kind == A::ECHO_REQUEST && is_to_vip => {
            return Some(echo(&mut frame, work));
        }
        Some(&IcmpHeader { kind, code, .. }) if A::is_error(kind) => {
            if let Some(quote) = icmp::quote(&frame, &work.ip)
                && find_flow(work, &quote)
            {
                let may_wait = !A::is_too_big(kind, code) && !is_sent_on;
                if may_wait && is_about_half_open(work, &quote) {
                    return None;
                }
                return Some(error(&mut frame, work, &quote));
            }
        }
        _ => {}
    }
    Some(if is_to_vip {
        Reason::IcmpUnrelated
    } else {
        Reason::NotOurs
    })
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

/// Whether the error is about a flow, whose entry is then in `work`.
#[inline(always)]
fn find_flow<A: Tables>(work: &mut Work<A>, quote: &Quote<A>) -> bool {
    if cfg!(mutant = "errors-untranslated") {
        return false;
    }
    let Some(hit) = alone::find_or_pair(&quote.tuple, &mut work.peer) else {
        return false;
    };
    // SAFETY: as in `flow::track`.
    unsafe { work.take_entry(hit.entry) };
    true
}

/// Whether the error is about a SYN that another backend may be sent; the flow is then in `work`.
#[inline(always)]
fn is_about_half_open<A: Tables>(work: &mut Work<A>, quote: &Quote<A>) -> bool {
    let is_half_open = quote.tuple.is_tcp()
        && work.entry.side() == Side::Reverse
        && work.entry.has_chance_left()
        && !work.entry.is_left()
        && !cfg!(mutant = "unreachable-sent-on");
    if is_half_open {
        work.key = quote.tuple;
        work.set_peer_key();
    }
    is_half_open
}

#[inline(always)]
fn error<A: Tables + Icmp>(
    frame: &mut XdpFrame<'_>,
    work: &mut Work<A>,
    quote: &Quote<A>,
) -> Reason {
    if work.entry.is_left() {
        return Reason::LateAnswer;
    }
    if !work.ip.may_travel() {
        return Reason::TtlExceeded;
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
        icmp::translate_error(frame, &work.ip, quote, &work.entry, hop)
    });
    if !matches!(reason.verdict(), Verdict::Drop) {
        count::note(Reason::IcmpTranslated);
    }
    reason
}
