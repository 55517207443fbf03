//! What the program is told of interfaces decides how a rewritten packet leaves (rule 7.3).

use anyhow::{Result, ensure};
use switcher_common::interface::{InterfaceRecord, flags};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::packet::Packet;
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};

/// The VLAN that the tests have devices of.
const VLAN: u16 = 7;

/// How a packet of the client's goes on to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Redirected,
    Transmitted,
    NoRedirect,
    TagChanges,
}

impl Way {
    /// What becomes of `packet`.
    fn expected(self, rig: &Rig, packet: &Packet, kind: Kind) -> Result<Expected> {
        let backend = rig.backend(kind, Color::Blue);
        let sent = packet.sent_to(backend, rig.link("blue")?);
        let for_the_stack = Packet {
            to: backend,
            ..packet.clone()
        };
        Ok(match self {
            Self::Redirected => Expected::redirected(sent),
            Self::Transmitted => Expected::rewritten(Reason::Transmitted, sent),
            Self::NoRedirect => Expected::rewritten(Reason::NoRedirect, for_the_stack),
            Self::TagChanges => Expected::rewritten(Reason::TagChanges, for_the_stack),
        })
    }
}

/// A lab's program, attached where frames come in.
fn attached(lab: &Lab) -> Setup {
    let mut setup = Setup::plain(lab);
    setup.attached = vec!["c1", "b"];
    setup
}

fn record(parent: u32, vlan_id: u16, flags: u16) -> InterfaceRecord {
    InterfaceRecord {
        parent,
        vlan_id,
        flags,
        ..InterfaceRecord::default()
    }
}

/// Sends a fresh packet of each kind from the client, by the interface it lives behind.
fn goes(rig: &mut Rig, what: &str, port: u16, way: Way) -> Result<()> {
    rig.ingress = Some(rig.interface("client")?);
    for kind in Kind::ALL {
        let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
        let expected = way.expected(rig, &packet, kind)?;
        rig.expect(&format!("{kind:?}, {what}"), &packet, &expected)?;
    }
    Ok(())
}

#[test]
fn what_the_outgoing_interface_is_decides_who_sends_a_packet() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &attached(&lab), |rig| {
        let (c1, b) = (rig.interface("client")?, rig.interface("blue")?);
        let refuses = record(0, 0, flags::NO_REDIRECT);
        let generic = record(0, 0, flags::GENERIC);
        let vlan = record(c1, VLAN, flags::NO_REDIRECT);
        for (port, (what, records, way)) in (4000..).zip([
            ("nothing told", vec![], Way::Redirected),
            (
                "the way out refuses redirects",
                vec![(b, refuses)],
                Way::NoRedirect,
            ),
            (
                "the way in refuses redirects",
                vec![(c1, refuses)],
                Way::Redirected,
            ),
            (
                "the way out refuses redirects, the way in is generic",
                vec![(b, refuses), (c1, generic)],
                Way::Redirected,
            ),
            (
                "the way out refuses redirects and is generic",
                vec![(b, record(0, 0, flags::NO_REDIRECT | flags::GENERIC))],
                Way::NoRedirect,
            ),
            (
                "the way out is a VLAN device of the way in",
                vec![(b, vlan)],
                Way::TagChanges,
            ),
            (
                "the way out is a VLAN device of the way in, which is generic",
                vec![(b, vlan), (c1, generic)],
                Way::TagChanges,
            ),
            (
                "the way out is a VLAN device of another interface",
                vec![(b, record(99, VLAN, flags::NO_REDIRECT))],
                Way::TagChanges,
            ),
            ("nothing told any more", vec![], Way::Redirected),
        ]) {
            let beyond = rig.path.set_interfaces(records)?;
            ensure!(beyond.is_empty(), "{what}: all indexes have a place");
            goes(rig, what, port, way)?;
        }
        Ok(())
    })
}

#[test]
fn a_packet_goes_back_where_it_came_in_unless_the_other_end_cannot_take_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &attached(&lab), |rig| {
        let b = rig.interface("blue")?;
        rig.ingress = Some(b);
        let deaf = flags::NO_REDIRECT | flags::NO_TRANSMIT;
        for (port, (what, flags, way)) in (4000..).zip([
            ("nothing told", 0, Way::Transmitted),
            (
                "a driver without redirects",
                flags::NO_REDIRECT,
                Way::Transmitted,
            ),
            ("a deaf other end", deaf, Way::NoRedirect),
            (
                "a deaf other end in generic mode",
                deaf | flags::GENERIC,
                Way::Transmitted,
            ),
        ]) {
            rig.path.set_interfaces([(b, record(0, 0, flags))])?;
            for kind in Kind::ALL {
                let beside = lab.backends(Color::Blue, kind.family)[1];
                let packet = first(kind, (beside, port).into(), rig.vip(kind));
                let expected = way.expected(rig, &packet, kind)?;
                rig.expect(&format!("{kind:?}, {what}"), &packet, &expected)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_tagged_frame_leaves_by_the_program_only_within_its_vlan() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &attached(&lab), |rig| {
        let (c1, b) = (rig.interface("client")?, rig.interface("blue")?);
        let vlan = |parent, id| record(parent, id, flags::NO_REDIRECT);
        let plain = record(0, 0, 0);
        // The record of `b`, the tags of a frame that comes in by `c1`, and how it leaves.
        for (port, (what, out, tags, way)) in (4000..).zip([
            ("on, untagged", plain, &[VLAN][..], Way::TagChanges),
            ("on, with a priority only", plain, &[0], Way::Redirected),
            ("on, two tags", plain, &[VLAN, 8], Way::TagChanges),
            (
                "on, two tags, one a priority",
                plain,
                &[0, 8],
                Way::TagChanges,
            ),
            ("within the VLAN", vlan(c1, VLAN), &[VLAN], Way::Transmitted),
            ("into the VLAN", vlan(c1, VLAN), &[], Way::TagChanges),
            (
                "into the VLAN, with a priority",
                vlan(c1, VLAN),
                &[0],
                Way::TagChanges,
            ),
            ("to another VLAN", vlan(c1, 8), &[VLAN], Way::TagChanges),
            (
                "two tags, to a VLAN",
                vlan(c1, VLAN),
                &[VLAN, 8],
                Way::TagChanges,
            ),
            (
                "to that VLAN of another interface",
                vlan(99, VLAN),
                &[VLAN],
                Way::TagChanges,
            ),
            (
                "to that VLAN of an interface in another namespace",
                vlan(InterfaceRecord::FOREIGN_PARENT, VLAN),
                &[VLAN],
                Way::TagChanges,
            ),
            (
                "to a VLAN device with other tags",
                vlan(c1, InterfaceRecord::FOREIGN_VLAN),
                &[0xfff],
                Way::TagChanges,
            ),
        ]) {
            rig.path.set_interfaces([(b, out)])?;
            rig.ingress = Some(c1);
            for kind in Kind::ALL {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind)).tags(tags);
                let expected = way.expected(rig, &packet, kind)?;
                rig.expect(&format!("{kind:?}, {what}"), &packet, &expected)?;
            }
        }
        // Back to the network it came from, which its tag says it is not of.
        rig.ingress = Some(b);
        for (port, (tags, way)) in (4100..).zip([
            (&[VLAN][..], Way::TagChanges),
            (&[VLAN, 8], Way::TagChanges),
            (&[0], Way::Transmitted),
        ]) {
            rig.path.set_interfaces([])?;
            for kind in Kind::ALL {
                let beside = lab.backends(Color::Blue, kind.family)[1];
                let packet = first(kind, (beside, port).into(), rig.vip(kind)).tags(tags);
                let expected = way.expected(rig, &packet, kind)?;
                rig.expect(&format!("{kind:?}, back, {tags:?}"), &packet, &expected)?;
            }
        }
        Ok(())
    })
}

#[test]
fn an_interface_beyond_the_map_counts_as_a_plain_one_and_is_named() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for (more_places, way) in [(0, Way::Redirected), (1, Way::NoRedirect)] {
        let lab = Lab::builder().build()?;
        let mut setup = attached(&lab);
        let b = lab.node().interface("b")?.index;
        setup.limits.interfaces = b + more_places;
        Rig::with(&lab, &setup, |rig| {
            let refuses = record(0, 0, flags::NO_REDIRECT);
            let beyond = rig.path.set_interfaces([(b, refuses)])?;
            let named: &[u32] = if more_places == 0 { &[b] } else { &[] };
            ensure!(beyond == named, "index {b}: {beyond:?}");
            goes(rig, &format!("{more_places} places more"), 4000, way)
        })?;
    }
    Ok(())
}
