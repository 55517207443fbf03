//! What the program must know of the node's interfaces to send frames out of them.

use bytemuck::{Pod, Zeroable};

use crate::{packet::Tags, shared};

/// One interface, by its index. All zero is a plain interface, which takes redirected frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InterfaceRecord {
    /// Index of the interface below a VLAN device; 0: not a VLAN device.
    pub parent: u32,
    /// Index of the bond or bridge that takes what comes in by it, the outermost one; 0: none does.
    pub master: u32,
    /// VLAN id of a VLAN device.
    pub vlan_id: u16,
    /// Bits of [`flags`].
    pub flags: u16,
}
shared!(InterfaceRecord, 12);

/// Bits of [`InterfaceRecord::flags`].
pub mod flags {
    /// It takes no frames that a program in native mode redirects to it: they would vanish.
    pub const NO_REDIRECT: u16 = 1;
    /// Our program runs there in generic mode: it is shown merged frames, and checksums that the
    /// sender has left to its hardware.
    pub const GENERIC: u16 = 1 << 1;
    /// Frames that a program there sends back out of it (`XDP_TX`) would vanish: a veth device whose
    /// other end cannot take them.
    pub const NO_TRANSMIT: u16 = 1 << 2;
}

impl InterfaceRecord {
    /// The [`Self::parent`] of a VLAN device whose lower interface is in another network namespace:
    /// no frame comes in by that.
    pub const FOREIGN_PARENT: u32 = u32::MAX;
    /// The [`Self::vlan_id`] of a VLAN device whose tags are not those of IEEE 802.1Q: no frame has it.
    pub const FOREIGN_VLAN: u16 = u16::MAX;

    /// Whether all bits of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// Whether what came in by it can go back out of it (`XDP_TX`).
    #[inline(always)]
    #[must_use]
    pub const fn can_transmit(&self) -> bool {
        self.has(flags::GENERIC) || !self.has(flags::NO_TRANSMIT)
    }

    /// Whether it is a VLAN device.
    #[inline(always)]
    #[must_use]
    pub const fn is_vlan(&self) -> bool {
        self.parent != 0
    }
}

/// How a frame leaves the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// Out of the interface that it came in by, tags and all.
    Transmit,
    /// Out of another interface.
    Redirect,
    /// By the stack: it leaves with other tags.
    TagsChange,
    /// By the stack: the interface cannot take it from the program.
    NoRedirect,
}

/// An interface and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its record.
    pub record: InterfaceRecord,
}

impl Interface {
    /// The interface whose frames it takes, if `tags` are on them as they are on its own.
    #[inline(always)]
    const fn below(self, tags: Tags) -> Option<u32> {
        let record = self.record;
        let (below, is_of_it) = if record.is_vlan() {
            let is_of_it = tags.count == 1 && tags.vlan_id == record.vlan_id;
            (record.parent, is_of_it)
        } else {
            (self.index, tags.are_none())
        };
        if is_of_it { Some(below) } else { None }
    }

    /// Whether a frame with `tags` that came in by `self` is one of those that `upper` takes: itself,
    /// a VLAN device of it, its bond or bridge, or a VLAN device of that.
    #[inline(always)]
    #[must_use]
    pub const fn leads_to(self, upper: Self, tags: Tags) -> bool {
        match upper.below(tags) {
            Some(below) => {
                below == self.index || (below == self.record.master && self.record.master != 0)
            }
            None => false,
        }
    }
}

/// How a frame with `tags` that came in by `incoming` leaves by `outgoing`.
#[inline(always)]
#[must_use]
pub const fn way_out(incoming: Interface, outgoing: Interface, tags: Tags) -> WayOut {
    let record = outgoing.record;
    let leaves_untagged = !record.is_vlan() && tags.are_none();
    let leaves_as_it_came = match outgoing.below(tags) {
        Some(below) => below == incoming.index,
        None => false,
    };
    // In generic mode frames are sent like those of the stack, by any interface.
    let is_native = !incoming.record.has(flags::GENERIC);
    if leaves_as_it_came {
        if incoming.record.can_transmit() {
            WayOut::Transmit
        } else {
            WayOut::NoRedirect
        }
    } else if !leaves_untagged {
        WayOut::TagsChange
    } else if is_native && record.has(flags::NO_REDIRECT) {
        WayOut::NoRedirect
    } else {
        WayOut::Redirect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tags = Tags {
        count: 0,
        vlan_id: 0,
    };

    fn tag(vlan_id: u16) -> Tags {
        Tags { count: 1, vlan_id }
    }

    fn plain(index: u32, flags: u16) -> Interface {
        let record = InterfaceRecord {
            flags,
            ..InterfaceRecord::default()
        };
        Interface { index, record }
    }

    fn vlan(index: u32, parent: u32, vlan_id: u16) -> Interface {
        let record = InterfaceRecord {
            parent,
            vlan_id,
            flags: flags::NO_REDIRECT,
            ..InterfaceRecord::default()
        };
        Interface { index, record }
    }

    #[test]
    fn a_frame_leads_to_the_interface_that_the_stack_would_say_it_came_in_by() {
        let port = |index, master| {
            let record = InterfaceRecord {
                master,
                ..InterfaceRecord::default()
            };
            Interface { index, record }
        };
        let two = Tags {
            count: 2,
            vlan_id: 7,
        };
        for (what, incoming, upper, tags, expected) in [
            ("itself", plain(2, 0), plain(2, 0), NONE, true),
            ("a priority", plain(2, 0), plain(2, 0), tag(0), true),
            ("of a VLAN", plain(2, 0), plain(2, 0), tag(7), false),
            ("another", plain(2, 0), plain(3, 0), NONE, false),
            ("its VLAN", plain(2, 0), vlan(4, 2, 7), tag(7), true),
            ("no VLAN", plain(2, 0), vlan(4, 2, 7), NONE, false),
            ("two VLANs", plain(2, 0), vlan(4, 2, 7), two, false),
            ("another VLAN", plain(2, 0), vlan(4, 2, 8), tag(7), false),
            (
                "a VLAN elsewhere",
                plain(2, 0),
                vlan(4, 3, 7),
                tag(7),
                false,
            ),
            ("its bond", port(2, 9), plain(9, 0), NONE, true),
            ("itself in a bond", port(2, 9), plain(2, 0), NONE, true),
            ("another bond", port(2, 9), plain(8, 0), NONE, false),
            ("the bond's VLAN", port(2, 9), vlan(4, 9, 7), tag(7), true),
            (
                "none of the bond's",
                port(2, 9),
                vlan(4, 9, 8),
                tag(7),
                false,
            ),
            (
                "another bond's VLAN",
                port(2, 9),
                vlan(4, 8, 7),
                tag(7),
                false,
            ),
            ("an index of nobody", plain(2, 0), plain(0, 0), NONE, false),
        ] {
            assert_eq!(incoming.leads_to(upper, tags), expected, "{what}");
        }
    }

    #[test]
    fn a_frame_leaves_by_the_program_only_with_the_tags_it_came_with() {
        let (eth0, eth1) = (plain(2, 0), plain(3, 0));
        let two = Tags {
            count: 2,
            vlan_id: 7,
        };
        for (what, outgoing, tags, expected) in [
            ("untagged, back", eth0, NONE, WayOut::Transmit),
            ("priority only, back", eth0, tag(0), WayOut::Transmit),
            ("tagged, back without", eth0, tag(7), WayOut::TagsChange),
            ("two tags, back without", eth0, two, WayOut::TagsChange),
            ("untagged, on", eth1, NONE, WayOut::Redirect),
            ("priority only, on", eth1, tag(0), WayOut::Redirect),
            ("tagged, on without", eth1, tag(7), WayOut::TagsChange),
            ("same VLAN, back", vlan(4, 2, 7), tag(7), WayOut::Transmit),
            ("other VLAN", vlan(4, 2, 8), tag(7), WayOut::TagsChange),
            ("into a VLAN", vlan(4, 2, 7), NONE, WayOut::TagsChange),
            ("two tags", vlan(4, 2, 7), two, WayOut::TagsChange),
            ("elsewhere", vlan(4, 3, 7), tag(7), WayOut::TagsChange),
            (
                "a VLAN device with tags of another kind",
                vlan(4, 2, InterfaceRecord::FOREIGN_VLAN),
                tag(0xfff),
                WayOut::TagsChange,
            ),
        ] {
            assert_eq!(way_out(eth0, outgoing, tags), expected, "{what}");
        }
    }

    #[test]
    fn what_an_interface_cannot_take_from_a_native_program_goes_to_the_stack() {
        let refuses = plain(3, flags::NO_REDIRECT);
        assert_eq!(way_out(plain(2, 0), refuses, NONE), WayOut::NoRedirect);
        let generic = plain(2, flags::GENERIC);
        assert_eq!(way_out(generic, refuses, NONE), WayOut::Redirect);
        // A driver without ndo_xdp_xmit still sends back what came in by it; a veth does not.
        let refuses = plain(2, flags::NO_REDIRECT);
        assert_eq!(way_out(refuses, refuses, NONE), WayOut::Transmit);
        let veth = plain(2, flags::NO_REDIRECT | flags::NO_TRANSMIT);
        assert_eq!(way_out(veth, veth, NONE), WayOut::NoRedirect);
        assert_eq!(way_out(veth, vlan(4, 2, 7), tag(7)), WayOut::NoRedirect);
        let generic = plain(2, flags::NO_TRANSMIT | flags::GENERIC);
        assert_eq!(way_out(generic, generic, NONE), WayOut::Transmit);
    }
}
