//! Replies: whether one comes from where its backend is, and whose it is when no flow says so (G9).

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS,
    },
    programs::XdpContext,
};
use bytemuck::Zeroable as _;
use switcher_common::{
    address::Address,
    flow::{FLAG_UNPINNED, FlowEntry, FlowState, Progress, Side},
    hop::Question,
    packet,
    reason::Reason,
    service::SHARED_ENDPOINT,
};

use crate::{
    count,
    cut::order_of,
    flow::{
        alone,
        table::{find, record},
    },
    frame::XdpFrame,
    interface,
    maps::{BACKENDS, Tables},
    route::lookup,
    select::edition,
    work::Work,
};

/// Whether the packet came in by the interface that the route back to its source uses, or by one below
/// that: VLAN devices, bonds and bridges have the routes of what comes in by others. Where the kernel
/// does not say, it counts as so.
#[inline(always)]
pub(crate) fn comes_by_its_route<A: Address>(ctx: &XdpContext, work: &mut Work<A>) -> bool {
    if cfg!(mutant = "replies-from-anywhere") {
        return true;
    }
    let frame = XdpFrame::new(ctx);
    let question = question(&frame, &work.key.dst, &work.key.src, work);
    match lookup(&frame, &question, &mut work.fib) {
        Some(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) => {
            let tags = packet::tags(&frame, work.ip.ip_offset);
            interface::came_in_by(&frame, tags, work.fib.ifindex)
        }
        Some(BPF_FIB_LKUP_RET_FWD_DISABLED) => true,
        _ => false,
    }
}

#[inline(always)]
fn question<A: Address>(frame: &XdpFrame<'_>, src: &A, dst: &A, work: &Work<A>) -> Question<A> {
    Question {
        src: *src,
        dst: *dst,
        protocol: work.key.protocol,
        ingress: frame.ingress_ifindex(),
        tos: work.ip.tos,
        ip_len: 0,
    }
}

/// Whether the packet's destination is an address of this node.
#[inline(always)]
fn is_to_this_node<A: Address>(ctx: &XdpContext, work: &mut Work<A>) -> bool {
    let frame = XdpFrame::new(ctx);
    let question = question(&frame, &work.key.src, &work.key.dst, work);
    matches!(
        lookup(&frame, &question, &mut work.fib),
        Some(BPF_FIB_LKUP_RET_NOT_FWDED | BPF_FIB_LKUP_RET_FWD_DISABLED)
    )
}

/// How a reply came to its entry.
#[derive(Clone, Copy)]
pub(crate) enum Pinned {
    /// There is a new flow, or the packet begins none.
    Afresh,
    /// The entry of a known flow has been made: what the packet means for that flow is not judged.
    Mended,
}

/// Makes the flow of a backend's packet again, of which neither table knows.
#[inline(always)]
pub(crate) fn repin<A: Tables>(ctx: &XdpContext, work: &mut Work<A>) -> Result<Pinned, Reason> {
    let editions = alone::endpoint(&work.key).ok_or(Reason::NotOurs)?;
    // A SYN is no reply: the backend begins a connection of its own.
    if work.key.is_tcp() && work.segment.is_initial_syn() {
        return Err(Reason::NotOurs);
    }
    if alone::pair(&work.key, &mut work.peer) {
        work.entry = work.peer;
        return Ok(Pinned::Mended);
    }
    let edition = edition().ok_or(Reason::NotOurs)?;
    let endpoint = editions.get(edition).ok_or(Reason::NotOurs)?;
    if is_to_this_node(ctx, work) {
        return Err(Reason::NotOurs);
    }
    if endpoint.backend == SHARED_ENDPOINT || !comes_by_its_route(ctx, work) {
        return Err(Reason::UnexpectedReply);
    }
    if !work.ip.may_travel() {
        return Err(Reason::TtlExceeded);
    }
    let backend = BACKENDS.get(endpoint.backend).ok_or(Reason::Inconsistent)?;
    let begun = Progress::begun(&work.segment);
    work.entry = FlowEntry {
        rewrite_addr: A::narrow(&endpoint.vip),
        rewrite_port_be: if cfg!(mutant = "fault-reply-source") {
            work.key.src_port_be
        } else {
            endpoint.port_be
        },
        next_seq: begun.next_seq,
        acked: begun.acked,
        fin_end: begun.fin_end,
        last_seen: work.now,
        created: work.now,
        backend: endpoint.backend,
        service: backend.service,
        side: Side::Reverse as u8,
        state: FlowState::Unanswered as u8,
        color: backend.color,
        flags: FLAG_UNPINNED,
        ..FlowEntry::zeroed()
    };
    if order_of(work.entry.backend).holds(work.entry.is_preview(), false, work.now) {
        return Err(Reason::Paused);
    }
    work.set_peer_key();
    // The client's packets go elsewhere.
    if find(&work.peer_key).is_some() {
        return Err(Reason::ReplyTupleTaken);
    }
    // The answer to a SYN whose flow is gone would begin a connection on whatever color its
    // backend has. The client's next SYN chooses afresh.
    if work.key.is_tcp() && work.segment.is_syn_ack() {
        return Err(Reason::UnexpectedReply);
    }
    if !work.segment.is_rst() {
        record(work)?;
        count::new_flow(&work.entry, true);
    }
    count::note(Reason::ReplyRepinned);
    Ok(Pinned::Afresh)
}
