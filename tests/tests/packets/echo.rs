//! Echo requests to a VIP are answered, and other messages to it are left alone.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::message::Message;
use crate::packet::Link;
use crate::rig::{Expected, Rig};
use crate::setup::Setup;

/// The answer to an echo request.
fn reply(request: &Message) -> Message {
    Message {
        from: request.to,
        to: request.from,
        link: Link {
            source: request.link.destination,
            destination: request.link.source,
        },
        ttl: 64,
        kind: if request.to.is_ipv4() { 0 } else { 129 },
        ..request.clone()
    }
}

/// What becomes of an echo request to a VIP.
pub(crate) fn answered(request: &Message) -> Result<Expected> {
    Ok(Expected::frame(
        Reason::EchoAnswered,
        reply(request).bytes()?,
    ))
}

fn echo(rig: &Rig, family: Family, payload: &[u8]) -> Message {
    let client = rig.client(family, 0).ip();
    Message::echo_request(client, rig.lab.vip(family, 0), payload)
}

#[test]
fn an_echo_request_to_a_vip_is_answered() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for family in Family::ALL {
            for len in [0, 1, 2, 3, 55, 56, 57, 128, 1_399, 1_400] {
                let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
                let request = echo(rig, family, &payload);
                let what = format!("{family:?}: {len} bytes of payload");
                rig.expect_frame(&what, &request.bytes()?, &answered(&request)?)?;
            }
            for ttl in [0, 1, 255] {
                let request = Message {
                    ttl,
                    ..echo(rig, family, b"hops")
                };
                let what = format!("{family:?}: it has arrived, with {ttl} hops left");
                rig.expect_frame(&what, &request.bytes()?, &answered(&request)?)?;
            }
            for tags in [vec![5], vec![100, 200]] {
                let request = Message {
                    tags,
                    ..echo(rig, family, b"tagged")
                };
                let what = format!("{family:?}: VLAN tags {:?}", request.tags);
                rig.expect_frame(&what, &request.bytes()?, &answered(&request)?)?;
            }
            let from_backend = Message {
                from: lab.backends(Color::Blue, family)[0],
                ..echo(rig, family, b"from a backend")
            };
            let what = format!("{family:?}: a backend asks");
            rig.expect_frame(&what, &from_backend.bytes()?, &answered(&from_backend)?)?;
            let padded = echo(rig, family, b"odd");
            let what = format!("{family:?}: bytes behind the packet");
            let frame = [padded.bytes()?, vec![0xee; 7]].concat();
            let reply = [reply(&padded).bytes()?, vec![0xee; 7]].concat();
            rig.expect_frame(&what, &frame, &Expected::frame(Reason::EchoAnswered, reply))?;
        }
        let with_options = Message {
            ip_options: vec![7, 7, 4, 0, 0, 0, 0, 0],
            ..echo(rig, Family::V4, b"record my route")
        };
        let what = "IP options are kept and not read";
        rig.expect_frame(what, &with_options.bytes()?, &answered(&with_options)?)
    })
}

#[test]
fn an_echo_request_to_a_vip_that_is_no_address_of_the_node_is_answered_too() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    let foreign: [IpAddr; 2] = ["198.51.100.77".parse()?, "2001:db8:77::77".parse()?];
    for (listener, vip) in setup.services[0].iter_mut().zip(foreign) {
        listener.vip = SocketAddr::new(vip, listener.vip.port());
    }
    Rig::with(&lab, &setup, |rig| {
        for (family, vip) in Family::ALL.into_iter().zip(foreign) {
            let request = Message {
                to: vip,
                ..echo(rig, family, b"anybody?")
            };
            rig.expect_frame(
                "a VIP that only the program has",
                &request.bytes()?,
                &answered(&request)?,
            )?;
        }
        Ok(())
    })
}

#[test]
fn other_messages_to_a_vip_are_left_to_the_stack() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for family in Family::ALL {
            let is_v4 = family == Family::V4;
            let request = echo(rig, family, b"hello");
            let unrelated = Expected::untouched(Reason::IcmpUnrelated);
            let with = |kind, code| Message {
                kind,
                code,
                ..request.clone()
            };
            for (what, message) in [
                ("an echo request with a code", with(request.kind, 1)),
                ("an echo reply", with(if is_v4 { 0 } else { 129 }, 0)),
                (
                    "a timestamp request or a neighbour solicitation",
                    with(if is_v4 { 13 } else { 135 }, 0),
                ),
                ("a type that nobody knows", with(255, 0)),
            ] {
                rig.expect_frame(
                    &format!("{family:?}: {what}"),
                    &message.bytes()?,
                    &unrelated,
                )?;
            }
            let mut short = Message {
                body: Vec::new(),
                ..request.clone()
            }
            .bytes()?;
            short.truncate(short.len() - 1);
            let (length, at) = if is_v4 { (27, 17) } else { (7, 19) };
            short[at] = length;
            rig.expect_frame(&format!("{family:?}: 7 bytes of ICMP"), &short, &unrelated)?;

            let elsewhere = Message {
                to: lab.backends(Color::Blue, family)[0],
                ..request.clone()
            };
            let what = format!("{family:?}: an echo request to a backend");
            let passed = Expected::untouched(Reason::NotOurs);
            rig.expect_frame(&what, &elsewhere.bytes()?, &passed)?;

            let frame = request.bytes()?;
            let truncated = Expected::untouched(Reason::Truncated);
            rig.expect_frame("a byte is missing", &frame[..frame.len() - 1], &truncated)?;
            let mut flooded = request.clone();
            flooded.link.destination = [0xff; 6];
            let broadcast = Expected::untouched(Reason::LinkMulticast);
            rig.expect_frame("to everybody on the link", &flooded.bytes()?, &broadcast)?;
        }
        let mut fragment = echo(rig, Family::V4, b"one half").bytes()?;
        for (what, high, low) in [("a first fragment", 0x20, 0), ("a later fragment", 0, 1)] {
            (fragment[20], fragment[21]) = (high, low);
            rig.expect_frame(what, &fragment, &Expected::untouched(Reason::Fragment))?;
        }
        Ok(())
    })
}

/// Addresses that no client has.
const MARTIANS: [&str; 10] = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "ff02::1",
    "ffff::1",
];

#[test]
fn an_echo_request_from_an_address_that_no_client_has_is_dropped() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let martians = MARTIANS
            .iter()
            .map(|it| it.parse())
            .collect::<Result<Vec<IpAddr>, _>>()?;
        let vips = Family::ALL.map(|family| lab.vip(family, 0));
        for from in martians.into_iter().chain(vips) {
            let request = Message {
                from,
                ..echo(rig, Family::of(from), b"answer me")
            };
            let dropped = Expected::untouched(Reason::MartianSource);
            rig.expect_frame(&format!("from {from}"), &request.bytes()?, &dropped)?;
        }
        Ok(())
    })
}
