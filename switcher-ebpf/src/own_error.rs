//! ICMP and ICMPv6 errors that the node sends itself, before anything is rewritten: the stack would
//! quote the packet as the backend knows it.

use aya_ebpf::programs::XdpContext;
use switcher_common::{
    packet::{
        Part,
        own_error::{Layout, OwnError, OwnErrors, write},
    },
    rate::Capped,
    reason::Reason,
    service::Protocol,
};

use crate::{
    frame::XdpFrame, interface::can_answer, maps::Tables, rate, select::is_martian,
    unfinished::is_left_to_hardware, work::Work,
};

/// Tells the sender of the packet in `work` why it is dropped, if it may be told. Returns the verdict.
#[inline(always)]
pub(crate) fn tell<A: Tables + OwnErrors>(
    ctx: &XdpContext,
    work: &mut Work<A>,
    dropped_as: Reason,
) -> Reason {
    let (error, told_as, capped) = match dropped_as {
        Reason::TtlExceeded => (
            OwnError::TIME_EXCEEDED,
            Reason::TimeExceededSent,
            Capped::TimeExceeded,
        ),
        Reason::TooBig => {
            // SAFETY: the kernel has set it, with the answer that led here.
            let mtu = unsafe { work.fib.__bindgen_anon_1.mtu_result };
            (OwnError::too_big(mtu), Reason::TooBigSent, Capped::TooBig)
        }
        _ => return dropped_as,
    };
    let mut frame = XdpFrame::new(ctx);
    // Never about an ICMP error or a later fragment, nor to somebody who is not one host (RFC 1122,
    // 3.2.2). Where the kernel has left the packet's checksum to hardware, that would write it into
    // the error.
    let may_be_told = !cfg!(mutant = "no-own-errors")
        && Protocol::from_number(work.ip.protocol).is_some()
        && work.ip.part != Part::Later
        && !is_martian(&work.ip.src)
        && can_answer(&frame)
        && !is_left_to_hardware::<A>(&frame)
        && rate::take(capped, work.now);
    if !may_be_told {
        return dropped_as;
    }
    let layout = Layout::about(&work.ip);
    // Some drivers leave no room in front.
    if !frame.grow_front(A::HEADERS) {
        return dropped_as;
    }
    if !frame.cut_to(A::HEADERS + layout.kept()) {
        return Reason::Inconsistent;
    }
    match write(&mut frame, &layout, &work.ip, error) {
        Some(()) => told_as,
        None => Reason::Inconsistent,
    }
}
