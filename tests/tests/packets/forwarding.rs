//! Who forwards a rewritten packet: the program, or the stack where the route needs it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::packet::Packet;
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// `packet` as the program hands it to the stack: rewritten, its hop not counted yet.
fn for_the_stack(packet: &Packet, from: SocketAddr, to: SocketAddr) -> Packet {
    Packet {
        from,
        to,
        ..packet.clone()
    }
}

#[test]
fn a_packet_whose_neighbour_is_not_known_is_rewritten_and_left_to_the_stack() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().permanent_neighbours(false).build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let (client, vip) = (rig.client(kind.family, 4000), rig.vip(kind));
            let backend = rig.backend(kind, Color::Blue);
            let packet = first(kind, client, vip);
            let rewritten = for_the_stack(&packet, client, backend);
            let expected = Expected::rewritten(Reason::NoNeighbour, rewritten);
            rig.expect(&format!("{kind:?}"), &packet, &expected)?;
            assert_eq!(rig.flow(&packet)?.backend, backend, "it begins a flow");
        }
        Ok(())
    })
}

#[test]
fn where_forwarding_is_off_the_stack_decides() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    lab.node().set_sysctls(&[
        ("net/ipv4/conf/c1/forwarding", "0"),
        ("net/ipv6/conf/c1/forwarding", "0"),
    ])?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let (client, vip) = (rig.client(kind.family, 4000), rig.vip(kind));
            let packet = first(kind, client, vip);
            let rewritten = for_the_stack(&packet, client, rig.backend(kind, Color::Blue));
            let expected = Expected::rewritten(Reason::ForwardingOff, rewritten);
            rig.expect(&format!("{kind:?}"), &packet, &expected)?;
        }
        Ok(())
    })
}

/// Where nobody lives: an address of a network that the lab does not have.
const NOWHERE: [&str; 2] = ["10.99.0.7:8080", "[fd00:99::7]:8080"];

/// A service whose blue backends live nowhere.
fn nowhere(lab: &Lab) -> Result<Setup> {
    let mut listeners = Vec::new();
    for (kind, backend) in Kind::TCP.into_iter().zip(NOWHERE) {
        let mut listener = kind.listener(lab, 0);
        listener.backends.blue = vec![(backend.parse()?, 1)];
        listeners.push(listener);
    }
    Ok(Setup::new(vec![listeners]))
}

/// Has the node's `ip` do something.
pub(crate) fn ip(lab: &Lab, arguments: &str) -> Result<()> {
    let status = lab
        .node()
        .command("ip")
        .args(arguments.split(' '))
        .status()?;
    ensure!(status.success(), "`ip {arguments}` on the node: {status}");
    Ok(())
}

#[test]
fn without_any_route_the_stack_decides_and_a_route_to_nowhere_drops() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let setup = nowhere(&lab)?;
    Rig::with(&lab, &setup, |rig| {
        for (kind, backend) in Kind::TCP.into_iter().zip(NOWHERE) {
            let (client, vip) = (rig.client(kind.family, 4000), rig.vip(kind));
            let packet = first(kind, client, vip);
            let rewritten = for_the_stack(&packet, client, backend.parse()?);
            let expected = Expected::rewritten(Reason::RouteNeedsStack, rewritten);
            rig.expect(&format!("{kind:?}, no route"), &packet, &expected)?;
        }
        for route in ["unreachable", "blackhole", "prohibit"] {
            ip(&lab, &format!("-4 route replace {route} 10.99.0.0/24"))?;
            ip(&lab, &format!("-6 route add {route} fd00:99::/64"))?;
            for kind in Kind::TCP {
                let packet = first(kind, rig.client(kind.family, 4001), rig.vip(kind));
                let (run, counted) = rig.run_counted(&packet.bytes()?)?;
                let dropped = (Reason::NoRoute, 1);
                assert!(
                    counted.contains(&dropped),
                    "{kind:?}, {route}: {counted:?} instead of {dropped:?}"
                );
                assert_eq!(run.frame, packet.bytes()?, "{kind:?}, {route}");
            }
            ip(&lab, &format!("-6 route del {route} fd00:99::/64"))?;
        }
        Ok(())
    })
}

#[test]
fn a_packet_that_leaves_by_the_interface_it_came_in_by_is_transmitted() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1", "b"];
    Rig::with(&lab, &setup, |rig| {
        // A client beside the backend: the second address of blue's host.
        rig.ingress = Some(rig.interface("blue")?);
        let link = rig.link("blue")?;
        for kind in Kind::ALL {
            let neighbour = SocketAddr::new(lab.backends(Color::Blue, kind.family)[1], 4000);
            let (vip, backend) = (rig.vip(kind), rig.backend(kind, Color::Blue));
            let packet = first(kind, neighbour, vip);
            let sent = packet.sent_to(backend, link);
            let transmitted = Expected::rewritten(Reason::Transmitted, sent);
            rig.expect(&format!("{kind:?}"), &packet, &transmitted)?;
        }
        // Another interface as the way in: redirected, as from the loopback device.
        rig.ingress = Some(rig.interface("client")?);
        for kind in Kind::ALL {
            Talk::begin(rig, kind, 4000, Color::Blue)?;
        }
        Ok(())
    })
}
