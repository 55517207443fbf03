//! The node's interfaces, as the agent tells of them.

use switcher_common::{
    interface::{Interface, WayOut, flags, way_out},
    packet::Tags,
};

use crate::{frame::XdpFrame, maps::INTERFACES};

/// Beyond the map's end an interface counts as a plain one.
#[inline(always)]
fn interface(index: u32) -> Interface {
    Interface {
        index,
        record: INTERFACES.get(index).copied().unwrap_or_default(),
    }
}

/// How `frame` with `tags` leaves by the interface `outgoing`.
#[inline(always)]
pub(crate) fn leaves_by(frame: &XdpFrame<'_>, tags: Tags, outgoing: u32) -> WayOut {
    way_out(
        interface(frame.ingress_ifindex()),
        interface(outgoing),
        tags,
    )
}

/// Whether `frame` with `tags` came in by what the kernel's routes call the interface `upper`.
#[inline(always)]
pub(crate) fn came_in_by(frame: &XdpFrame<'_>, tags: Tags, upper: u32) -> bool {
    interface(frame.ingress_ifindex()).leads_to(interface(upper), tags)
}

/// Whether `frame` came in by an interface in generic mode.
#[inline(always)]
pub(crate) fn is_generic(frame: &XdpFrame<'_>) -> bool {
    interface(frame.ingress_ifindex())
        .record
        .has(flags::GENERIC)
}

/// Whether an answer can go back where `frame` came in.
#[inline(always)]
pub(crate) fn can_answer(frame: &XdpFrame<'_>) -> bool {
    interface(frame.ingress_ifindex()).record.can_transmit()
}
