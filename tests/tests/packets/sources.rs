//! Sources that no client has (packet rules, 3.5).

use std::net::IpAddr;

use anyhow::{Result, ensure};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{Question, Way};

use crate::packet::Packet;
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;

/// A packet to a VIP in the name of the node, with its address on the link to blue.
fn from_node(rig: &Rig, kind: Kind) -> Packet {
    first(
        kind,
        (rig.node_address(kind.family), 4_000).into(),
        rig.vip(kind),
    )
}

fn tell(rig: &mut Rig, families: &[Family]) -> Result<()> {
    let told: Vec<IpAddr> = families.iter().map(|it| rig.node_address(*it)).collect();
    let beyond = rig.path.set_node_addresses(told)?;
    ensure!(beyond == 0, "there is room for two");
    Ok(())
}

#[test]
fn a_packet_to_a_listener_in_the_nodes_own_name_begins_no_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let explainer = rig.path.explainer()?;
        rig.ingress = Some(rig.interface("client")?);
        for families in [&Family::ALL[..], &Family::ALL[1..], &[]] {
            tell(rig, families)?;
            for kind in Kind::ALL {
                let packet = from_node(rig, kind);
                let what = format!("{kind:?}, told {families:?}");
                let (from, to, protocol) = (packet.from, packet.to, packet.protocol);
                let answer = explainer.explain(&Question { protocol, from, to })?;
                if families.contains(&kind.family) {
                    let dropped = Expected::untouched(Reason::MartianSource);
                    rig.expect(&what, &packet, &dropped)?;
                    ensure!(
                        matches!(
                            answer.begins,
                            Way::Drop {
                                reason: Reason::MartianSource,
                                ..
                            }
                        ),
                        "{what}: {answer:?}"
                    );
                    ensure!(rig.flows.of(&packet)?.is_none(), "{what}: a flow");
                } else {
                    let expected = rig.to_backend(&packet, Color::Blue)?;
                    rig.expect(&what, &packet, &expected)?;
                    rig.flows.lose(&packet)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn addresses_that_are_gone_make_room_for_others_and_more_than_fit_are_counted() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let many = (0..5_000_u32).map(|low| IpAddr::from((0x0b00_0000 + low).to_be_bytes()));
        let beyond = rig.path.set_node_addresses(many)?;
        ensure!(beyond == 5_000 - 4_096, "{beyond} beyond the map");
        tell(rig, &Family::ALL)?;
        rig.ingress = Some(rig.interface("client")?);
        for kind in Kind::ALL {
            let dropped = Expected::untouched(Reason::MartianSource);
            rig.expect(&format!("{kind:?}"), &from_node(rig, kind), &dropped)?;
        }
        Ok(())
    })
}
