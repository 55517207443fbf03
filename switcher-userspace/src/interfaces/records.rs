//! From what the kernel says of an interface to what the program is told.

use std::collections::BTreeMap;

use switcher_common::interface::{InterfaceRecord, flags};

use crate::netlink::link::{Link, Vlan};

/// Kinds of software interfaces that have taken redirected frames since long before the kernel tells
/// so (Linux 5.15); hardware has no kind.
const KINDS_THAT_TAKE_REDIRECTS: [&str; 4] = ["", "veth", "tun", "bond"];

/// What the program is told of `link`. `features` says whether each interface takes redirected
/// frames; `None`: the kernel does not tell.
pub(super) fn of(link: &Link, features: Option<&BTreeMap<u32, bool>>) -> InterfaceRecord {
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
        vlan_id,
        flags,
    }
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
            vlan_id,
            flags,
        }
    }

    #[test]
    fn an_interface_that_takes_redirects_is_plain() {
        let takes = BTreeMap::from([(7, true)]);
        for kind in ["", "veth", "bridge"] {
            assert_eq!(of(&link(kind), Some(&takes)), record(0, 0, 0), "{kind}");
        }
    }

    #[test]
    fn an_interface_that_refuses_redirects_or_is_not_told_of_says_so() {
        let refuses = BTreeMap::from([(7, false)]);
        for features in [refuses, BTreeMap::new()] {
            let nic = of(&link(""), Some(&features));
            assert_eq!(nic, record(0, 0, flags::NO_REDIRECT));
            let veth = of(&link("veth"), Some(&features));
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
            assert_eq!(of(&link(kind), None), record(0, 0, flags), "{kind}");
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
            assert_eq!(of(&link, Some(&refuses)), expected);
        }
    }

    #[test]
    fn generic_mode_is_seen() {
        let attached = |keyword| Link {
            xdp: vec![XdpProgram { id: 1, keyword }],
            ..link("")
        };
        let takes = BTreeMap::from([(7, true)]);
        let generic = of(&attached("xdpgeneric"), Some(&takes));
        assert_eq!(generic, record(0, 0, flags::GENERIC));
        let native = of(&attached("xdp"), Some(&takes));
        assert_eq!(native, record(0, 0, 0));
    }
}
