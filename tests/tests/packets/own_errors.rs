//! Errors that the node sends itself, built by etherparse for comparison: time to live over, and
//! next hop's MTU too small. They quote the packet as its sender knows it.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use switcher_common::interface::{InterfaceRecord, flags};
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::echo::answered;
use crate::message::Message;
use crate::packet::{ACK, PSH, Packet};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

const MTU: u16 = 1_300;

fn time_exceeded(about: &Packet) -> Result<Expected> {
    let kind = if about.to.is_ipv4() { 11 } else { 3 };
    let error = Message::own_error(about, [kind, 0], 0)?;
    Ok(Expected::frame(Reason::TimeExceededSent, error.bytes()?))
}

fn too_big(about: &Packet) -> Result<Expected> {
    let kind = if about.to.is_ipv4() { [3, 4] } else { [2, 0] };
    let error = Message::own_error(about, kind, MTU)?;
    Ok(Expected::frame(Reason::TooBigSent, error.bytes()?))
}

#[test]
fn a_first_packet_whose_time_is_over_begins_no_flow_and_its_sender_is_told() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            for ttl in [0, 1] {
                let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).ttl(ttl);
                rig.expect(
                    &format!("{kind:?}, {ttl} hops left"),
                    &packet,
                    &time_exceeded(&packet)?,
                )?;
            }
            rig.expect_flows("it went nowhere", 0)?;
        }
        let traffic = rig.counters.traffic(1, Color::Blue)?;
        assert_eq!(traffic.packets, 0, "an own error is no traffic of a color");
        for kind in Kind::ALL {
            Talk::begin(rig, kind, 4000, Color::Blue)?;
        }
        Ok(())
    })
}

#[test]
fn a_packet_of_a_flow_whose_time_is_over_changes_nothing_and_its_sender_is_told() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let before = (talk.flow(rig)?, rig.counters.traffic(1, Color::Blue)?);
            for ttl in [0, 1] {
                for packet in [talk.of_client(PSH | ACK), talk.of_backend(PSH | ACK)] {
                    let packet = packet.payload(b"too far").ttl(ttl);
                    let what = format!("{kind:?}, from {}, {ttl} hops left", packet.from);
                    rig.expect(&what, &packet, &time_exceeded(&packet)?)?;
                }
            }
            let after = (talk.flow(rig)?, rig.counters.traffic(1, Color::Blue)?);
            assert_eq!(before, after, "{kind:?}");
            talk.goes_on(rig, "after packets that came too far")?;
        }
        Ok(())
    })
}

#[test]
fn an_own_error_quotes_128_bytes_or_what_there_is_in_whole_words() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            let base = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).ttl(1);
            for len in (0..128_usize).chain([500, 1_400]) {
                let packet = base.clone().payload(&vec![len.to_le_bytes()[0]; len]);
                let what = format!("{kind:?} with {len} bytes of payload");
                rig.expect(&what, &packet, &time_exceeded(&packet)?)?;
            }
            for len in [0, 1, 60] {
                let packet = base.clone().payload(&vec![1; len]).padding(&[0xee; 9]);
                let what = format!("{kind:?}: bytes behind the packet are not of it");
                rig.expect(&what, &packet, &time_exceeded(&packet)?)?;
            }
        }
        for kind in Kind::ALL
            .into_iter()
            .filter(|kind| kind.family == Family::V4)
        {
            let base = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).ttl(1);
            for words in [1, 2, 10] {
                let packet = base.clone().ip_options(&vec![1; words * 4]);
                let what = format!("{kind:?} with {words} words of IP options");
                rig.expect(&what, &packet, &time_exceeded(&packet)?)?;
            }
        }
        Ok(())
    })
}

#[test]
fn an_own_error_keeps_the_vlan_tags() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            for tags in [vec![7], vec![100, 200]] {
                let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).ttl(1);
                let packet = Packet { tags, ..packet };
                let what = format!("{kind:?}, VLANs {:?}", packet.tags);
                rig.expect(&what, &packet, &time_exceeded(&packet)?)?;
            }
        }
        Ok(())
    })
}

#[test]
fn an_address_that_no_client_has_is_told_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for from in [
            "127.0.0.1:7",
            "224.0.0.5:7",
            "255.255.255.255:7",
            "[::1]:7",
            "[ff02::5]:7",
        ] {
            let from: SocketAddr = from.parse()?;
            for kind in Kind::ALL
                .into_iter()
                .filter(|it| it.family == Family::of(from.ip()))
            {
                let packet = first(kind, from, rig.vip(kind)).ttl(1);
                let dropped = Expected::untouched(Reason::TtlExceeded);
                rig.expect(&format!("{kind:?} from {from}"), &packet, &dropped)?;
            }
        }
        for kind in Kind::ALL {
            let packet = first(kind, kind.vip(&lab, 0), rig.vip(kind)).ttl(1);
            let dropped = Expected::untouched(Reason::TtlExceeded);
            rig.expect(&format!("{kind:?} from a VIP"), &packet, &dropped)?;
        }
        Ok(())
    })
}

#[test]
fn of_an_unfinished_packet_nobody_is_told_as_hardware_would_write_into_the_error() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1"];
    Rig::with(&lab, &setup, |rig| {
        rig.uncap_own_errors()?;
        let c1 = rig.interface("client")?;
        rig.path.set_interfaces([(c1, told(flags::GENERIC))])?;
        for kind in Kind::ALL {
            let late = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).ttl(1);
            rig.expect(&format!("{kind:?}, whole"), &late, &time_exceeded(&late)?)?;
            let dropped = Expected::untouched(Reason::TtlExceeded);
            rig.expect(&format!("{kind:?}"), &late.unfinished(), &dropped)?;
        }
        Ok(())
    })
}

/// `packet` with as much payload as makes it `len` bytes of IP.
fn of_len(packet: Packet, len: u16) -> Result<Packet> {
    let headers = packet.clone().payload(&[]).packet()?.len();
    Ok(packet.payload(&vec![0x77; usize::from(len) - headers]))
}

#[test]
fn a_packet_larger_than_the_next_hop_takes_is_answered_with_its_mtu() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(MTU.into()).build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let before = rig.counters.traffic(1, Color::Blue)?;
            for packet in [talk.of_client(ACK), talk.of_backend(ACK)] {
                let packet = Packet {
                    dont_fragment: true,
                    ..packet
                };
                for len in [MTU + 1, MTU + 2, 1_500] {
                    let large = of_len(packet.clone(), len)?;
                    let what = format!("{kind:?} of {len} bytes from {}", packet.from);
                    rig.expect(&what, &large, &too_big(&large)?)?;
                }
            }
            let after = rig.counters.traffic(1, Color::Blue)?;
            assert_eq!(
                before, after,
                "{kind:?}: an own error is no traffic of a color"
            );
            let fits = Packet {
                dont_fragment: true,
                ..of_len(talk.of_client(ACK), MTU)?
            };
            talk.send(rig, &format!("{kind:?} of {MTU} bytes"), &fits, &[])?;
            let fits = Packet {
                dont_fragment: true,
                ..of_len(talk.of_backend(ACK), MTU)?
            };
            talk.reply(rig, &format!("{kind:?} of {MTU} bytes back"), &fits, &[])?;
        }
        Ok(())
    })
}

#[test]
fn a_large_packet_that_may_be_fragmented_is_left_to_the_stack() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(MTU.into()).build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL.into_iter().filter(|it| it.family == Family::V4) {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let large = of_len(talk.of_client(ACK), MTU + 1)?;
            let rewritten = Packet {
                to: talk.backend,
                ..large.clone()
            };
            let expected = Expected::rewritten(Reason::AboveMtu, rewritten);
            rig.expect(&format!("{kind:?} to the backend"), &large, &expected)?;
            let large = of_len(talk.of_backend(ACK), MTU + 1)?;
            let rewritten = Packet {
                from: talk.vip,
                ..large.clone()
            };
            let expected = Expected::rewritten(Reason::AboveMtu, rewritten);
            rig.expect(&format!("{kind:?} to the client"), &large, &expected)?;
        }
        Ok(())
    })
}

#[test]
fn a_large_first_packet_begins_its_flow_and_its_sender_is_told() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(MTU.into()).build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::UDP {
            let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind));
            let large = Packet {
                dont_fragment: true,
                ..of_len(packet.clone(), MTU + 1)?
            };
            rig.expect(&format!("{kind:?}"), &large, &too_big(&large)?)?;
            assert_eq!(rig.flow(&packet)?.backend, rig.backend(kind, Color::Blue));
            // Sent again as told, it goes where it would have gone, whatever is active by now.
            rig.flip(Color::Green)?;
            let expected = rig.to_backend(&packet, Color::Blue)?;
            rig.expect(&format!("{kind:?}, smaller"), &packet, &expected)?;
            rig.flip(Color::Blue)?;
        }
        Ok(())
    })
}

#[test]
fn in_generic_mode_only_a_large_packet_that_may_be_merged_is_left_to_the_stack() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(MTU.into()).build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1"];
    Rig::with(&lab, &setup, |rig| {
        let c1 = rig.interface("client")?;
        rig.ingress = Some(c1);
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            let talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            for flags in [0, flags::GENERIC] {
                rig.path.set_interfaces([(c1, told(flags))])?;
                for len in [MTU + 1, 2 * MTU] {
                    let large = Packet {
                        dont_fragment: true,
                        ..of_len(talk.of_client(ACK), len)?
                    };
                    let what = format!("{kind:?} of {len} bytes, flags {flags:#x}");
                    rig.expect(&what, &large, &too_big(&large)?)?;
                    if flags == flags::GENERIC {
                        let merged = large.unfinished();
                        let to = talk.backend;
                        let rewritten = Packet {
                            to,
                            ..merged.clone()
                        };
                        let expected = Expected::rewritten(Reason::AboveMtu, rewritten);
                        rig.expect(&format!("{what}, unfinished"), &merged, &expected)?;
                    }
                }
            }
        }
        Ok(())
    })
}

fn told(flags: u16) -> InterfaceRecord {
    InterfaceRecord {
        flags,
        ..InterfaceRecord::default()
    }
}

#[test]
fn where_an_answer_could_not_leave_again_none_is_made() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(MTU.into()).build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1"];
    Rig::with(&lab, &setup, |rig| {
        rig.uncap_own_errors()?;
        let c1 = rig.interface("client")?;
        rig.ingress = Some(c1);
        for (bits, answers) in [
            (flags::NO_REDIRECT, true),
            (flags::NO_TRANSMIT, false),
            (flags::NO_TRANSMIT | flags::GENERIC, true),
        ] {
            rig.path.set_interfaces([(c1, told(bits))])?;
            let expected = |answer: Expected, else_as| {
                if answers {
                    answer
                } else {
                    Expected::untouched(else_as)
                }
            };
            for kind in Kind::ALL {
                let what = |text: &str| format!("{kind:?}, flags {bits:#x}: {text}");
                let late = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).ttl(1);
                let answer = expected(time_exceeded(&late)?, Reason::TtlExceeded);
                rig.expect(&what("time to live over"), &late, &answer)?;
                let large = Packet {
                    dont_fragment: true,
                    ..of_len(
                        first(kind, rig.client(kind.family, 4000), rig.vip(kind)),
                        1_400,
                    )?
                };
                let answer = expected(too_big(&large)?, Reason::TooBig);
                // Of TCP only the first one begins a flow.
                rig.run(&large.bytes()?)?;
                rig.just_seen(&large)?;
                let notes: &[Reason] = match kind.protocol {
                    Protocol::Tcp => &[Reason::SynRetransmit],
                    Protocol::Udp => &[],
                };
                let answer = notes.iter().fold(answer, |it, note| it.noting(*note));
                rig.expect(&what("too large"), &large, &answer)?;
                let client = rig.client(kind.family, 0).ip();
                let request = Message::echo_request(client, rig.vip(kind).ip(), b"hello");
                let answer = expected(answered(&request)?, Reason::IcmpUnrelated);
                rig.expect_frame(&what("an echo request"), &request.bytes()?, &answer)?;
            }
        }
        Ok(())
    })
}

/// Own errors a second and CPU, and in one window of 2^27 ns.
const CAP_PER_SECOND: u128 = 1_000;
const WINDOW_NS: u128 = 1 << 27;

#[test]
fn own_errors_are_capped_and_above_the_cap_the_packet_is_dropped() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let frame = first(kind, rig.client(kind.family, 4000), rig.vip(kind))
                .ttl(1)
                .bytes()?;
            let begun = Instant::now();
            let (mut sent, mut runs) = (0, 0_u128);
            // As fast as it goes, until the cap is met; each of two CPUs may have its own.
            while runs < 200_000 {
                runs += 1;
                let run = rig.run(&frame)?;
                sent += u128::from(run.frame != frame);
                if sent + 50 < runs {
                    break;
                }
            }
            ensure!(
                sent < runs,
                "{kind:?}: {runs} packets in {:?}, no cap met",
                begun.elapsed()
            );
            let cpus = std::thread::available_parallelism()?.get() as u128;
            let windows = begun.elapsed().as_nanos() / WINDOW_NS + 2;
            let most = windows * cpus * (CAP_PER_SECOND * WINDOW_NS / 1_000_000_000);
            ensure!(
                sent <= most,
                "{kind:?}: {sent} errors, at most {most} wanted"
            );
            let (run, counted) = rig.run_counted(&frame)?;
            let is_sent = run.frame != frame;
            let reason = if is_sent {
                Reason::TimeExceededSent
            } else {
                Reason::TtlExceeded
            };
            ensure!(
                counted == [(reason, 1)],
                "{kind:?}: {counted:?} instead of {reason:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_flood_of_packets_whose_time_is_over_leaves_path_mtu_discovery_its_answers() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(MTU.into()).build()?;
    Rig::plain(&lab, |rig| {
        rig.uncap_own_errors()?;
        for kind in Kind::ALL {
            let talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            let late = talk.of_client(ACK).ttl(1);
            let large = Packet {
                dont_fragment: true,
                ..of_len(talk.of_client(ACK), MTU + 1)?
            };
            rig.cap_own_errors([0, u32::MAX])?;
            let dropped = Expected::untouched(Reason::TtlExceeded);
            rig.expect(&format!("{kind:?}, late"), &late, &dropped)?;
            rig.expect(&format!("{kind:?}, large"), &large, &too_big(&large)?)?;
            rig.cap_own_errors([u32::MAX, 0])?;
            rig.expect(&format!("{kind:?}, late"), &late, &time_exceeded(&late)?)?;
            let dropped = Expected::untouched(Reason::TooBig);
            rig.expect(&format!("{kind:?}, large"), &large, &dropped)?;
        }
        Ok(())
    })
}
