//! Fragments that are not translated: their first one, their flow or a part of them is missing.

use anyhow::Result;
use switcher_common::packet::LIFETIME_TICKS;
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use super::{ENDS, PAYLOAD, answer, options, pieces, request};
use crate::fragment::{Cut, Firsts};
use crate::message::Message;
use crate::packet::Packet;
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;
use crate::talk::Talk;

#[test]
fn a_fragment_before_its_first_one_is_dropped_and_counted() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for (packet, early) in [
                (request(&talk), Reason::Fragment),
                (answer(&talk), Reason::FragmentFromBackend),
            ] {
                let pieces = pieces(rig, &talk, &packet, &Cut::new(9, &ENDS))?;
                pieces[2].is(rig, early)?;
                pieces[1].is(rig, early)?;
                pieces[0].follows(rig)?;
                pieces[2].follows(rig)?;
                pieces[1].follows(rig)?;
                // Sent twice, as any packet may be.
                pieces[1].follows(rig)?;
                pieces[0].follows(rig)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_first_fragment_is_forgotten_after_thirty_seconds() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut firsts = Firsts::open(&rig.config.agent.pin_dir)?;
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for (packet, late) in [
                (request(&talk), Reason::Fragment),
                (answer(&talk), Reason::FragmentFromBackend),
            ] {
                let pieces = pieces(rig, &talk, &packet, &Cut::new(3, &ENDS))?;
                pieces[0].follows(rig)?;
                // Half of the time, so that a slow machine does not decide.
                firsts.age(LIFETIME_TICKS / 2)?;
                pieces[1].follows(rig)?;
                firsts.age(LIFETIME_TICKS - LIFETIME_TICKS / 2 + 1)?;
                pieces[1].is(rig, late)?;
                pieces[0].follows(rig)?;
                pieces[2].follows(rig)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_later_fragment_whose_flow_is_gone_begins_none() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let cut = Cut::new(5, &ENDS);
            let asked = pieces(rig, &talk, &request(&talk), &cut)?;
            let answered = pieces(rig, &talk, &answer(&talk), &cut)?;
            asked[0].follows(rig)?;
            answered[0].follows(rig)?;
            rig.flows.lose(&talk.first())?;
            asked[1].is(rig, Reason::Fragment)?;
            answered[1].is(rig, Reason::FragmentFromBackend)?;
        }
        rig.expect_flows("none is begun", 0)
    })
}

#[test]
fn g11_fragments_for_no_listener_pass_with_their_first_one() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let (client, vip) = (rig.client(kind.family, 4000), rig.vip(kind));
            let cut = Cut::new(5, &ENDS);
            let to_vip = first(kind, client, (vip.ip(), 443).into()).payload(PAYLOAD);
            let frames = cut.of(&to_vip)?;
            let early = Expected::untouched(Reason::Fragment);
            rig.expect_frame("a later one, before its first", &frames[1], &early)?;
            for frame in &frames {
                let passed = Expected::untouched(Reason::NotOurs);
                rig.expect_frame(&format!("{kind:?}, to port 443"), frame, &passed)?;
            }
            let other = (rig.backend(kind, Color::Blue).ip(), 22).into();
            let of_backend = first(kind, other, client).payload(PAYLOAD);
            for (number, frame) in cut.of(&of_backend)?.iter().enumerate() {
                let passed = Expected::untouched(match number {
                    0 => Reason::NotOurs,
                    _ => Reason::FragmentFromBackend,
                });
                rig.expect_frame(&format!("{kind:?}, of no endpoint"), frame, &passed)?;
            }
            let foreign = first(kind, client, (rig.node_address(kind.family), 9).into());
            for frame in cut.of(&foreign.payload(PAYLOAD))? {
                let passed = Expected::untouched(Reason::NotOurs);
                rig.expect_frame(&format!("{kind:?}, to the node"), &frame, &passed)?;
            }
        }
        rig.expect_flows("nothing of it is a flow", 0)
    })
}

/// What the sender of the first fragment `frame` of `packet` is told when its time is over.
fn time_exceeded(packet: &Packet, frame: &[u8]) -> Result<Expected> {
    let (kind, fragment_header) = if packet.to.is_ipv4() { (11, 0) } else { (3, 8) };
    let quoted = &frame[packet.ip_offset()..];
    let headers = packet.transport_offset() - packet.ip_offset() + fragment_header + 8;
    let len = quoted.len().min(128).max(headers) / 4 * 4;
    let error = Message {
        body: quoted[..len].to_vec(),
        ..Message::own_error(packet, [kind, 0], 0)?
    };
    Ok(Expected::frame(Reason::TimeExceededSent, error.bytes()?))
}

#[test]
fn the_sender_of_a_fragment_whose_time_is_over_is_told_about_the_first_one_only() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for packet in [request(&talk), answer(&talk)] {
                let cut = Cut::new(5, &ENDS);
                for ttl in [0, 1] {
                    let late = packet.clone().ttl(ttl);
                    let frames = cut.of(&late)?;
                    let what = format!("{kind:?}, {ttl} hops left");
                    rig.expect_frame(&what, &frames[0], &time_exceeded(&late, &frames[0])?)?;
                    for frame in &frames[1..] {
                        let over = Expected::untouched(Reason::TtlExceeded);
                        rig.expect_frame(&what, frame, &over)?;
                    }
                }
                for piece in pieces(rig, &talk, &packet.ttl(2), &cut)? {
                    piece.follows(rig)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_first_fragment_without_its_whole_transport_header_is_dropped() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for ends in [&[8][..], &[16], &[8, 16, 24]] {
                let cut = Cut::new(5, ends);
                let asked = pieces(rig, &talk, &request(&talk), &cut)?;
                asked[0].is(rig, Reason::Truncated)?;
                asked[1].is(rig, Reason::Fragment)?;
                let answered = pieces(rig, &talk, &answer(&talk), &cut)?;
                answered[0].is(rig, Reason::Truncated)?;
                answered[1].is(rig, Reason::FragmentFromBackend)?;
                let client = rig.client(kind.family, 4100);
                let foreign = first(kind, talk.backend, client).payload(PAYLOAD);
                let passed = Expected::untouched(Reason::NotOurs);
                rig.expect_frame("of no flow", &cut.of(&foreign)?[0], &passed)?;
            }
        }
        for kind in Kind::UDP {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for packet in [request(&talk), answer(&talk)] {
                for piece in pieces(rig, &talk, &packet, &Cut::new(5, &[8]))? {
                    piece.follows(rig)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn an_ipv6_first_fragment_without_its_whole_chain_is_dropped() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in [Kind::TCP[1], Kind::UDP[1]] {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let packet = request(&talk).extensions(&[options(2)]);
            let pieces = pieces(rig, &talk, &packet, &Cut::new(5, &[8, 16]))?;
            pieces[0].is(rig, Reason::ExtensionHeaders)?;
            pieces[1].is(rig, Reason::Fragment)?;
        }
        Ok(())
    })
}

#[test]
fn fragments_of_other_protocols_have_no_ports_to_follow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::UDP {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let icmp = if kind.vip(rig.lab, 0).is_ipv4() {
                1
            } else {
                58
            };
            let cut = Cut::new(5, &ENDS);
            for (protocol, to_vip, of_backend) in [
                (icmp, Reason::Fragment, Reason::FragmentFromBackend),
                (47, Reason::OtherProtocol, Reason::NotOurs),
                (50, Reason::OtherProtocol, Reason::NotOurs),
            ] {
                for (packet, reason) in [(request(&talk), to_vip), (answer(&talk), of_backend)] {
                    for (number, mut frame) in cut.of(&packet)?.into_iter().enumerate() {
                        // The checksum of the IPv4 header is nothing that the program looks at.
                        let at = if packet.to.is_ipv4() { 14 + 9 } else { 14 + 40 };
                        frame[at] = protocol;
                        let what = format!("{kind:?}, fragment {number} of protocol {protocol}");
                        rig.expect_frame(&what, &frame, &Expected::untouched(reason))?;
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_fragment_that_is_not_all_there_is_dropped() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let pieces = pieces(rig, &talk, &request(&talk), &Cut::new(5, &ENDS))?;
            pieces[0].follows(rig)?;
            for piece in &pieces {
                let shorter = &piece.frame[..piece.frame.len() - 1];
                let dropped = Expected::untouched(Reason::Truncated);
                rig.expect_frame(&format!("{}, cut short", piece.what), shorter, &dropped)?;
            }
        }
        Ok(())
    })
}
