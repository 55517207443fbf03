//! What is known of backends by what they answered to SYNs.

use anyhow::{Result, ensure};
use switcher_common::clock::elapsed;
use switcher_common::flow::FlowState;
use switcher_common::heard::{Heard, REFUSING_TICKS};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use super::{Attempt, PORT, forget_what_was_heard, hear_of_all, heard, setup};
use crate::cut::tick;
use crate::rig::Rig;
use crate::setup::Kind;

/// How often a test is done again because the machine was too slow for it.
const TRIES: u16 = 50;

/// Does `test`, which gets a port of its own, while all backends have refused just now.
fn while_all_refuse(
    rig: &mut Rig,
    mut test: impl FnMut(&mut Rig, u16) -> Result<()>,
) -> Result<()> {
    for port in PORT..PORT + TRIES {
        let since = tick(0)?;
        let refused = Heard {
            refused: since,
            ..Heard::default()
        };
        hear_of_all(rig, refused)?;
        let outcome = test(rig, port);
        forget_what_was_heard(rig)?;
        // After that nobody knows it any more.
        if elapsed(tick(0)?, since) < REFUSING_TICKS {
            return outcome;
        }
    }
    anyhow::bail!("{TRIES} times a few packets took longer than {REFUSING_TICKS} ticks")
}

#[test]
fn a_refusal_is_not_withheld_when_the_others_are_known_to_refuse() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [3, 1]), |rig| {
        for kind in Kind::TCP {
            while_all_refuse(rig, |rig, port| {
                let attempt = Attempt::begin(rig, kind, port, Color::Blue)?;
                attempt.refused_for_good(rig, "all refuse just now")
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_backend_that_answers_refuses_no_more() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [3, 1]), |rig| {
        for kind in Kind::TCP {
            let refused = Heard {
                refused: tick(0)?,
                ..Heard::default()
            };
            hear_of_all(rig, refused)?;
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            attempt.succeeds(rig)?;
            let all: Vec<Heard> = heard(rig)?.iter().collect::<Result<_, _>>()?;
            let answered: Vec<_> = all.iter().filter(|it| it.answered != 0).collect();
            ensure!(
                answered.len() == 1 && answered[0].refused == 0,
                "one has answered: {all:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_refusal_of_weeks_ago_keeps_nobody_from_that_backend() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 1]), |rig| {
        for kind in Kind::TCP {
            for (port, days) in (PORT..).zip([1_u32, 26, 27, 51]) {
                let ago = days * 82_397_461;
                let refused = Heard {
                    refused: tick(0)?.wrapping_sub(ago).max(1),
                    ..Heard::default()
                };
                hear_of_all(rig, refused)?;
                let mut attempt = Attempt::begin(rig, kind, port, Color::Blue)?;
                attempt.refused(rig)?;
                attempt.moves(rig)?;
                attempt.succeeds(rig)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_refusal_that_came_by_another_way_than_its_backends_is_no_word_of_the_backend() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 1]), |rig| {
        for kind in Kind::TCP {
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            // Whoever has sent the SYN knows what such a RST has to acknowledge.
            rig.ingress = Some(rig.interface("client2")?);
            let told = rig.to_client(&attempt.refusal(), attempt.vip)?;
            let told = told.noting(Reason::ReplyUnverified);
            rig.expect("a forged refusal", &attempt.refusal(), &told)?;
            rig.ingress = None;
            let state = rig.flow(&attempt.syn())?.state;
            ensure!(state == FlowState::Unanswered, "{kind:?}: {state:?}");
            for it in heard(rig)?.iter() {
                ensure!(it?.refused == 0, "{kind:?}: a backend refuses");
            }
            attempt.refused(rig)?;
            forget_what_was_heard(rig)?;
        }
        Ok(())
    })
}
