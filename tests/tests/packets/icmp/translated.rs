//! Errors about a flow are translated, outside and inside.

use anyhow::Result;
use switcher_common::reason::Reason;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use super::{Beyond, Case, Failed, errors, for_each_side, unrelated};
use crate::packet::Packet;
use crate::rig::{Expected, Rig};
use crate::setup::Kind;
use crate::talk::Talk;

#[test]
fn errors_of_every_type_about_a_flow_are_translated_both_ways() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for_each_side(|rig, talk, from| {
        for &error in errors(talk.kind.family) {
            let case = Case::new(rig, talk, from, error, &Failed::new(talk, from))?;
            case.expect(rig, &format!("{:?}, {from:?}: {}", talk.kind, error.0))?;
        }
        Ok(())
    })
}

#[test]
fn errors_about_a_flow_whose_backend_never_answered_are_translated() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            let failed = Failed::new(&talk, Beyond::Backend);
            let case = Case::new(rig, &talk, Beyond::Backend, errors(kind.family)[2], &failed)?;
            case.expect(rig, &format!("{kind:?}: a backend without a server"))?;
        }
        Ok(())
    })
}

#[test]
fn an_error_of_the_backend_itself_comes_from_the_vip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for_each_side(|rig, talk, _| {
        let failed = Failed::new(talk, Beyond::Backend);
        let error = errors(talk.kind.family)[3];
        let mut case = Case::new(rig, talk, Beyond::Backend, error, &failed)?;
        case.error.from = talk.backend.ip();
        case.expect(rig, &format!("{:?}: port unreachable", talk.kind))
    })
}

#[test]
fn a_quote_is_translated_as_far_as_it_goes() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for_each_side(|rig, talk, from| {
        let failed = Failed::new(talk, from);
        let error = errors(talk.kind.family)[3];
        let whole = failed.beyond.packet()?.len();
        let headers = failed.beyond.transport_offset() - 14;
        for len in 0..=whole {
            let case = Case::new(rig, talk, from, error, &failed)?.cut(len);
            let what = format!("{:?}, {from:?}: {len} of {whole} bytes quoted", talk.kind);
            if len < headers + 8 {
                case.expect_untouched(rig, &what, unrelated(from))?;
                continue;
            }
            let mut case = case;
            if talk.kind.protocol == Protocol::Tcp && len == headers + 17 {
                // Half of a checksum is no checksum.
                case.translated.body[headers + 16] = case.error.body[headers + 16];
            }
            case.expect(rig, &what)?;
        }
        Ok(())
    })
}

#[test]
fn quotes_as_routers_make_them_are_translated() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for_each_side(|rig, talk, from| {
        let what = |text: &str| format!("{:?}, {from:?}: {text}", talk.kind);
        let is_v4 = talk.kind.family == Family::V4;
        let error = errors(talk.kind.family)[4];
        let case = |rig: &Rig, failed: &Failed| Case::new(rig, talk, from, error, failed);

        let failed = Failed::new(talk, from);
        let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0];
        let extended = case(rig, &failed)?.with(|message| {
            // RFC 4884: the quote's length, the quote filled up to 128 bytes, and an extension.
            let (at, len) = if is_v4 { (1, 32) } else { (0, 16) };
            message.rest[at] = len;
            message.body.resize(128, 0);
            message.body.extend(extension);
        });
        extended.expect(rig, &what("an extension behind the quote"))?;

        let padded = case(rig, &failed)?;
        let frame = [padded.error.bytes()?, vec![0xee; 5]].concat();
        let sent = [padded.translated.bytes()?, vec![0xee; 5]].concat();
        let expected = Expected::frame(Reason::Redirected, sent).noting(Reason::IcmpTranslated);
        rig.expect_frame(&what("bytes behind the packet"), &frame, &expected)?;

        for tags in [vec![7], vec![9, 4094]] {
            let tagged = case(rig, &failed)?.with(|message| message.tags.clone_from(&tags));
            // With its tags it cannot leave by another interface: the stack sends it on.
            let expected = Expected::frame(Reason::TagChanges, tagged.for_the_stack().bytes()?);
            let expected = expected.noting(Reason::IcmpTranslated);
            let frame = tagged.error.bytes()?;
            rig.expect_frame(&what(&format!("VLANs {tags:?}")), &frame, &expected)?;
        }

        if is_v4 {
            let options = [0x94, 4, 0, 0, 1, 1, 1, 0];
            let quoted = Failed::new(talk, from).with(|packet| packet.ip_options(&options));
            case(rig, &quoted)?.expect(rig, &what("IP options in the quote"))?;
            let own = case(rig, &failed)?.with(|message| message.ip_options = options.to_vec());
            own.expect(rig, &what("IP options of the error"))?;
            let first = case(rig, &failed)?.with(|message| message.body[6] = 0x20);
            // The quoted header's checksum is wrong by the flag then, before and after.
            first.expect(rig, &what("a first fragment"))?;
        }
        if is_v4 && talk.kind.protocol == Protocol::Udp {
            let unchecked = Failed::new(talk, from).with(Packet::without_udp_checksum);
            case(rig, &unchecked)?.expect(rig, &what("a UDP checksum of zero stays zero"))?;
        }
        Ok(())
    })
}
