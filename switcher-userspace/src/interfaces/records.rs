//! From what the kernel says of an interface to what the program is told.

use std::collections::BTreeMap;

use switcher_common::interface::{InterfaceRecord, flags};

use crate::netlink::link::{Link, Vlan};

/// Kinds of software interfaces that have taken redirected frames since long before the kernel tells
/// so (Linux 5.15); hardware has no kind.
const KINDS_THAT_TAKE_REDIRECTS: [&str; 4] = ["", "veth", "tun", "bond"];

/// Kinds of masters whose routes are those of their members, which have none of their own. Of others, as
/// a VRF, each member has its own.
const KINDS_OF_MASTERS: [&str; 3] = ["bond", "bridge", "team"];

/// What the program is told of `link`, one of `all`. `features` says whether each interface takes
/// redirected frames; `None`: the kernel does not tell.
pub(super) fn of(
    link: &Link,
    all: &[Link],
    features: Option<&BTreeMap<u32, bool>>,
) -> InterfaceRecord {
    let takes_redirects = match features {
        // Nothing is told of an interface that has just come: the event of its coming is on its way.
        Some(features) => features.get(&link.index).copied().unwrap_or(false),
        None => KINDS_THAT_TAKE_REDIRECTS.contains(&link.kind.as_str()),
    };
    let mut flags = 0;
    if !takes_redirects {
        flags |= flags::NO_REDIRECT;
        // Both ways of a veth device lead to the same queue of the other end.
        if link.kind == "veth" {
            flags |= flags::NO_TRANSMIT;
        }
    }
    if link
        .xdp
        .iter()
        .any(|program| program.keyword == "xdpgeneric")
    {
        flags |= flags::GENERIC;
    }
    let (parent, vlan_id) = link.vlan.map_or((0, 0), below);
    InterfaceRecord {
        parent,
        master: master(link, all),
        vlan_id,
        flags,
    }
}

/// The outermost master, as of a port of a bond that is a port of a bridge; 0: none.
fn master(link: &Link, all: &[Link]) -> u32 {
    let of = |link: &Link| {
        let index = link.master?;
        all.iter()
            .find(|it| it.index == index && KINDS_OF_MASTERS.contains(&it.kind.as_str()))
    };
    // The kernel knows no circles, but a list that was read while masters changed may have one.
    let masters = std::iter::successors(of(link), |link| of(link));
    masters.take(all.len()).last().map_or(0, |it| it.index)
}

fn below(vlan: Vlan) -> (u32, u16) {
    let id = if vlan.is_802_1q {
        vlan.id
    } else {
        InterfaceRecord::FOREIGN_VLAN
    };
    let parent = vlan.parent.unwrap_or(InterfaceRecord::FOREIGN_PARENT);
    (parent, id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::link::XdpProgram;

    fn link(kind: &str) -> Link {
        Link {
            index: 7,
            kind: kind.to_owned(),
            ..Link::default()
        }
    }

    /// What the program is told of an interface without a master.
    fn alone(link: &Link, features: Option<&BTreeMap<u32, bool>>) -> InterfaceRecord {
        of(link, &[], features)
    }

    fn vlan(parent: Option<u32>, is_802_1q: bool) -> Link {
        let vlan = Vlan {
            parent,
            id: 100,
            is_802_1q,
        };
        Link {
            vlan: Some(vlan),
            ..link("vlan")
        }
    }

    fn record(parent: u32, vlan_id: u16, flags: u16) -> InterfaceRecord {
        InterfaceRecord {
            parent,
            master: 0,
            vlan_id,
            flags,
        }
    }

    #[test]
    fn an_interface_that_takes_redirects_is_plain() {
        let takes = BTreeMap::from([(7, true)]);
        for kind in ["", "veth", "bridge"] {
            assert_eq!(alone(&link(kind), Some(&takes)), record(0, 0, 0), "{kind}");
        }
    }

    #[test]
    fn an_interface_that_refuses_redirects_or_is_not_told_of_says_so() {
        let refuses = BTreeMap::from([(7, false)]);
        for features in [refuses, BTreeMap::new()] {
            let nic = alone(&link(""), Some(&features));
            assert_eq!(nic, record(0, 0, flags::NO_REDIRECT));
            let veth = alone(&link("veth"), Some(&features));
            let both = flags::NO_REDIRECT | flags::NO_TRANSMIT;
            assert_eq!(veth, record(0, 0, both));
        }
    }

    #[test]
    fn where_the_kernel_does_not_tell_redirects_are_assumed_but_for_other_software() {
        for (kind, flags) in [
            ("", 0),
            ("veth", 0),
            ("bond", 0),
            ("bridge", flags::NO_REDIRECT),
            ("wireguard", flags::NO_REDIRECT),
        ] {
            assert_eq!(alone(&link(kind), None), record(0, 0, flags), "{kind}");
        }
    }

    #[test]
    fn a_vlan_device_names_what_is_below_it() {
        let refuses = BTreeMap::from([(7, false)]);
        let foreign = InterfaceRecord::FOREIGN_PARENT;
        let other_tags = InterfaceRecord::FOREIGN_VLAN;
        for (link, parent, id) in [
            (vlan(Some(3), true), 3, 100),
            (vlan(None, true), foreign, 100),
            (vlan(Some(3), false), 3, other_tags),
        ] {
            let expected = record(parent, id, flags::NO_REDIRECT);
            assert_eq!(alone(&link, Some(&refuses)), expected);
        }
    }

    #[test]
    fn generic_mode_is_seen() {
        let attached = |keyword| Link {
            xdp: vec![XdpProgram { id: 1, keyword }],
            ..link("")
        };
        let takes = BTreeMap::from([(7, true)]);
        let generic = alone(&attached("xdpgeneric"), Some(&takes));
        assert_eq!(generic, record(0, 0, flags::GENERIC));
        let native = alone(&attached("xdp"), Some(&takes));
        assert_eq!(native, record(0, 0, 0));
    }

    #[test]
    fn the_outermost_bond_or_bridge_is_the_master_and_a_vrf_is_none() {
        let member = |index, kind: &str, master| Link {
            index,
            master,
            ..link(kind)
        };
        let all = [
            member(2, "", Some(3)),
            member(3, "bond", Some(4)),
            member(4, "bridge", Some(5)),
            member(5, "vrf", None),
            member(6, "", Some(5)),
            member(7, "", Some(99)),
            member(8, "bond", Some(8)),
            member(9, "vlan", Some(4)),
        ];
        let masters = all.each_ref().map(|link| of(link, &all, None).master);
        assert_eq!(masters, [4, 4, 0, 0, 0, 0, 8, 4]);
    }
}
