//! Stages as global functions: the kernel verifies each of them once, and not again for each way that
//! leads to it, and each has a stack of its own while it runs. They find everything in [`Work`].

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use switcher_common::{
    address::{Ipv4, Ipv6},
    reason::Reason,
};

use crate::{
    frame::XdpFrame,
    maps::Tables,
    work::{HasWork, Work},
};

/// No verdict: the packet is to be translated by the entry in its [`Work`].
pub(crate) const GO_ON: u32 = 0;
/// No verdict: there is no flow, or it is over.
pub(crate) const NO_FLOW: u32 = u32::MAX;
/// As [`GO_ON`], and the flow is to move to the established table.
pub(crate) const PROMOTE: u32 = u32::MAX - 4;
/// No verdict: what the packet means for its flow is to be done.
pub(crate) const CARRY_OUT: u32 = u32::MAX - 5;
/// No verdict: the packet has a flow after all, which is to be found once more.
pub(crate) const AGAIN: u32 = u32::MAX - 6;
/// As [`GO_ON`], and the packet repeats the SYN of a half-open flow.
pub(crate) const REPEATED: u32 = u32::MAX - 7;
/// No verdict: the backend refuses the SYN.
pub(crate) const REFUSED: u32 = u32::MAX - 8;
/// No verdict: the backend of a half-open flow cannot be reached, says an ICMP error.
pub(crate) const UNREACHABLE: u32 = u32::MAX - 9;
/// No verdict: it is an ICMP message.
pub(crate) const MESSAGE: u32 = u32::MAX - 1;
/// No verdict: extension headers are to be stepped over.
pub(crate) const EXTENSIONS: u32 = u32::MAX - 2;
/// No verdict: a fragment without ports, whose flow is to be found otherwise.
pub(crate) const LATER_FRAGMENT: u32 = u32::MAX - 3;

/// Declares a global function for each family, and the trait that calls the right one.
macro_rules! outlined {
    ($($(#[$doc:meta])* $name:ident, $v4:ident, $v6:ident, ($($arg:ident: $type:ty),*);)*) => {
        /// An address family's global functions; each works on that family's [`Work`].
        pub(crate) trait Outlined: Sized {
            $($(#[$doc])* fn $name($($arg: $type),*) -> u32;)*
        }
        impl Outlined for Ipv4 {
            $(#[inline(always)] fn $name($($arg: $type),*) -> u32 { $v4($($arg),*) })*
        }
        impl Outlined for Ipv6 {
            $(#[inline(always)] fn $name($($arg: $type),*) -> u32 { $v6($($arg),*) })*
        }
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v4($($arg: $type),*) -> u32 { body::$name::<Ipv4>($($arg),*) }
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v6($($arg: $type),*) -> u32 { body::$name::<Ipv6>($($arg),*) }
        )*
    };
}

outlined! {
    /// Reads the packet whose IP header is at `ip_offset`: [`GO_ON`], [`EXTENSIONS`],
    /// [`LATER_FRAGMENT`], [`MESSAGE`], or why it ends here.
    read, read4, read6, (ctx: *mut xdp_md, ip_offset: u32);
    /// Reads on behind the extension headers: [`GO_ON`], [`LATER_FRAGMENT`], [`MESSAGE`], or why it ends
    /// here.
    step_over, step_over4, step_over6, (ctx: *mut xdp_md);
    /// Finds the flow of a later fragment: [`GO_ON`], or why it ends here.
    follow, follow4, follow6, ();
    /// Finds the packet's flow and judges what the packet means for it: [`GO_ON`], [`CARRY_OUT`],
    /// [`AGAIN`], [`NO_FLOW`], or why it ends here.
    track, track4, track6, ();
    /// 1 if the reply's entry was an older flow's, and the one of its own flow is there now.
    is_older, is_older4, is_older6, ();
    /// 1 if the other direction's entry is there; how far it has come is then in [`Work`].
    look_at_peer, look_at_peer4, look_at_peer6, ();
    /// 1 if the client's packets have a flow with another backend than the one whose reply this is.
    is_of_another, is_of_another4, is_of_another6, ();
    /// Does what the packet means for its flow: [`GO_ON`], [`PROMOTE`], [`NO_FLOW`], or why it ends.
    carry_out, carry_out4, carry_out6, (ctx: *mut xdp_md);
    /// Counts an established flow that its backend has reset.
    count_reset, count_reset4, count_reset6, ();
    /// 1 if the SYN that the packet repeats was refused or left unanswered, and may go elsewhere.
    is_left_open, is_left_open4, is_left_open6, ();
    /// Notes that the backend refuses: 1 if the flow may go elsewhere.
    hear_refusal, hear_refusal4, hear_refusal6, ();
    /// 1 if another backend can take the flow: of its color, or (1) of the one that takes fresh flows.
    look_for_another, look_for_another4, look_for_another6, (is_of_fresh: u32);
    /// 1 if the backend that is looked at takes the flow.
    is_open_to_chance, is_open_to_chance4, is_open_to_chance6, ();
    /// Sends the flow to the backend that was found: [`GO_ON`] or [`NO_FLOW`].
    take_chance, take_chance4, take_chance6, ();
    /// Sends the refusal on: [`GO_ON`], or (1) withholds it: why the packet ends here.
    refuse, refuse4, refuse6, (is_withheld: u32);
    /// Selects for a packet without a flow: [`GO_ON`], [`AGAIN`], or why it ends here.
    select, select4, select6, (ctx: *mut xdp_md);
    /// Rewrites the packet as its entry says, and sends it on: the verdict.
    send, send4, send6, (ctx: *mut xdp_md);
    /// Has the packet's flow keep the hop that it has just been sent to; with another verdict, none.
    keep_hop, keep_hop4, keep_hop6, (ctx: *mut xdp_md, sent_as: u32);
    /// What becomes of an ICMP message: the verdict, or, unless (1) it is to be sent on, [`UNREACHABLE`].
    message, message4, message6, (ctx: *mut xdp_md, is_sent_on: u32);
    /// Tells the packet's sender why it is dropped, if he may be told: the verdict after it.
    tell, tell4, tell6, (ctx: *mut xdp_md, dropped_as: u32);
    /// Answers the packet of a cut flow with a RST: the verdict.
    reset, reset4, reset6, (ctx: *mut xdp_md);
    /// Tells the readers of traces how the packet ended: a `Known` and a [`Reason`] as numbers.
    trace, trace4, trace6, (ctx: *mut xdp_md, ip_offset: u32, known: u32, reason: u32);
    /// Moves the flow to the established table.
    promote, promote4, promote6, ();
    /// Looks at the next slot of the ring of established flows: 1 while the flow is still to be placed
    /// in one.
    sweep_step, sweep_step4, sweep_step6, (to_place: u32);
    /// Whether the replies of the flow can be told from those of every live flow: a `Claim` as its number.
    claim_reply_tuple, claim_reply_tuple4, claim_reply_tuple6, ();
    /// Moves the flow out of it.
    demote, demote4, demote6, ();
    /// Makes the entry for the replies again if it is gone.
    mend, mend4, mend6, ();
    /// 1 if the sender has left the packet's checksum to hardware.
    is_unfinished, is_unfinished4, is_unfinished6, (ctx: *mut xdp_md);
    /// 1 if the packet came in by the interface that leads back to its source.
    comes_by_its_route, comes_by_its_route4, comes_by_its_route6, (ctx: *mut xdp_md);
}

/// Runs a stage on this CPU's [`Work`].
#[inline(always)]
fn with_work<A: HasWork>(stage: impl FnOnce(&mut Work<A>) -> u32) -> u32 {
    A::work().map_or(Reason::Inconsistent as u32, stage)
}

#[inline(always)]
fn code(result: Result<(), Reason>) -> u32 {
    result.map_or_else(|reason| reason as u32, |()| GO_ON)
}

/// What the global functions do.
mod body {
    use switcher_common::{
        hop::Way,
        packet::{Network, icmp::Icmp, own_error::OwnErrors},
        trace::Known,
    };

    use super::{
        AGAIN, CARRY_OUT, EXTENSIONS, GO_ON, LATER_FRAGMENT, MESSAGE, NO_FLOW, PROMOTE, REFUSED,
        REPEATED, Reason, Tables, UNREACHABLE, XdpContext, XdpFrame, code, with_work, xdp_md,
    };
    use crate::{
        chance, cut,
        flow::{self, Found},
        forward, fragment, hop, icmp, own_error,
        read::{self as reading, Read},
        reply::{self, Pinned},
        report, select as selection, trace as tracing, unfinished,
    };

    #[inline(always)]
    pub(super) fn read<A: Tables + Network>(ctx: *mut xdp_md, ip_offset: u32) -> u32 {
        let ctx = XdpContext::new(ctx);
        let frame = XdpFrame::new(&ctx);
        with_work::<A>(|work| code_of_read(reading::packet(&frame, ip_offset as usize, work)))
    }

    #[inline(always)]
    pub(super) fn step_over<A: Tables + Network>(ctx: *mut xdp_md) -> u32 {
        let ctx = XdpContext::new(ctx);
        let frame = XdpFrame::new(&ctx);
        with_work::<A>(|work| code_of_read(reading::behind_extensions(&frame, work)))
    }

    #[inline(always)]
    fn code_of_read(read: Result<Read, Reason>) -> u32 {
        match read {
            Ok(Read::Tuple) => GO_ON,
            Ok(Read::Extensions) => EXTENSIONS,
            Ok(Read::LaterFragment) => LATER_FRAGMENT,
            Ok(Read::Message) => MESSAGE,
            Err(reason) => reason as u32,
        }
    }

    #[inline(always)]
    pub(super) fn follow<A: Tables + Network>() -> u32 {
        with_work::<A>(|work| code(fragment::follow(work)))
    }

    #[inline(always)]
    pub(super) fn message<A: Tables + Icmp>(ctx: *mut xdp_md, is_sent_on: u32) -> u32 {
        with_work::<A>(|work| {
            icmp::message(&XdpContext::new(ctx), work, is_sent_on != 0)
                .map_or(UNREACHABLE, |reason| reason as u32)
        })
    }

    #[inline(always)]
    pub(super) fn tell<A: Tables + OwnErrors>(ctx: *mut xdp_md, dropped_as: u32) -> u32 {
        let dropped_as = Reason::from_code(dropped_as);
        with_work::<A>(|work| own_error::tell(&XdpContext::new(ctx), work, dropped_as) as u32)
    }

    #[inline(always)]
    pub(super) fn track<A: Tables>() -> u32 {
        with_work::<A>(|work| code_of_flow(flow::track(work)))
    }

    #[inline(always)]
    pub(super) fn carry_out<A: Tables>(ctx: *mut xdp_md) -> u32 {
        with_work::<A>(|work| code_of_flow(flow::carry_out(&XdpContext::new(ctx), work)))
    }

    #[inline(always)]
    pub(super) fn look_at_peer<A: Tables>() -> u32 {
        with_work::<A>(|work| u32::from(flow::look_at_peer(work)))
    }

    #[inline(always)]
    pub(super) fn is_of_another<A: Tables>() -> u32 {
        with_work::<A>(|work| u32::from(flow::is_of_another(work)))
    }

    #[inline(always)]
    fn code_of_flow(found: Result<Found, Reason>) -> u32 {
        match found {
            Ok(Found::Flow) => GO_ON,
            Ok(Found::Again) => AGAIN,
            Ok(Found::Moving) => CARRY_OUT,
            Ok(Found::ToPromote) => PROMOTE,
            Ok(Found::Repeated) => REPEATED,
            Ok(Found::Refused) => REFUSED,
            Ok(Found::Nothing) => NO_FLOW,
            Err(reason) => reason as u32,
        }
    }

    #[inline(always)]
    pub(super) fn count_reset<A: Tables>() -> u32 {
        with_work::<A>(|work| {
            report::count_reset(work);
            GO_ON
        })
    }

    #[inline(always)]
    pub(super) fn is_older<A: Tables>() -> u32 {
        with_work::<A>(|work| u32::from(flow::alone::is_older(work)))
    }

    #[inline(always)]
    pub(super) fn is_left_open<A: Tables>() -> u32 {
        with_work::<A>(|work| u32::from(chance::is_left_open(work)))
    }

    #[inline(always)]
    pub(super) fn hear_refusal<A: Tables>() -> u32 {
        with_work::<A>(|work| u32::from(chance::hear_refusal(work)))
    }

    #[inline(always)]
    pub(super) fn look_for_another<A: Tables>(is_of_fresh: u32) -> u32 {
        with_work::<A>(|work| u32::from(chance::look_for_another(work, is_of_fresh != 0)))
    }

    #[inline(always)]
    pub(super) fn is_open_to_chance<A: Tables>() -> u32 {
        with_work::<A>(|work| u32::from(chance::is_open_to_chance(work)))
    }

    #[inline(always)]
    pub(super) fn take_chance<A: Tables>() -> u32 {
        with_work::<A>(chance::take_chance)
    }

    #[inline(always)]
    pub(super) fn refuse<A: Tables>(is_withheld: u32) -> u32 {
        with_work::<A>(|work| code(chance::refuse(work, is_withheld != 0)))
    }

    #[inline(always)]
    pub(super) fn select<A: Tables>(ctx: *mut xdp_md) -> u32 {
        with_work::<A>(|work| match selection::fresh(work) {
            Err(Reason::NotOurs) => match reply::repin(&XdpContext::new(ctx), work) {
                Ok(Pinned::Mended) => AGAIN,
                Ok(Pinned::Afresh) => GO_ON,
                Err(reason) => reason as u32,
            },
            result => code(result),
        })
    }

    #[inline(always)]
    pub(super) fn send<A: Tables + Network>(ctx: *mut xdp_md) -> u32 {
        let ctx = XdpContext::new(ctx);
        with_work::<A>(|work| forward::send(&mut XdpFrame::new(&ctx), work) as u32)
    }

    #[inline(always)]
    pub(super) fn keep_hop<A: Tables + Network>(ctx: *mut xdp_md, sent_as: u32) -> u32 {
        let ctx = XdpContext::new(ctx);
        let way = match Reason::from_code(sent_as) {
            Reason::Transmitted => Some(Way::Transmit),
            Reason::Redirected => Some(Way::Redirect),
            _ => None,
        };
        with_work::<A>(|work| {
            hop::keep(&XdpFrame::new(&ctx), work, way);
            GO_ON
        })
    }

    #[inline(always)]
    pub(super) fn is_unfinished<A: Tables + Network>(ctx: *mut xdp_md) -> u32 {
        let ctx = XdpContext::new(ctx);
        let frame = XdpFrame::new(&ctx);
        with_work::<A>(|work| u32::from(unfinished::is_unfinished(&frame, work)))
    }

    #[inline(always)]
    pub(super) fn reset<A: Tables>(ctx: *mut xdp_md) -> u32 {
        with_work::<A>(|work| cut::reset(&XdpContext::new(ctx), work) as u32)
    }

    #[inline(always)]
    pub(super) fn trace<A: Tables + Network>(
        ctx: *mut xdp_md,
        ip_offset: u32,
        known: u32,
        reason: u32,
    ) -> u32 {
        let known = Known::from_number(known);
        tracing::tell::<A>(ctx, ip_offset, known, Reason::from_code(reason));
        GO_ON
    }

    #[inline(always)]
    pub(super) fn promote<A: Tables>() -> u32 {
        with_work::<A>(|work| {
            flow::promote(work);
            GO_ON
        })
    }

    #[inline(always)]
    pub(super) fn sweep_step<A: Tables>(to_place: u32) -> u32 {
        with_work::<A>(|work| u32::from(flow::sweep_step(work, to_place != 0)))
    }

    #[inline(always)]
    pub(super) fn claim_reply_tuple<A: Tables>() -> u32 {
        with_work::<A>(|work| flow::table::claim_reply_tuple(work) as u32)
    }

    #[inline(always)]
    pub(super) fn demote<A: Tables>() -> u32 {
        with_work::<A>(|work| {
            flow::demote(work);
            GO_ON
        })
    }

    #[inline(always)]
    pub(super) fn mend<A: Tables>() -> u32 {
        with_work::<A>(|work| {
            flow::mend(work);
            GO_ON
        })
    }

    #[inline(always)]
    pub(super) fn comes_by_its_route<A: Tables>(ctx: *mut xdp_md) -> u32 {
        let ctx = XdpContext::new(ctx);
        with_work::<A>(|work| u32::from(reply::comes_by_its_route(&ctx, work)))
    }
}
