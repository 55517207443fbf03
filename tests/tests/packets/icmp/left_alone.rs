//! Errors that are about no flow are left alone, and those that cannot be sent on are never answered.

use anyhow::Result;
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use super::{Beyond, Case, Failed, SIDES, errors, for_each_side, router, unrelated};
use crate::message::Message;
use crate::rig::{Expected, Rig};
use crate::setup::Kind;
use crate::talk::Talk;

/// A change of an error that makes it one about no flow.
type Change = (&'static str, fn(&mut Message));

/// Where the quoted packet's protocol number is.
fn quoted_protocol(message: &mut Message) -> &mut u8 {
    let at = if message.to.is_ipv4() { 9 } else { 6 };
    &mut message.body[at]
}

const UNRELATED: [Change; 7] = [
    ("nothing quoted", |message| message.body.clear()),
    ("an echo request quoted", |message| {
        *quoted_protocol(message) = if message.to.is_ipv4() { 1 } else { 58 };
    }),
    ("SCTP quoted", |message| *quoted_protocol(message) = 132),
    ("another IP version quoted", |message| {
        message.body[0] ^= 0x20;
    }),
    ("an unknown port quoted", |message| {
        let ports = if message.to.is_ipv4() { 20 } else { 40 };
        message.body[ports] ^= 0x55;
    }),
    ("an unknown address quoted", |message| {
        let destination = if message.to.is_ipv4() { 19 } else { 39 };
        message.body[destination] ^= 0x55;
    }),
    ("a type that is no error", |message| {
        // Redirects are for the hosts of a link, and say nothing of a flow.
        message.kind = if message.to.is_ipv4() { 5 } else { 137 };
    }),
];

const UNRELATED_V4: [Change; 3] = [
    ("a later fragment quoted", |message| message.body[7] = 1),
    ("a header of four words quoted", |message| {
        message.body[0] = 0x44;
    }),
    ("options quoted that are not there", |message| {
        message.body.truncate(40);
        message.body[0] = 0x4f;
    }),
];

const UNRELATED_V6: [Change; 1] = [("a fragment header quoted", |message| {
    *quoted_protocol(message) = 44;
})];

#[test]
fn errors_that_are_about_no_flow_are_left_alone() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for_each_side(|rig, talk, from| {
        let failed = Failed::new(talk, from);
        let of_family: &[Change] = match talk.kind.family {
            Family::V4 => &UNRELATED_V4,
            Family::V6 => &UNRELATED_V6,
        };
        let error = errors(talk.kind.family)[0];
        for (what, change) in UNRELATED.iter().chain(of_family) {
            let case = Case::new(rig, talk, from, error, &failed)?.with(change);
            let what = format!("{:?}, {from:?}: {what}", talk.kind);
            case.expect_untouched(rig, &what, unrelated(from))?;
        }
        // To somebody else than the sender of what it quotes: to a VIP or not.
        let mut case = Case::new(rig, talk, from, error, &failed)?;
        for (to, reason) in [
            (rig.client(talk.kind.family, 0).ip(), Reason::NotOurs),
            (router(talk.kind.family), Reason::NotOurs),
            (talk.vip.ip(), Reason::IcmpUnrelated),
        ] {
            if to == failed.beyond.from.ip() {
                continue;
            }
            case.error.to = to;
            let what = format!("{:?}, {from:?}: an error that is sent to {to}", talk.kind);
            case.expect_untouched(rig, &what, reason)?;
        }
        Ok(())
    })
}

#[test]
fn errors_that_are_broken_or_at_their_end_are_dropped_and_never_answered() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for_each_side(|rig, talk, from| {
        let what = |text: &str| format!("{:?}, {from:?}: {text}", talk.kind);
        let failed = Failed::new(talk, from);
        let error = errors(talk.kind.family)[5];
        for ttl in [0, 1] {
            let case =
                Case::new(rig, talk, from, error, &failed)?.with(|message| message.ttl = ttl);
            let text = what(&format!("time to live {ttl}"));
            case.expect_untouched(rig, &text, Reason::TtlExceeded)?;
        }
        let broken = |reason| match from {
            Beyond::Client => Expected::untouched(reason),
            Beyond::Backend => Expected::untouched(Reason::NotOurs),
        };
        let whole = Case::new(rig, talk, from, error, &failed)?.error.bytes()?;
        let short = &whole[..whole.len() - 1];
        rig.expect_frame(&what("cut short"), short, &broken(Reason::Truncated))?;
        if talk.kind.family == Family::V4 {
            let mut frame = whole.clone();
            frame[14] = 0x44;
            rig.expect_frame(&what("a bad header"), &frame, &broken(Reason::BadHeader))?;
            let mut frame = whole;
            frame[20] = 0x20;
            rig.expect_frame(&what("a fragment"), &frame, &broken(Reason::Fragment))?;
        }
        Ok(())
    })
}

#[test]
fn an_error_that_is_too_large_is_dropped_or_left_to_the_stack_and_never_answered() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(1300).build()?;
    Rig::plain(&lab, |rig| {
        for (port, kind) in (4000..).zip(Kind::ALL) {
            let talk = Talk::open(rig, kind, port, Color::Blue)?;
            for from in SIDES {
                let failed = Failed::new(&talk, from).with(|packet| packet.payload(&[9; 1_300]));
                let error = errors(kind.family)[0];
                let case = Case::new(rig, &talk, from, error, &failed)?;
                let unfragmentable = case.with(|message| message.dont_fragment = true);
                let what = format!("{kind:?}, {from:?}: may not be fragmented");
                let expected = Expected::untouched(Reason::TooBig);
                rig.expect_frame(&what, &unfragmentable.error.bytes()?, &expected)?;
                if kind.family == Family::V4 {
                    let case = unfragmentable.with(|message| message.dont_fragment = false);
                    let left = case.for_the_stack().bytes()?;
                    let expected = Expected::frame(Reason::AboveMtu, left);
                    let expected = expected.noting(Reason::IcmpTranslated);
                    let what = format!("{kind:?}, {from:?}: may be fragmented");
                    rig.expect_frame(&what, &case.error.bytes()?, &expected)?;
                }
            }
        }
        Ok(())
    })
}
