//! Ejected backends: no flow begins there, before the tables follow too.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use switcher_common::reason::Reason;
use switcher_common::service::{Color, PerColor, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{EjectedBackend, Orders, Place, Question, Way};

use crate::packet::{ACK, PSH, Packet};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Listener, Setup};

/// Clients' ports: with so many, each of two backends gets some.
const PORTS: std::ops::Range<u16> = 4_000..4_032;

/// Two backends of each color, which VIP 1 has too.
fn setup(lab: &Lab) -> Setup {
    let both = |kind: Kind, vip| Listener {
        backends: PerColor::from_fn(|color| {
            let all = kind.backends(lab, color).into_iter();
            all.map(|it| (it, 1)).collect()
        }),
        ..kind.listener(lab, vip)
    };
    let listeners = [0, 1].map(|vip| Kind::ALL.map(|kind| both(kind, vip)));
    Setup::new(vec![listeners.into_iter().flatten().collect()])
}

/// Ejects these backends of blue on VIP 0, and no others.
fn eject(rig: &mut Rig, kind: Kind, endpoints: &[SocketAddr]) -> Result<()> {
    let listener = Place {
        vip: rig.vip(kind),
        protocol: kind.protocol,
    };
    let ejected = endpoints.iter().map(|&endpoint| EjectedBackend {
        listener,
        color: Color::Blue,
        endpoint,
    });
    Ok(rig.path.set_orders(Orders {
        ejected: ejected.collect(),
        ..Orders::default()
    })?)
}

/// Where the flow goes that `packet` begins.
fn chosen(rig: &mut Rig, packet: &Packet) -> Result<SocketAddr> {
    rig.run(&packet.bytes()?)?;
    Ok(rig.flow(packet)?.backend)
}

/// Where explain says that it would go, and whom it would not go to.
fn explained(rig: &Rig, packet: &Packet) -> Result<(SocketAddr, BTreeSet<SocketAddr>)> {
    let question = Question {
        protocol: packet.protocol,
        from: packet.from,
        to: packet.to,
    };
    let explained = rig.path.explainer()?.explain(&question)?;
    let Way::Forward { to, selection, .. } = explained.begins else {
        anyhow::bail!("it would not be sent on: {:?}", explained.begins);
    };
    let selection = selection.context("it has a flow")?;
    let not = selection.tried.iter().filter(|it| it.ejected);
    Ok((to, not.map(|it| it.backend).collect()))
}

#[test]
fn no_flow_begins_at_an_ejected_backend_and_those_that_are_there_go_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        for kind in Kind::ALL {
            let [out, other]: [SocketAddr; 2] = (kind.backends(&lab, Color::Blue).try_into())
                .map_err(|all| anyhow::anyhow!("two backends: {all:?}"))?;
            let begins = |port, vip| first(kind, client(&lab, kind, port), kind.vip(&lab, vip));
            let mut before = Vec::new();
            for port in PORTS {
                before.push(chosen(rig, &begins(port, 0))?);
            }
            ensure!(before.contains(&out) && before.contains(&other));
            eject(rig, kind, &[out])?;
            for (port, pinned) in PORTS.zip(&before) {
                // The flow that is there: its next packet goes where it is pinned.
                let next = match kind.protocol {
                    Protocol::Tcp => begins(port, 0),
                    Protocol::Udp => begins(port, 0).payload(b"next"),
                };
                if kind.protocol == Protocol::Tcp {
                    rig.just_seen(&next)?;
                }
                ensure!(chosen(rig, &next)? == *pinned, "{kind:?}: a pinned flow");
                // The same again as if it were new.
                rig.flows.lose(&next)?;
                let expected = (*pinned == out).then_some(out);
                ensure!(
                    explained(rig, &next)? == (other, expected.into_iter().collect()),
                    "{kind:?}: explained"
                );
                ensure!(chosen(rig, &next)? == other, "{kind:?}: a fresh flow");
                // Back as soon as it may.
                rig.flows.lose(&next)?;
                eject(rig, kind, &[])?;
                ensure!(chosen(rig, &next)? == *pinned, "{kind:?}: it is back");
                rig.flows.lose(&next)?;
                eject(rig, kind, &[out])?;
            }
            let mut elsewhere = BTreeSet::new();
            for port in PORTS {
                elsewhere.insert(chosen(rig, &begins(port, 1))?);
            }
            ensure!(elsewhere.contains(&out), "another listener's list");
            rig.path.set_orders(Orders::default())?;
        }
        Ok(())
    })
}

#[test]
fn where_all_that_are_tried_are_ejected_the_slots_own_gets_the_flow_after_all() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(2).build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        for kind in Kind::ALL {
            let all = kind.backends(&lab, Color::Blue);
            for port in PORTS {
                let packet = first(kind, client(&lab, kind, port), rig.vip(kind));
                let own = chosen(rig, &packet)?;
                rig.flows.lose(&packet)?;
                eject(rig, kind, &all)?;
                let told = explained(rig, &packet)?;
                ensure!(told == (own, all.iter().copied().collect()), "{told:?}");
                let expected = sent(rig, &packet, own)?;
                rig.expect("a fresh flow", &packet, &expected)?;
                if kind.protocol == Protocol::Tcp {
                    rig.flows.lose(&packet)?;
                    let data = Packet::tcp(packet.from, packet.to, PSH | ACK, 7, 8);
                    let expected = sent(rig, &data, own)?.noting(Reason::Unpinned);
                    rig.expect("in the middle of a stream", &data, &expected)?;
                    rig.flows.lose(&data)?;
                }
                rig.path.set_orders(Orders::default())?;
            }
        }
        Ok(())
    })
}

/// What `packet` becomes on its way to `backend`.
fn sent(rig: &Rig, packet: &Packet, backend: SocketAddr) -> Result<Expected> {
    let link = rig.link(Color::Blue.name())?;
    Ok(Expected::redirected(packet.sent_to(backend, link)))
}

fn client(lab: &Lab, kind: Kind, port: u16) -> SocketAddr {
    let links = &lab.topology().links;
    SocketAddr::new(links[0].far_addresses(kind.family)[0], port)
}
