//! What is to a VIP but broken: dropped with a reason (G11), never rewritten, whatever is missing.

use anyhow::Result;
use etherparse::Ethernet2Header;
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::packet::Packet;
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;
use crate::talk::Talk;

/// Where the IP header begins.
const IP: usize = Ethernet2Header::LEN;

#[test]
fn g11_a_packet_to_a_vip_is_dropped_at_every_length_below_its_own() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind));
            let whole = packet.bytes()?;
            // Up to here not even the addresses are there.
            let anonymous = match kind.family {
                Family::V4 => IP + 20,
                Family::V6 => IP + 40,
            };
            // The kernel's test runs begin with an Ethernet header.
            for len in IP..whole.len() {
                let reason = if len < anonymous {
                    Reason::NotIp
                } else {
                    Reason::Truncated
                };
                let what = format!("{kind:?}, {len} of {} bytes", whole.len());
                rig.expect_frame(&what, &whole[..len], &Expected::untouched(reason))?;
            }
            rig.expect_flows("pieces begin no flow", 0)?;
        }
        for kind in Kind::ALL {
            Talk::begin(rig, kind, 4000, Color::Blue)?;
        }
        Ok(())
    })
}

#[test]
fn a_truncated_reply_is_never_rewritten() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let flow = talk.flow(rig)?;
            let whole = talk.answer().bytes()?;
            for len in IP..whole.len() {
                let (run, counted) = rig.run_counted(&whole[..len])?;
                assert_eq!(run.frame, &whole[..len], "{kind:?}, {len} bytes");
                assert_eq!(counted.len(), 1, "{kind:?}, {len} bytes: {counted:?}");
                assert_eq!(talk.flow(rig)?, flow, "{kind:?}, {len} bytes");
            }
            talk.goes_on(rig, "after the pieces")?;
        }
        Ok(())
    })
}

/// A change of a good frame that makes it a bad one.
struct Damage {
    what: &'static str,
    change: fn(&mut Vec<u8>, &Packet),
    reason: Reason,
}

fn set_be(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

const IPV4: [Damage; 7] = [
    Damage {
        what: "IP version 5",
        change: |frame, _| frame[IP] = 0x55,
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a header of no words",
        change: |frame, _| frame[IP] = 0x40,
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a header of four words",
        change: |frame, _| frame[IP] = 0x44,
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a header longer than the packet",
        change: |frame, _| {
            frame[IP] = 0x4f;
            set_be(frame, IP + 2, 40);
        },
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a total length of nothing",
        change: |frame, _| set_be(frame, IP + 2, 0),
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a total length of the header alone",
        change: |frame, _| set_be(frame, IP + 2, 20),
        reason: Reason::Truncated,
    },
    Damage {
        what: "a total length beyond the frame",
        change: |frame, _| {
            let len = u16::try_from(frame.len() - IP).expect("a short frame");
            set_be(frame, IP + 2, len + 1);
        },
        reason: Reason::Truncated,
    },
];

const IPV6: [Damage; 4] = [
    Damage {
        what: "IP version 4",
        change: |frame, _| frame[IP] = 0x45,
        reason: Reason::BadHeader,
    },
    Damage {
        what: "no payload, as jumbograms have it",
        change: |frame, _| set_be(frame, IP + 4, 0),
        reason: Reason::Truncated,
    },
    Damage {
        what: "a payload length beyond the frame",
        change: |frame, _| {
            let len = u16::try_from(frame.len() - IP - 40).expect("a short frame");
            set_be(frame, IP + 4, len + 1);
        },
        reason: Reason::Truncated,
    },
    Damage {
        what: "the largest payload length",
        change: |frame, _| set_be(frame, IP + 4, u16::MAX),
        reason: Reason::Truncated,
    },
];

const TCP: [Damage; 3] = [
    Damage {
        what: "a TCP header of no words",
        change: |frame, packet| frame[packet.transport_offset() + 12] = 0,
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a TCP header of four words",
        change: |frame, packet| frame[packet.transport_offset() + 12] = 0x40,
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a TCP header longer than the segment",
        change: |frame, packet| frame[packet.transport_offset() + 12] = 0x60,
        reason: Reason::BadHeader,
    },
];

const UDP: [Damage; 3] = [
    Damage {
        what: "a UDP length of nothing",
        change: |frame, packet| set_be(frame, packet.transport_offset() + 4, 0),
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a UDP length below the header's",
        change: |frame, packet| set_be(frame, packet.transport_offset() + 4, 7),
        reason: Reason::BadHeader,
    },
    Damage {
        what: "a UDP length beyond the packet",
        change: |frame, packet| {
            let at = packet.transport_offset();
            let len = u16::try_from(frame.len() - at).expect("a short frame");
            set_be(frame, at + 4, len + 1);
        },
        reason: Reason::BadHeader,
    },
];

#[test]
fn g11_headers_that_no_sender_means_are_dropped_with_a_reason() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind));
            let network: &[Damage] = match kind.family {
                Family::V4 => &IPV4,
                Family::V6 => &IPV6,
            };
            let transport: &[Damage] = match kind.protocol {
                Protocol::Tcp => &TCP,
                Protocol::Udp => &UDP,
            };
            for damage in network.iter().chain(transport) {
                let mut frame = packet.bytes()?;
                (damage.change)(&mut frame, &packet);
                let what = format!("{kind:?} with {}", damage.what);
                rig.expect_frame(&what, &frame, &Expected::untouched(damage.reason))?;
            }
        }
        rig.expect_flows("nothing of it is a flow", 0)
    })
}

#[test]
fn g11_broken_packets_to_others_pass_untouched() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let (client, backend) = (
                rig.client(kind.family, 4000),
                rig.backend(kind, Color::Blue),
            );
            for (from, to) in [(client, backend), (backend, client)] {
                let packet = first(kind, from, to);
                let network: &[Damage] = match kind.family {
                    Family::V4 => &IPV4,
                    Family::V6 => &IPV6,
                };
                for damage in network {
                    let mut frame = packet.bytes()?;
                    (damage.change)(&mut frame, &packet);
                    let what = format!("{from} to {to} with {}", damage.what);
                    rig.expect_frame(&what, &frame, &Expected::untouched(Reason::NotOurs))?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn g11_a_broken_transport_header_is_ours_if_its_ports_are_those_of_a_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let transport: &[Damage] = match kind.protocol {
                Protocol::Tcp => &TCP,
                Protocol::Udp => &UDP,
            };
            let stranger = rig.client(kind.family, 4001);
            for damage in transport {
                for (packet, reason) in [
                    (talk.answer(), damage.reason),
                    (first(kind, talk.backend, stranger), Reason::NotOurs),
                    (first(kind, stranger, talk.backend), Reason::NotOurs),
                ] {
                    let mut frame = packet.bytes()?;
                    (damage.change)(&mut frame, &packet);
                    let what = format!(
                        "{kind:?}, {} > {} with {}",
                        packet.from, packet.to, damage.what
                    );
                    rig.expect_frame(&what, &frame, &Expected::untouched(reason))?;
                }
            }
            talk.goes_on(rig, "after them")?;
        }
        Ok(())
    })
}

/// Sets the length of the IP packet so that `len` bytes follow its IP header.
fn set_transport_len(packet: &Packet, frame: &mut [u8], len: usize) -> Result<()> {
    let len = u16::try_from(len)?;
    if packet.to.is_ipv4() {
        set_be(frame, IP + 2, 20 + len);
    } else {
        set_be(frame, IP + 4, len);
    }
    Ok(())
}

#[test]
fn g11_a_packet_that_ends_in_its_transport_header_is_ours_if_its_ports_are_those_of_a_flow()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let header = match kind.protocol {
                Protocol::Tcp => 20,
                Protocol::Udp => 8,
            };
            for len in 0..header {
                let (to_vip, answer) = (talk.of_client(0), talk.answer());
                let of_flow = if len < 4 {
                    Reason::NotOurs
                } else {
                    Reason::Truncated
                };
                for (packet, reason) in [(to_vip, Reason::Truncated), (answer, of_flow)] {
                    let mut frame = packet.bytes()?;
                    set_transport_len(&packet, &mut frame, len)?;
                    let what = format!(
                        "{kind:?}, {} > {}, {len} bytes behind the IP header",
                        packet.from, packet.to
                    );
                    rig.expect_frame(&what, &frame, &Expected::untouched(reason))?;
                }
            }
            talk.goes_on(rig, "after them")?;
        }
        Ok(())
    })
}
