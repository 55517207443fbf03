//! Fragments follow their first fragment (packet rules, section 4).

mod cut_flows;
mod refused;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::fragment::{Cut, Firsts};
use crate::packet::{ACK, Extension, PSH, Packet};
use crate::rig::{Expected, Rig};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// Three fragments; the first one holds a TCP header and four bytes more.
const ENDS: [usize; 2] = [24, 32];

/// Longer than what [`ENDS`] cut off.
const PAYLOAD: &[u8] = b"what a datagram says that no link takes in one piece";

/// A packet of the client, to be cut.
fn request(talk: &Talk) -> Packet {
    talk.of_client(PSH | ACK).payload(PAYLOAD)
}

/// A packet of the backend, to be cut.
fn answer(talk: &Talk) -> Packet {
    talk.of_backend(PSH | ACK).payload(PAYLOAD)
}

/// A fragment as it comes in, and what it becomes when it is translated.
struct Piece {
    what: String,
    frame: Vec<u8>,
    translated: Expected,
}

impl Piece {
    /// Expects that it is translated.
    fn follows(&self, rig: &mut Rig) -> Result<()> {
        rig.expect_frame(&self.what, &self.frame, &self.translated)
    }

    /// Expects the verdict of `reason`, and that it is not touched.
    fn is(&self, rig: &mut Rig, reason: Reason) -> Result<()> {
        rig.expect_frame(&self.what, &self.frame, &Expected::untouched(reason))
    }
}

/// The fragments of a packet of `talk`, of either direction.
fn pieces(rig: &Rig, talk: &Talk, packet: &Packet, cut: &Cut<'_>) -> Result<Vec<Piece>> {
    let mut translated = if packet.to == talk.vip {
        packet.sent_to(talk.backend, rig.link(talk.color.name())?)
    } else {
        packet.sent_from(talk.vip, rig.link("client")?)
    };
    let reason = if packet.tags.is_empty() {
        Reason::Redirected
    } else {
        // The stack sends it on.
        (translated.link, translated.ttl) = (packet.link, packet.ttl);
        Reason::TagChanges
    };
    let frames = cut.of(packet)?.into_iter().zip(cut.of(&translated)?);
    let numbered = frames.enumerate();
    Ok(numbered
        .map(|(number, (frame, becomes))| Piece {
            what: format!(
                "fragment {} of {} > {} {:?}",
                number + 1,
                packet.from,
                packet.to,
                talk.kind.protocol
            ),
            frame,
            translated: Expected::frame(reason, becomes),
        })
        .collect())
}

#[test]
fn fragments_of_both_directions_follow_their_first_one() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for packet in [request(&talk), answer(&talk)] {
                for piece in pieces(rig, &talk, &packet, &Cut::new(0xbeef, &ENDS))? {
                    piece.follows(rig)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn the_first_fragment_begins_a_flow_and_the_others_follow_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            // The flow that this is the first packet of; its own packets are not sent.
            let talk = Talk::unsent(rig, kind, 4000, Color::Blue);
            let packet = talk.first().payload(PAYLOAD);
            for piece in pieces(rig, &talk, &packet, &Cut::new(1, &ENDS))? {
                piece.follows(rig)?;
                assert_eq!(talk.flow(rig)?.backend, talk.backend);
            }
            if kind.protocol == Protocol::Tcp {
                continue;
            }
            for (number, mut piece) in pieces(rig, &talk, &answer(&talk), &Cut::new(1, &ENDS))?
                .into_iter()
                .enumerate()
            {
                if number == 0 {
                    piece.translated = piece.translated.noting(Reason::Promoted);
                }
                piece.follows(rig)?;
            }
        }
        rig.expect_flows("one of each kind", Kind::ALL.len())
    })
}

/// As long as the clock of the flows needs to move on.
const A_FEW_TICKS: Duration = Duration::from_millis(30);

#[test]
fn a_later_fragment_changes_nothing_of_its_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            let packet = request(&talk);
            let pieces = pieces(rig, &talk, &packet, &Cut::new(1, &ENDS))?;
            pieces[0].follows(rig)?;
            let before = rig.flows.content(&packet)?;
            let begun = Instant::now();
            while begun.elapsed() < A_FEW_TICKS {
                pieces[1].follows(rig)?;
                pieces[2].follows(rig)?;
            }
            assert_eq!(rig.flows.content(&packet)?, before, "{kind:?}");
        }
        Ok(())
    })
}

#[test]
fn an_identification_that_is_used_again_means_the_newest_datagram() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let cut = Cut::new(77, &ENDS);
            let blue = Talk::open(rig, kind, 4000, Color::Blue)?;
            rig.flip(Color::Green)?;
            let green = Talk::open(rig, kind, 4001, Color::Green)?;
            rig.flip(Color::Blue)?;
            let of_blue = pieces(rig, &blue, &request(&blue), &cut)?;
            let of_green = pieces(rig, &green, &request(&green), &cut)?;
            of_blue[0].follows(rig)?;
            of_blue[1].follows(rig)?;
            of_green[0].follows(rig)?;
            of_green[1].follows(rig)?;
            of_green[2].follows(rig)?;
            of_blue[0].follows(rig)?;
            of_blue[2].follows(rig)?;
        }
        Ok(())
    })
}

#[test]
fn datagrams_of_others_with_the_same_identification_are_told_apart() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let cut = Cut::new(0x1234, &ENDS);
        let mut all = Vec::new();
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for packet in [request(&talk), answer(&talk)] {
                all.push(pieces(rig, &talk, &packet, &cut)?);
            }
        }
        // All first ones, then all second ones, then all last ones.
        for number in 0..=ENDS.len() {
            for pieces in &all {
                pieces[number].follows(rig)?;
            }
        }
        let kept = Firsts::open(&rig.config.agent.pin_dir)?.entries();
        assert_eq!(kept, all.len(), "one for each datagram");
        Ok(())
    })
}

const FRAGMENTS: u32 = 256;
const FLOOD: u32 = 1_000;

#[test]
fn g7_the_table_of_first_fragments_is_bounded_and_what_it_forgets_is_counted() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.limits.fragments = FRAGMENTS;
    Rig::with(&lab, &setup, |rig| {
        let mut talks = Vec::new();
        for kind in Kind::ALL {
            talks.push(Talk::open(rig, kind, 4000, Color::Blue)?);
        }
        for talk in &talks {
            for identification in 0..FLOOD {
                let first = &Cut::new(identification, &ENDS).of(&request(talk))?[0];
                rig.run(first)?;
            }
            let newest = Cut::new(FLOOD - 1, &ENDS);
            pieces(rig, talk, &request(talk), &newest)?[1].follows(rig)?;
            let kept = Firsts::open(&rig.config.agent.pin_dir)?.entries();
            let most = usize::try_from(2 * FRAGMENTS)?;
            ensure!(
                (most / 8..=most).contains(&kept),
                "{kept} first fragments are kept, wanted up to {most} in both tables"
            );
            let mut forgotten = 0;
            for identification in 0..FLOOD {
                let later = &Cut::new(identification, &ENDS).of(&request(talk))?[1];
                let (_, counted) = rig.run_counted(later)?;
                ensure!(
                    [Reason::Fragment, Reason::Redirected]
                        .map(|it| vec![(it, 1)])
                        .contains(&counted),
                    "{counted:?}"
                );
                forgotten += u32::from(counted[0].0 == Reason::Fragment);
            }
            ensure!(
                forgotten >= FLOOD - FRAGMENTS,
                "{forgotten} of {FLOOD} are forgotten, with room for {FRAGMENTS}"
            );
        }
        for talk in &mut talks {
            talk.goes_on(rig, "after the flood")?;
        }
        Ok(())
    })
}

#[test]
fn g2_fragments_follow_the_pinned_flow_over_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let begun = Cut::new(5, &ENDS);
            let asked = pieces(rig, &talk, &request(&talk), &begun)?;
            let answered = pieces(rig, &talk, &answer(&talk), &begun)?;
            asked[0].follows(rig)?;
            answered[0].follows(rig)?;
            rig.flip(Color::Green)?;
            for number in [1, 2] {
                asked[number].follows(rig)?;
                answered[number].follows(rig)?;
            }
            let cut = Cut::new(6, &ENDS);
            for packet in [request(&talk), answer(&talk)] {
                for piece in pieces(rig, &talk, &packet, &cut)? {
                    piece.follows(rig)?;
                }
            }
            rig.flip(Color::Blue)?;
        }
        Ok(())
    })
}

/// Destination options of so many units of eight bytes.
fn options(units: u8) -> Extension {
    let mut bytes = vec![units - 1, 1, 4];
    bytes.resize(8 * usize::from(units) - 1, 0);
    Extension { number: 60, bytes }
}

#[test]
fn headers_around_fragments_are_kept() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for (what, change) in AROUND {
                for packet in [request(&talk), answer(&talk)] {
                    let cut = Cut::new(5, &ENDS);
                    let packet = change(packet);
                    for mut piece in pieces(rig, &talk, &packet, &cut)? {
                        piece.what = format!("{what}: {}", piece.what);
                        piece.follows(rig)?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// What of a packet that is cut is changed.
type Change = fn(Packet) -> Packet;

const AROUND: [(&str, Change); 4] = [
    ("a tag", |packet| packet.tags(&[7])),
    ("two tags", |packet| packet.tags(&[7, 8])),
    ("IPv4 options", |packet| packet.ip_options(&[1; 12])),
    ("no checksum", |packet| match packet.protocol {
        Protocol::Udp if packet.to.is_ipv4() => packet.without_udp_checksum(),
        _ => packet,
    }),
];

#[test]
fn ipv6_options_before_and_behind_the_fragment_header_are_kept() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in [Kind::TCP[1], Kind::UDP[1]] {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            for before in 0..=3 {
                for packet in [request(&talk), answer(&talk)] {
                    let packet = packet.extensions(&[options(1), options(3), options(1)]);
                    let packet = packet.payload(&[0x5a; 100]);
                    let cut = Cut {
                        before,
                        ..Cut::new(5, &[64, 72])
                    };
                    for piece in pieces(rig, &talk, &packet, &cut)? {
                        piece.follows(rig)?;
                    }
                }
            }
        }
        Ok(())
    })
}
