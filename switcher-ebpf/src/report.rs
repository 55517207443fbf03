//! Telling the agent of what packets say about backends. Only refused, unanswered and reset connections
//! come here.

use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
};
use switcher_common::{
    flow::Side,
    rate::{Capped, Window},
    reason::Reason,
    report::{BackendReport, REPORTS_PER_BACKEND, RESET_BURST, Seen},
};

use crate::{
    count,
    maps::{HEARD, Tables},
    rate,
    work::Work,
};

/// Bytes of the ring: 1 365 reports, each with a header of 8 bytes.
const RING_BYTES: usize = 64 * 1024;

/// What the program tells.
#[btf_map]
static REPORTS: RingBuf<BackendReport, RING_BYTES> = RingBuf::new();
/// Reports about each backend, by id.
#[btf_map]
static REPORTED: PerCpuArray<Window, 16> = PerCpuArray::new();
/// Established flows that each backend has reset, by id.
#[btf_map]
static RESETS: PerCpuArray<Window, 16> = PerCpuArray::new();

/// Reports `seen` of the backend of the flow of `work`.
#[inline(always)]
pub(crate) fn about_backend<A: Tables>(work: &Work<A>, seen: Seen) {
    count::note(match seen {
        Seen::Refused => Reason::SynRefused,
        Seen::Unanswered => Reason::SynUnanswered,
        Seen::Resets => Reason::ResetBurst,
    });
    if !may_report(work.entry.backend, work.now) {
        count::note(Reason::ReportLost);
        return;
    }
    let Some(mut place) = REPORTS.reserve(0) else {
        count::note(Reason::ReportLost);
        return;
    };
    let client = match work.entry.side() {
        Side::Forward => work.key.src,
        Side::Reverse => work.key.dst,
    };
    place.write(BackendReport {
        // SAFETY: no arguments, available to all programs.
        time_ns: unsafe { bpf_ktime_get_ns() },
        client: client.wide(),
        backend: work.entry.backend,
        tick: work.now,
        answered: HEARD
            .get(work.entry.backend)
            .map_or(0, |heard| heard.answered),
        service: work.entry.service,
        seen: seen as u8,
        af: A::AF,
    });
    place.submit(0);
}

/// Whether neither this backend's share of this CPU's reports nor all of them are used up.
#[inline(always)]
fn may_report(backend: u32, now: u32) -> bool {
    let Some(window) = REPORTED.get_ptr_mut(backend) else {
        return false;
    };
    // SAFETY: per-CPU value.
    unsafe { (*window).take(now, REPORTS_PER_BACKEND) && rate::take(Capped::Report, now) }
}

/// Counts an established flow that the backend has reset, and reports the one that makes a burst of them.
#[inline(always)]
pub(crate) fn count_reset<A: Tables>(work: &Work<A>) {
    let Some(window) = RESETS.get_ptr_mut(work.entry.backend) else {
        return;
    };
    // SAFETY: per-CPU value.
    let resets = unsafe {
        let _ = (*window).take(work.now, u32::MAX);
        (*window).used
    };
    if resets == RESET_BURST {
        about_backend(work, Seen::Resets);
    }
}
