//! The next hop that a direction of an established flow keeps (rule 7.2): what may use it, and when the kernel
//! is asked again. The node's neighbours change, which nobody tells the program of here, so a frame's
//! link address says whether its hop is of before or of after the change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use switcher_common::hop::{LIFETIME, NextHop, WATCHED_LIFETIME};
use switcher_common::interface::{InterfaceRecord, flags};
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::forwarding::ip;
use crate::packet::{ACK, Link, Packet};
use crate::rig::{Expected, Rig};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// Link addresses of the backends and clients before and after a change.
const BEFORE: [u8; 6] = [0x02, 0, 0, 0, 0x11, 1];
const AFTER: [u8; 6] = [0x02, 0, 0, 0, 0x11, 2];

/// A flow of which one direction is looked at.
struct Direction {
    talk: Talk,
    is_reply: bool,
}

impl Direction {
    /// What its packets are; each changes nothing of the flow.
    fn packet(&self) -> Packet {
        if self.is_reply {
            self.talk.of_backend(ACK)
        } else {
            self.talk.of_client(ACK)
        }
    }

    /// Has the direction keep another hop, which the program believes.
    fn change_hop(&self, rig: &mut Rig, change: impl FnOnce(&mut NextHop)) -> Result<()> {
        let from = if self.is_reply { "blue" } else { "client" };
        let ingress = rig.interface(from)?;
        rig.flows.change_hop(&self.packet(), Some(ingress), change)
    }

    /// Sends `packet`, which leaves for `mac`.
    fn leaves_for(
        &self,
        rig: &mut Rig,
        what: &str,
        packet: &Packet,
        destination: [u8; 6],
    ) -> Result<()> {
        let link = |host| -> Result<Link> {
            Ok(Link {
                destination,
                ..rig.link(host)?
            })
        };
        let sent = if self.is_reply {
            packet.sent_from(self.talk.vip, link("client")?)
        } else {
            packet.sent_to(self.talk.backend, link("blue")?)
        };
        let what = format!("{:?}, reply: {}, {what}", self.talk.kind, self.is_reply);
        rig.expect(&what, packet, &Expected::redirected(sent))
    }
}

/// Makes a hop as if it was looked up so many ticks earlier.
#[expect(clippy::cast_possible_truncation, reason = "low bits are kept")]
const fn age(hop: &mut NextHop, ticks: u32) {
    hop.looked_at = hop.looked_at.wrapping_sub(ticks as u16);
}

/// Hosts of both ends of a flow, and the node's interfaces to them.
const ENDS: [(&str, &str); 2] = [("client", "c1"), ("blue", "b")];

/// A link address as `ip` takes it.
fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Gives the hosts of both ends another link address, as far as the node knows.
fn set_macs(lab: &Lab, macs: [[u8; 6]; 2]) -> Result<()> {
    for ((host, interface), mac) in ENDS.into_iter().zip(macs.map(text)) {
        let mut links = lab.topology().links.iter();
        let link = links.find(|link| link.host == host);
        let link = link.with_context(|| format!("no link to {host}"))?;
        for address in Family::ALL.map(|family| link.far_addresses(family)[0]) {
            ip(
                lab,
                &format!("neigh replace {address} lladdr {mac} dev {interface} nud permanent"),
            )?;
        }
    }
    Ok(())
}

/// Runs `test` for each kind and direction of a flow that was established, and has sent a packet each way, before
/// the link addresses changed. Ports are from `first_port` on. On a machine that is so slow that hops grow old meanwhile, it is tried again.
fn after_a_change(
    rig: &mut Rig,
    first_port: u16,
    mut test: impl FnMut(&mut Rig, &Direction) -> Result<()>,
) -> Result<()> {
    let mut port = first_port;
    for kind in Kind::ALL {
        for is_reply in [false, true] {
            loop {
                port += 1;
                let began = Instant::now();
                let result = change_under(rig, kind, port, is_reply, &mut test);
                if result.is_ok() || began.elapsed() < Duration::from_secs(1) {
                    result?;
                    break;
                }
                ensure!(port < first_port + 100, "hops are always too old by now");
            }
        }
    }
    Ok(())
}

fn change_under(
    rig: &mut Rig,
    kind: Kind,
    port: u16,
    is_reply: bool,
    test: &mut impl FnMut(&mut Rig, &Direction) -> Result<()>,
) -> Result<()> {
    let lab = rig.lab;
    let [client, blue] = ENDS.map(|(host, _)| rig.link(host).map(|it| it.destination));
    set_macs(lab, [client?, blue?])?;
    rig.path.hop_watch().raise()?;
    let talk = Talk::open(rig, kind, port, Color::Blue)?;
    set_macs(lab, [BEFORE; 2])?;
    rig.path.hop_watch().raise()?;
    let direction = Direction { talk, is_reply };
    direction.leaves_for(rig, "before", &direction.packet(), BEFORE)?;
    set_macs(lab, [AFTER; 2])?;
    test(rig, &direction)
}

#[test]
fn an_established_flow_keeps_its_next_hop_until_the_epoch_is_raised() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        after_a_change(rig, 4_000, |rig, flow| {
            flow.leaves_for(rig, "kept", &flow.packet(), BEFORE)?;
            flow.leaves_for(rig, "kept again", &flow.packet(), BEFORE)?;
            rig.path.hop_watch().raise()?;
            flow.leaves_for(rig, "after the raise", &flow.packet(), AFTER)
        })
    })
}

#[test]
fn a_next_hop_is_asked_for_again_after_a_second_though_nobody_raises_the_epoch() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        after_a_change(rig, 5_000, |rig, flow| {
            flow.leaves_for(rig, "kept", &flow.packet(), BEFORE)?;
            flow.change_hop(rig, |hop| age(hop, LIFETIME))?;
            flow.leaves_for(rig, "a second later", &flow.packet(), AFTER)?;
            let kept = rig.flows.hop(&flow.packet())?;
            ensure!(kept.dmac == AFTER, "the new one is kept: {kept:?}");
            Ok(())
        })
    })
}

#[test]
fn while_an_agent_says_that_it_watches_a_next_hop_serves_for_ten_seconds() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        after_a_change(rig, 12_000, |rig, flow| {
            flow.change_hop(rig, |hop| age(hop, LIFETIME))?;
            rig.path.hop_watch().renew()?;
            flow.leaves_for(rig, "a second later", &flow.packet(), BEFORE)?;
            rig.flows.end_watch()?;
            flow.leaves_for(rig, "nobody watches any more", &flow.packet(), AFTER)
        })?;
        after_a_change(rig, 13_000, |rig, flow| {
            flow.change_hop(rig, |hop| age(hop, WATCHED_LIFETIME))?;
            rig.path.hop_watch().renew()?;
            flow.leaves_for(rig, "ten seconds later", &flow.packet(), AFTER)?;
            rig.flows.end_watch()
        })
    })
}

#[test]
fn packets_leave_from_the_link_address_that_their_interface_has_now() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for (last, kind) in (1..).zip(Kind::ALL) {
            let mut talk = Talk::open(rig, kind, 4_000, Color::Blue)?;
            talk.goes_on(rig, "before")?;
            let packet = talk.of_client(ACK);
            let before = rig.link("blue")?;
            let source = [0x02, 0, 0, 0, 0x22, last];
            ip(&lab, &format!("link set dev b address {}", text(source)))?;
            set_macs(&lab, [rig.link("client")?.destination, before.destination])?;
            rig.path.hop_watch().raise()?;
            let link = Link { source, ..before };
            let expected = Expected::redirected(packet.sent_to(talk.backend, link));
            rig.expect(&format!("{kind:?}: after"), &packet, &expected)?;
            rig.expect(&format!("{kind:?}: kept"), &packet, &expected)?;
            ip(
                &lab,
                &format!("link set dev b address {}", text(before.source)),
            )?;
            set_macs(&lab, [rig.link("client")?.destination, before.destination])?;
        }
        Ok(())
    })
}

#[test]
fn a_flow_that_the_kernel_takes_over_keeps_no_next_hop() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4_000, Color::Blue)?;
            talk.goes_on(rig, "before")?;
            let packet = talk.of_client(ACK);
            let kept = rig.flows.hop(&packet)?;
            ensure!(kept != NextHop::default(), "{kind:?}: none is kept");
            ip(&lab, &format!("neigh del {} dev b", talk.backend.ip()))?;
            rig.path.hop_watch().raise()?;
            let for_the_stack = Packet {
                to: talk.backend,
                ..packet.clone()
            };
            let expected = Expected::rewritten(Reason::NoNeighbour, for_the_stack);
            rig.expect(&format!("{kind:?}: no neighbour"), &packet, &expected)?;
            let kept = rig.flows.hop(&packet)?;
            ensure!(kept == NextHop::default(), "{kind:?}: {kept:?}");
            let [client, blue] = ENDS.map(|(host, _)| rig.link(host).map(|it| it.destination));
            set_macs(&lab, [client?, blue?])?;
        }
        Ok(())
    })
}

#[test]
fn a_packet_of_another_class_length_or_interface_asks_for_its_own_next_hop() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1", "c2", "b"];
    Rig::with(&lab, &setup, |rig| {
        after_a_change(rig, 6_000, |rig, flow| {
            let congested = Packet {
                tos: 0x03,
                ..flow.packet()
            };
            flow.leaves_for(rig, "marked for congestion", &congested, BEFORE)?;
            let class = Packet {
                tos: 0x28,
                ..flow.packet()
            };
            flow.leaves_for(rig, "another class", &class, AFTER)
        })?;
        after_a_change(rig, 7_000, |rig, flow| {
            let kept = rig.flows.hop(&flow.packet())?;
            ensure!(kept.mtu == 1_500, "the route's MTU is kept: {kept:?}");
            flow.change_hop(rig, |hop| hop.mtu = 100)?;
            flow.leaves_for(rig, "small enough", &flow.packet(), BEFORE)?;
            let large = flow.packet().payload(&[0; 100]);
            flow.leaves_for(rig, "larger than the MTU", &large, AFTER)
        })?;
        after_a_change(rig, 8_000, |rig, flow| {
            flow.leaves_for(rig, "by the same interface", &flow.packet(), BEFORE)?;
            rig.ingress = Some(rig.interface("client2")?);
            let other = flow.leaves_for(rig, "by another one", &flow.packet(), AFTER);
            rig.ingress = None;
            other
        })
    })
}

#[test]
fn a_packet_is_not_redirected_to_where_it_came_from_by_the_next_hop_of_another_interface()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        after_a_change(rig, 12_000, |rig, flow| {
            let from = if flow.is_reply { "blue" } else { "client" };
            let own = u16::try_from(rig.interface(from)?)?;
            // The sum is right, as it is by chance for one of 65 536 flows.
            flow.change_hop(rig, |hop| hop.egress = own)?;
            flow.leaves_for(rig, "back", &flow.packet(), AFTER)
        })
    })
}

#[test]
fn a_next_hop_that_two_cpus_have_torn_is_not_believed() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        after_a_change(rig, 9_000, |rig, flow| {
            rig.flows
                .change_hop(&flow.packet(), None, |hop| hop.dmac[5] ^= 0x40)?;
            flow.leaves_for(rig, "torn", &flow.packet(), AFTER)
        })?;
        after_a_change(rig, 10_000, |rig, flow| {
            rig.flows
                .change_hop(&flow.packet(), None, |hop| hop.egress += 1)?;
            flow.leaves_for(rig, "torn", &flow.packet(), AFTER)
        })
    })
}

#[test]
fn a_tagged_packet_uses_no_next_hop_and_takes_the_kept_one_away() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        after_a_change(rig, 11_000, |rig, flow| {
            let tagged = flow.packet().tags(&[0]);
            flow.leaves_for(rig, "with a priority", &tagged, AFTER)?;
            let kept = rig.flows.hop(&flow.packet())?;
            ensure!(kept == NextHop::default(), "{kept:?}");
            flow.leaves_for(rig, "without", &flow.packet(), AFTER)
        })
    })
}

#[test]
fn what_came_in_generic_mode_keeps_no_next_hop() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1", "b"];
    Rig::with(&lab, &setup, |rig| {
        let generic = InterfaceRecord {
            flags: flags::GENERIC,
            ..InterfaceRecord::default()
        };
        let both = [rig.interface("client")?, rig.interface("blue")?];
        rig.path
            .set_interfaces(both.map(|index| (index, generic)))?;
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4_000, Color::Blue)?;
            talk.goes_on(rig, "both ways")?;
            for packet in [talk.of_client(ACK), talk.of_backend(ACK)] {
                let kept = rig.flows.hop(&packet)?;
                ensure!(kept == NextHop::default(), "{kind:?}: {kept:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_flow_that_is_not_established_keeps_no_next_hop() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::begin(rig, kind, 4_000, Color::Blue)?;
            let mut packets = vec![talk.first()];
            if kind.protocol == Protocol::Tcp {
                let returned = rig.to_client(&talk.answer(), talk.vip)?;
                rig.expect("the SYN-ACK", &talk.answer(), &returned)?;
                packets.push(talk.answer());
            }
            for packet in packets {
                let kept = rig.flows.hop(&packet)?;
                ensure!(kept == NextHop::default(), "{kind:?}: {kept:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn what_is_told_of_interfaces_holds_for_established_flows_at_once() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let refuses = InterfaceRecord {
            flags: flags::NO_REDIRECT,
            ..InterfaceRecord::default()
        };
        let out = rig.interface("blue")?;
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4_000, Color::Blue)?;
            talk.goes_on(rig, "before")?;
            rig.path.set_interfaces([(out, refuses)])?;
            let packet = talk.of_client(ACK);
            let for_the_stack = Packet {
                to: talk.backend,
                ..packet.clone()
            };
            let expected = Expected::rewritten(Reason::NoRedirect, for_the_stack);
            rig.expect(&format!("{kind:?}: refused"), &packet, &expected)?;
            rig.path.set_interfaces([])?;
            talk.goes_on(rig, "after")?;
        }
        Ok(())
    })
}
