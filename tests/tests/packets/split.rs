//! A share of the clients goes to the standby: which ones, and what a change of the share does.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use switcher_common::reason::Reason;
use switcher_common::service::{Color, ServiceSwitch};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, Packet};
use crate::rig::{Rig, first, states};
use crate::setup::Kind;
use crate::talk::Talk;

const CLIENTS: u32 = 1_000;

/// Gives the standby of service 1 a share.
fn split(rig: &mut Rig, active: Color, percent: u8) -> Result<()> {
    let mut states = states(&[(active, active)]);
    states[1] = ServiceSwitch {
        split_percent: percent,
        ..states[1]
    };
    rig.path.switch(&states)?;
    Ok(())
}

/// Client `number`, somewhere else for each port.
fn client(family: Family, number: u32, port: u16) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::from_bits(0x0a64_0000 + number * 7).into(),
        Family::V6 => {
            let net = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 0).to_bits();
            Ipv6Addr::from_bits(net + u128::from(number) * 7).into()
        }
    };
    SocketAddr::new(ip, port)
}

/// The clients whose first packets from `port` go to `color`.
fn served_by(rig: &mut Rig, kind: Kind, color: Color, port: u16) -> Result<BTreeSet<u32>> {
    let mut served = BTreeSet::new();
    for number in 0..CLIENTS {
        let packet = first(kind, client(kind.family, number, port), rig.vip(kind));
        rig.run(&packet.bytes()?)?;
        let flow = rig.flows.of(&packet)?;
        if flow.context("no flow was recorded")?.color == color {
            served.insert(number);
        }
    }
    Ok(served)
}

#[test]
fn a_split_gives_the_standby_its_share_of_the_clients_and_more_is_never_less() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut before = BTreeSet::new();
            for (port, percent) in (4_000..).zip([0, 1, 10, 50, 90, 100]) {
                split(rig, Color::Blue, percent)?;
                let share = served_by(rig, kind, Color::Green, port)?;
                ensure!(
                    share.is_superset(&before),
                    "{kind:?}, {percent} %: a client was moved back"
                );
                let expected = usize::from(percent) * 10;
                ensure!(
                    share.len().abs_diff(expected) <= 50,
                    "{kind:?}, {percent} %: {} of {CLIENTS} clients",
                    share.len()
                );
                before = share;
            }
            ensure!(before.len() == CLIENTS as usize, "all of them");
        }
        Ok(())
    })
}

#[test]
fn g2_flows_stay_where_they_are_whatever_the_share_becomes() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            split(rig, Color::Blue, 100)?;
            let mut shared = Talk::open(rig, kind, 4_000, Color::Green)?;
            split(rig, Color::Blue, 0)?;
            let mut alone = Talk::open(rig, kind, 4_001, Color::Blue)?;
            for percent in [100, 30, 0] {
                split(rig, Color::Blue, percent)?;
                shared.goes_on(rig, "begun on the standby")?;
                alone.goes_on(rig, "begun on the active color")?;
            }
        }
        Ok(())
    })
}

#[test]
fn g9_the_middle_of_a_stream_goes_to_the_base_color_whatever_the_share() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        split(rig, Color::Blue, 100)?;
        for kind in Kind::TCP {
            let stray = Packet::tcp(rig.client(kind.family, 4_000), rig.vip(kind), ACK, 5, 6);
            let sent = rig
                .to_backend(&stray, Color::Blue)?
                .noting(Reason::Unpinned);
            rig.expect("a stray packet", &stray, &sent)?;
        }
        Ok(())
    })
}
