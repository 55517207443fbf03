//! The node's interfaces, as the agent tells of them.

use switcher_common::{
    interface::{Interface, WayOut, way_out},
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
