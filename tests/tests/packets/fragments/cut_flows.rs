//! Fragments of flows that are cut (G10).

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use etherparse::TcpHeader;
use switcher_common::cut::{Action, CutOrder};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::Orders;

use super::{ENDS, answer, pieces, request};
use crate::fragment::{Cut, Firsts};
use crate::packet::{Link, Packet, RST};
use crate::rig::{Expected, Rig};
use crate::setup::Kind;
use crate::talk::Talk;

/// Cuts the flows of blue that began before the newest first fragment came.
fn cut_blue(rig: &mut Rig, action: Action) -> Result<()> {
    let deadline = Firsts::open(&rig.config.agent.pin_dir)?.newest()?;
    let order = CutOrder::new(action, deadline);
    rig.path.set_orders(Orders {
        colors: BTreeMap::from([((1, Color::Blue), order)]),
        ..Orders::default()
    })?;
    Ok(())
}

/// The RST that answers a segment with an ACK: a whole packet.
fn answer_to(packet: &Packet, identification: u32) -> Result<Expected> {
    let link = Link {
        destination: packet.link.source,
        source: packet.link.destination,
    };
    let rst = Packet {
        link,
        ..Packet::tcp(packet.to, packet.from, RST, packet.ack, 0)
    };
    // In IPv6 with the header of an atomic fragment.
    let mut frame = Cut::new(identification, &[]).of(&rst)?.remove(0);
    let at = frame.len() - 20;
    let (mut tcp, _) = TcpHeader::from_slice(&frame[at..])?;
    tcp.window_size = 0;
    tcp.checksum = match (rst.from.ip(), rst.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[])?
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), &[])?
        }
        _ => anyhow::bail!("two families"),
    };
    frame.splice(at.., tcp.to_bytes());
    Ok(Expected::frame(Reason::ResetSent, frame))
}

#[test]
fn g10_fragments_of_a_cut_tcp_flow_end_here_and_the_first_one_is_answered() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let packets = [request(&talk), answer(&talk)];
            let cut = Cut::new(5, &ENDS);
            for packet in &packets {
                pieces(rig, &talk, packet, &cut)?[0].follows(rig)?;
            }
            cut_blue(rig, Action::Reset)?;
            for packet in &packets {
                pieces(rig, &talk, packet, &cut)?[1].is(rig, Reason::FlowCut)?;
            }
            for (packet, notes) in packets.iter().zip([&[Reason::Demoted][..], &[]]) {
                let pieces = pieces(rig, &talk, packet, &cut)?;
                let answered = answer_to(packet, 5)?;
                let answered = notes.iter().fold(answered, |it, note| it.noting(*note));
                rig.expect_frame(&pieces[0].what, &pieces[0].frame, &answered)?;
                pieces[2].is(rig, Reason::FlowCut)?;
            }
            rig.path.set_orders(Orders::default())?;
        }
        Ok(())
    })
}

#[test]
fn g10_a_datagram_whose_flow_moves_with_it_moves_as_a_whole() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::UDP {
            let talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            let begun = pieces(rig, &talk, &request(&talk), &Cut::new(5, &ENDS))?;
            begun[0].follows(rig)?;
            rig.flip(Color::Green)?;
            cut_blue(rig, Action::Move)?;
            begun[1].follows(rig)?;
            let moved = Talk::unsent(rig, kind, 4000, Color::Green);
            let cut = Cut::new(6, &ENDS);
            for (number, mut piece) in pieces(rig, &moved, &request(&moved), &cut)?
                .into_iter()
                .enumerate()
            {
                if number == 0 {
                    piece.translated = piece.translated.noting(Reason::FlowMoved);
                }
                piece.follows(rig)?;
            }
            rig.path.set_orders(Orders::default())?;
            rig.flip(Color::Blue)?;
        }
        Ok(())
    })
}
