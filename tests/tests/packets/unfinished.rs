//! Generic mode: packets whose checksum their sender has left to its hardware, beside those whose
//! checksum only looks so.

use anyhow::{Context as _, Result, ensure};
use switcher_common::interface::{InterfaceRecord, flags};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, Packet};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// Lengths of payloads at which summing takes other turns. All packets are within a page, which is
/// what a test can hand in.
const LENGTHS: [usize; 18] = [
    2, 3, 4, 5, 6, 7, 8, 13, 100, 255, 491, 492, 493, 504, 512, 1_000, 1_399, 1_400,
];

/// The program in a lab, with the client's interface in this mode.
fn with_client_in(
    flags: u16,
    mtu: u32,
    test: impl FnOnce(&mut Rig) -> Result<()> + Send,
) -> Result<()> {
    let lab = Lab::builder().mtu(mtu).build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1", "b"];
    Rig::with(&lab, &setup, |rig| {
        let c1 = rig.interface("client")?;
        let record = InterfaceRecord {
            flags,
            ..InterfaceRecord::default()
        };
        rig.path.set_interfaces([(c1, record)])?;
        test(rig)
    })
}

/// What the stack is given of `packet`.
fn for_the_stack(rig: &Rig, packet: &Packet, kind: Kind, reason: Reason) -> Expected {
    let to = rig.backend(kind, Color::Blue);
    let packet = packet.clone();
    Expected::rewritten(reason, Packet { to, ..packet })
}

/// A payload of `length` bytes whose whole checksum is what an unfinished one would have.
fn looks_unfinished(packet: &Packet, length: usize) -> Result<Packet> {
    let mut payload: Vec<u8> = (0..=250).cycle().step_by(7).take(length).collect();
    payload[..2].fill(0);
    let without = packet.clone().payload(&payload);
    let (whole, unfinished) = (without.bytes()?, without.clone().unfinished().bytes()?);
    let field = |frame: &[u8]| {
        let at = without.checksum_offset();
        u32::from(frame[at]) << 8 | u32::from(frame[at + 1])
    };
    // The word that changes one into the other (RFC 1624, 3).
    let word = field(&whole) + (0xffff - field(&unfinished));
    let word = u16::try_from((word & 0xffff) + (word >> 16))?;
    payload[..2].copy_from_slice(&word.to_be_bytes());
    let packet = packet.clone().payload(&payload);
    ensure!(
        packet.bytes()? == packet.clone().unfinished().bytes()?,
        "the checksum of {packet:?} does not look unfinished"
    );
    Ok(packet)
}

#[test]
fn in_generic_mode_an_unfinished_checksum_stays_so_and_the_stack_sends_the_packet() -> Result<()> {
    skip_unless_lab!(Ok(()));
    with_client_in(flags::GENERIC, 1_500, |rig| {
        for kind in Kind::ALL {
            for (port, length) in (4000..).zip(LENGTHS) {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
                let packet = packet.payload(&vec![0xa5; length]).unfinished();
                let expected = for_the_stack(rig, &packet, kind, Reason::ChecksumLeft);
                rig.expect(&format!("{kind:?} of {length} bytes"), &packet, &expected)?;
            }
        }
        Ok(())
    })
}

#[test]
fn in_generic_mode_what_the_kernel_has_merged_goes_to_the_stack_unfinished() -> Result<()> {
    skip_unless_lab!(Ok(()));
    with_client_in(flags::GENERIC, 1_500, |rig| {
        for kind in Kind::ALL {
            for (port, length) in (4000..).zip([1_500, 3_301]) {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
                let packet = packet.payload(&vec![0xa5; length]).unfinished();
                let expected = for_the_stack(rig, &packet, kind, Reason::AboveMtu);
                rig.expect(&format!("{kind:?} of {length} bytes"), &packet, &expected)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_whole_checksum_that_looks_unfinished_is_updated_and_the_program_sends_the_packet() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    with_client_in(flags::GENERIC, 9_000, |rig| {
        for kind in Kind::ALL {
            for (port, length) in (4000..).zip(LENGTHS.into_iter().chain([2_047, 3_301])) {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
                let packet = looks_unfinished(&packet, length)?;
                let expected = rig.to_backend(&packet, Color::Blue)?;
                rig.expect(&format!("{kind:?} of {length} bytes"), &packet, &expected)?;
            }
        }
        Ok(())
    })
}

#[test]
fn in_native_mode_every_checksum_counts_as_whole() -> Result<()> {
    skip_unless_lab!(Ok(()));
    with_client_in(0, 1_500, |rig| {
        for kind in Kind::ALL {
            let packet = first(kind, rig.client(kind.family, 4000), rig.vip(kind)).unfinished();
            let (run, counted) = rig.run_counted(&packet.bytes()?)?;
            let counted = counted.first().context("a verdict")?;
            ensure!(*counted == (Reason::Redirected, 1), "{kind:?}: {counted:?}");
            // What it makes of it is as wrong as what came in, which is the point of telling modes.
            let to = rig.backend(kind, Color::Blue);
            let unfinished = packet.sent_to(to, rig.link("blue")?).bytes()?;
            ensure!(run.frame != unfinished, "{kind:?}: left alone");
        }
        Ok(())
    })
}

#[test]
fn in_generic_mode_the_checksums_of_a_whole_conversation_are_told_apart() -> Result<()> {
    skip_unless_lab!(Ok(()));
    with_client_in(flags::GENERIC, 1_500, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4000, Color::Blue)?;
            talk.goes_on(rig, "with whole checksums")?;
            let data = talk.of_client(ACK).payload(b"merged").unfinished();
            let expected = for_the_stack(rig, &data, kind, Reason::ChecksumLeft);
            rig.expect(&format!("{kind:?}, data"), &data, &expected)?;
        }
        Ok(())
    })
}
