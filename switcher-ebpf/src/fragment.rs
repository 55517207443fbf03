//! Stage "fragment": later fragments follow their first one.
//!
//! The first one has the ports, and goes the way of every packet. Its ports are kept for a while; the
//! others find by them the flow that it belongs to, which they neither begin nor change.

use aya_ebpf::bindings::BPF_ANY;
use switcher_common::{
    flow::Segment,
    packet::{FragmentPorts, Network},
    reason::Reason,
};

use crate::{
    cut::{is_cut, order_of},
    filter,
    flow::table::find,
    maps::Tables,
    select::{is_vip, listener},
    work::Work,
};

/// Keeps the ports of the first fragment whose 5-tuple `work` holds. When that fails, the others are
/// dropped and counted as fragments without a first one.
#[inline(always)]
pub(crate) fn keep<A: Tables + Network>(work: &mut Work<A>) {
    work.fragment = work.ip.fragment_key();
    let ports = FragmentPorts::new(&work.key, work.now);
    let _ = A::fragments().insert(&work.fragment, &ports, u64::from(BPF_ANY));
}

/// Finds the flow of the later fragment that `work` holds, and leaves its entry there. The error is
/// its verdict.
#[inline(always)]
pub(crate) fn follow<A: Tables + Network>(work: &mut Work<A>) -> Result<(), Reason> {
    work.fragment = work.ip.fragment_key();
    // SAFETY: copied at once. An element that is given to another datagram meanwhile leads to a flow
    // of its own addresses, or to none.
    let ports = unsafe { A::fragments().get(&work.fragment) }.copied();
    let ports = match ports {
        Some(ports) if !ports.is_over(work.now) && !cfg!(mutant = "fragments-lost") => ports,
        _ => return Err(filter::without_ports(&work.ip, work.ip.why_no_ports())),
    };
    work.key = work.fragment.tuple(&ports);
    work.segment = Segment::default();
    let Some(hit) = find(&work.key) else {
        return Err(without_flow(work));
    };
    // SAFETY: as in `flow::track`.
    unsafe { work.take_entry(hit.entry) };
    let order = order_of(work.entry.backend);
    if order.holds(work.entry.is_preview(), false, work.now) {
        return Err(Reason::Paused);
    }
    let is_tcp = work.key.is_tcp();
    if is_tcp && is_cut(&order, &work.entry, is_tcp, work.now) {
        return Err(Reason::FlowCut);
    }
    if !work.ip.may_travel() {
        return Err(Reason::TtlExceeded);
    }
    Ok(())
}

/// The verdict where the ports are known and lead to no flow.
#[inline(always)]
fn without_flow<A: Tables>(work: &Work<A>) -> Reason {
    if !is_vip(&work.key.dst) {
        Reason::FragmentFromBackend
    } else if listener(&work.key).is_some() {
        Reason::Fragment
    } else {
        Reason::NotOurs
    }
}
