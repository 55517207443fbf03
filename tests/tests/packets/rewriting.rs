//! The bytes of rewritten packets, in every shape that senders give them.

use anyhow::{Context, Result};
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::numbers::Numbers;
use crate::packet::{ACK, PSH, Packet};
use crate::rig::Rig;
use crate::setup::Kind;
use crate::talk::Talk;

#[test]
fn ipv4_options_of_every_length_stay_as_they_are() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in [Kind::TCP[0], Kind::UDP[0]] {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for words in 0..=10 {
                // No-operations, and an end of the list.
                let mut options = vec![1; 4 * words];
                if let Some(last) = options.last_mut() {
                    *last = 0;
                }
                let what = format!("{kind:?} with a header of {} words", 5 + words);
                let request = talk.of_client(ACK).ip_options(&options).payload(b"odd");
                talk.send(rig, &what, &request, &[])?;
                let answer = talk.of_backend(ACK).ip_options(&options).payload(b"odd");
                talk.reply(rig, &what, &answer, &[])?;
            }
        }
        Ok(())
    })
}

#[test]
fn what_follows_the_packet_in_the_frame_stays_as_it_is() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for padding in [&[0; 6][..], &[0xff; 1], b"not zero"] {
                let what = format!("{kind:?} with {} bytes after it", padding.len());
                let request = talk.of_client(ACK).payload(&[]).padding(padding);
                talk.send(rig, &what, &request, &[])?;
                let answer = talk.of_backend(ACK).payload(&[]).padding(padding);
                talk.reply(rig, &what, &answer, &[])?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_udp_datagram_without_checksum_keeps_none_over_ipv4() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut talk = Talk::open(rig, Kind::UDP[0], 4000, Color::Blue)?;
        let request = talk.of_client(0).without_udp_checksum();
        talk.send(rig, "a request without checksum", &request, &[])?;
        let answer = talk.of_backend(0).without_udp_checksum();
        talk.reply(rig, "an answer without checksum", &answer, &[])
    })
}

/// The UDP checksum of a packet, as it is sent.
fn udp_checksum(packet: &Packet) -> Result<[u8; 2]> {
    let at = packet.transport_offset() + 6;
    let frame = packet.bytes()?;
    frame[at..at + 2].try_into().context("two bytes")
}

/// `packet` with two bytes of payload that make `checksum` of it 0xffff, the form of a computed zero.
fn with_computed_zero(
    packet: &Packet,
    checksum: impl Fn(&Packet) -> Result<[u8; 2]>,
) -> Result<Packet> {
    for word in 0..=u16::MAX {
        let candidate = packet.clone().payload(&word.to_be_bytes());
        if checksum(&candidate)? == [0xff; 2] {
            return Ok(candidate);
        }
    }
    anyhow::bail!("no payload of two bytes makes the checksum zero")
}

#[test]
fn a_udp_checksum_that_is_computed_as_zero_is_sent_as_all_ones() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::UDP {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let link = rig.link("blue")?;
            let request = talk.of_client(0);
            let becomes = with_computed_zero(&request, |packet| {
                udp_checksum(&packet.sent_to(talk.backend, link))
            })?;
            talk.send(rig, &format!("{kind:?}: it becomes zero"), &becomes, &[])?;
            let was = with_computed_zero(&request, udp_checksum)?;
            talk.send(rig, &format!("{kind:?}: it was zero"), &was, &[])?;
        }
        Ok(())
    })
}

#[test]
fn the_hop_is_counted_once() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for ttl in [2, 3, 64, 128, 255] {
                let what = format!("{kind:?}, {ttl} hops left");
                talk.send(rig, &what, &talk.of_client(ACK).ttl(ttl), &[])?;
                talk.reply(rig, &what, &talk.of_backend(ACK).ttl(ttl), &[])?;
            }
        }
        Ok(())
    })
}

#[test]
fn arbitrary_packets_come_out_with_the_checksums_of_a_full_computation() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut numbers = Numbers(0x5eed);
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for round in 0..200 {
                let len = usize::from(numbers.byte());
                let payload: Vec<u8> = (0..len).map(|_| numbers.byte()).collect();
                for packet in [talk.of_client(PSH | ACK), talk.of_backend(PSH | ACK)] {
                    let packet = Packet {
                        payload: payload.clone(),
                        ttl: numbers.byte().max(2),
                        tos: numbers.byte(),
                        seq: numbers.word(),
                        ack: numbers.word(),
                        ..packet
                    };
                    let what = format!("{kind:?}, round {round}");
                    if packet.to == talk.vip {
                        talk.send(rig, &what, &packet, &[])?;
                    } else {
                        talk.reply(rig, &what, &packet, &[])?;
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn an_ipv6_datagram_without_checksum_is_not_made_to_look_valid() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let kind = Kind::UDP[1];
        assert_eq!((kind.family, kind.protocol), (Family::V6, Protocol::Udp));
        let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
        let packet = talk.of_client(0);
        let at = packet.transport_offset() + 6;
        let mut sent = packet.bytes()?;
        sent[at..at + 2].fill(0);
        let mut wanted = packet.sent_to(talk.backend, rig.link("blue")?).bytes()?;
        wanted[at..at + 2].fill(0);
        let run = rig.run(&sent)?;
        if let Some(difference) = crate::describe::difference(&wanted, &run.frame) {
            anyhow::bail!(difference);
        }
        Ok(())
    })
}
