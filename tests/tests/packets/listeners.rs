//! How a listener chooses: preview, weights, colors without backends, reply tuples that are taken.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use switcher_common::reason::Reason;
use switcher_common::service::Color::{Blue, Green};
use switcher_common::service::{BackendRecord, ListenerRecord, PerColor};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, PSH, Packet, RST, SYN};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Listener, Setup};

/// One service with a listener of each kind on VIP 0; VIP 1 shows what that does not.
pub(crate) fn with_previews(lab: &Lab) -> Setup {
    let previews = Kind::ALL.map(|kind| Listener {
        preview: true,
        ..kind.listener(lab, 1)
    });
    let mut setup = Setup::plain(lab);
    setup.services[0].extend(previews);
    setup
}

#[test]
fn a_preview_listener_selects_the_standby_and_its_flows_are_left_out_of_in_flight() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &with_previews(&lab), |rig| {
        let mut port = 4000;
        for (flows, color) in (1..).zip([Blue, Green]) {
            rig.flip(color)?;
            for kind in Kind::ALL {
                port += 1;
                let client = rig.client(kind.family, port);
                let shown = first(kind, client, kind.vip(&lab, 1));
                let expected = rig.to_backend(&shown, color.other())?;
                rig.expect(
                    &format!("{kind:?} while {color:?} is active"),
                    &shown,
                    &expected,
                )?;
                let flow = rig.flow(&shown)?;
                assert!(flow.preview, "{kind:?}: a flow of a preview listener");
                assert_eq!(flow.color, color.other());
            }
            let scan = rig.scanner.scan(1, false, |_| {})?;
            assert_eq!(scan.in_flight(1), PerColor { blue: 0, green: 0 });
            assert_eq!(scan.preview_flows(1), 4 * flows);
        }
        // Whatever the base color is: a preview knows nothing of a drain.
        rig.switch(&[(Green, Blue)])?;
        let kind = Kind::TCP[0];
        let data = Packet::tcp(
            rig.client(kind.family, 4999),
            kind.vip(&lab, 1),
            PSH | ACK,
            7,
            8,
        );
        let expected = rig.to_backend(&data, Blue)?.noting(Reason::Unpinned);
        rig.expect("data without a pin", &data, &expected)
    })
}

#[test]
fn a_color_without_backends_drops_with_a_reason() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    // Only IPv6 has a green backend.
    for listener in &mut setup.services[0] {
        if Family::of(listener.vip.ip()) == Family::V4 {
            listener.backends.green.clear();
        }
    }
    Rig::with(&lab, &setup, |rig| {
        rig.flip(Green)?;
        for kind in Kind::ALL {
            let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind));
            let expected = match kind.family {
                Family::V4 => Expected::untouched(Reason::NoBackend),
                Family::V6 => rig.to_backend(&packet, Green)?,
            };
            rig.expect(&format!("{kind:?}"), &packet, &expected)?;
        }
        rig.expect_flows("those of IPv6", 2)
    })
}

/// Both backends of each color, blue's with weights 1 and 3.
pub(crate) fn weighted(lab: &Lab) -> Setup {
    let mut setup = Setup::plain(lab);
    for (kind, listener) in Kind::ALL.into_iter().zip(&mut setup.services[0]) {
        let backends = |color| kind.backends(lab, color).into_iter();
        listener.backends = PerColor {
            blue: backends(Blue).zip([1, 3]).collect(),
            green: backends(Green).zip([1, 1]).collect(),
        };
    }
    setup
}

/// A pinned array of the data path.
pub(crate) fn open<V: aya::Pod>(rig: &Rig, name: &str) -> Result<Array<MapData, V>> {
    let path = rig.config.agent.pin_dir.join("maps").join(name);
    MapData::from_pin(path)
        .and_then(Map::from_map_data)
        .and_then(Array::try_from)
        .with_context(|| format!("opening the pinned map {name}"))
}

/// The share of each backend in the Maglev table of blue that holds `backend`.
fn shares(rig: &Rig, backend: SocketAddr) -> Result<HashMap<SocketAddr, f64>> {
    let slots: Array<_, u32> = open(rig, "MAGLEV")?;
    let backends: Array<_, BackendRecord> = open(rig, "BACKENDS")?;
    // One of the two is the current one; the other is empty after a single apply.
    for name in ["CONFIG_A", "CONFIG_B"] {
        for record in open::<ListenerRecord>(rig, name)?.iter() {
            let range = record?.tables[Blue as usize];
            let mut counts = HashMap::<_, f64>::new();
            for at in range.start..range.start + range.len {
                let record = backends.get(&slots.get(&at, 0)?, 0)?;
                let port = u16::from_be(record.port_be);
                let endpoint = SocketAddr::new(record.address.to_ip(), port);
                *counts.entry(endpoint).or_default() += 1.0 / f64::from(range.len);
            }
            if counts.contains_key(&backend) {
                return Ok(counts);
            }
        }
    }
    anyhow::bail!("no Maglev table holds {backend}")
}

const FLOWS: u16 = 2_000;

#[test]
fn backends_are_chosen_in_proportion_to_their_weights() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &weighted(&lab), |rig| {
        for kind in [Kind::TCP[0], Kind::UDP[1]] {
            let mut chosen = HashMap::<SocketAddr, f64>::new();
            for port in 0..FLOWS {
                let packet = first(kind, rig.client(kind.family, 4000 + port), rig.vip(kind));
                rig.run(&packet.bytes()?)?;
                *chosen.entry(rig.flow(&packet)?.backend).or_default() += 1.0;
            }
            let shares = shares(rig, rig.backend(kind, Blue))?;
            for (backend, weight) in kind.backends(&lab, Blue).into_iter().zip([0.25, 0.75]) {
                let share = shares[&backend];
                assert!(
                    (share - weight).abs() < 0.01,
                    "{backend} has {share} of the table, {weight} of the weight"
                );
                // Four standard deviations of as many independent choices.
                let flows = f64::from(FLOWS);
                let tolerance = 4.0 * (flows * share * (1.0 - share)).sqrt();
                let found = chosen[&backend];
                assert!(
                    (found - flows * share).abs() < tolerance,
                    "{kind:?}: {backend} has {found} of {flows} flows, {share} of the table"
                );
            }
        }
        Ok(())
    })
}

/// One service with two listeners of each kind, on VIPs 0 and 1, that share the backends of `setup`.
pub(crate) fn shared_backends(mut setup: Setup, lab: &Lab) -> Setup {
    let twins: Vec<_> = Kind::ALL
        .into_iter()
        .zip(&setup.services[0])
        .map(|(kind, listener)| Listener {
            vip: kind.vip(lab, 1),
            ..listener.clone()
        })
        .collect();
    setup.services[0].extend(twins);
    setup
}

#[test]
fn a_flow_whose_replies_could_not_be_told_apart_is_dropped_and_harms_no_other() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let setup = shared_backends(Setup::plain(&lab), &lab);
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::ALL {
            let client = rig.client(kind.family, 4000);
            let owner = first(kind, client, kind.vip(&lab, 0));
            rig.expect("the first VIP", &owner, &rig.to_backend(&owner, Blue)?)?;
            let flow = rig.flow(&owner)?;
            let second = first(kind, client, kind.vip(&lab, 1));
            let taken = Expected::untouched(Reason::ReplyTupleTaken);
            rig.expect("the second VIP", &second, &taken)?;
            assert_eq!(rig.flow(&owner)?, flow, "{kind:?}: the owner's flow");
            assert_eq!(rig.flows.of(&second)?, None, "{kind:?}: the second flow");
            let other_port = first(kind, rig.client(kind.family, 4001), kind.vip(&lab, 1));
            let expected = rig.to_backend(&other_port, Blue)?;
            rig.expect("the second VIP, another port", &other_port, &expected)?;
        }
        rig.expect_flows("two of each kind", 8)
    })
}

#[test]
fn a_reply_tuple_of_a_flow_that_is_over_may_be_taken() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let setup = shared_backends(Setup::plain(&lab), &lab);
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::TCP {
            let client = rig.client(kind.family, 4000);
            let owner = first(kind, client, kind.vip(&lab, 0));
            rig.expect("the first VIP", &owner, &rig.to_backend(&owner, Blue)?)?;
            let rst = Packet::tcp(client, kind.vip(&lab, 0), RST, owner.seq + 1, 0);
            rig.expect("its end", &rst, &rig.to_backend(&rst, Blue)?)?;
            let second = first(kind, client, kind.vip(&lab, 1));
            rig.expect("the second VIP", &second, &rig.to_backend(&second, Blue)?)?;
            assert_eq!(rig.flows.of(&owner)?, None, "the flow that was over");
            let answer = Packet::tcp(
                rig.backend(kind, Blue),
                client,
                SYN | ACK,
                9_000,
                second.seq + 1,
            );
            rig.expect(
                "its answer",
                &answer,
                &rig.to_client(&answer, kind.vip(&lab, 1))?,
            )?;
        }
        rig.expect_flows("one for each family", 2)
    })
}

#[test]
fn a_flow_whose_reply_tuple_is_taken_goes_to_another_backend() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let setup = shared_backends(weighted(&lab), &lab);
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::ALL {
            let (mut others, mut dropped) = (0, 0);
            for port in 4000..4050 {
                let client = rig.client(kind.family, port);
                let packets = [0, 1].map(|vip| first(kind, client, kind.vip(&lab, vip)));
                rig.run(&packets[0].bytes()?)?;
                let (_, counted) = rig.run_counted(&packets[1].bytes()?)?;
                let owner = rig.flow(&packets[0])?;
                if let Some(flow) = rig.flows.of(&packets[1])? {
                    assert_ne!(flow.backend, owner.backend, "{kind:?}, port {port}");
                    assert_eq!(flow.color, Blue);
                    others += 1;
                } else {
                    assert_eq!(counted, [(Reason::ReplyTupleTaken, 1)], "port {port}");
                    dropped += 1;
                }
            }
            // The two backends of blue follow each other.
            assert_eq!(
                (others, dropped),
                (50, 0),
                "{kind:?}: gone elsewhere, dropped"
            );
        }
        Ok(())
    })
}
