//! How far second chances go: a service that is down everywhere answers with the RST that it got.

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use switcher_common::flow::SECOND_CHANCES;
use switcher_common::rate::Capped;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use super::{Attempt, PORT, forget_what_was_heard, setup};
use crate::rig::Rig;
use crate::setup::Kind;

#[test]
fn when_all_backends_refuse_the_client_gets_the_refusal() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for backends in 1..=5 {
        let lab = Lab::builder().build()?;
        let chances = (backends - 1).min(u16::from(SECOND_CHANCES));
        Rig::with(&lab, &setup(&lab, [backends, 1]), |rig| {
            for kind in Kind::TCP {
                for refuses in [true, false] {
                    let port = PORT + u16::from(refuses);
                    let mut attempt = Attempt::begin(rig, kind, port, Color::Blue)?;
                    let mut tried = vec![attempt.backend];
                    for _ in 0..chances {
                        attempt.wait(rig)?;
                        if refuses {
                            attempt.refused(rig)?;
                        }
                        attempt.moves(rig)?;
                        ensure!(!tried.contains(&attempt.backend), "twice: {tried:?}");
                        tried.push(attempt.backend);
                    }
                    attempt.wait(rig)?;
                    attempt.stays(rig, "nobody else is left to try")?;
                    attempt.refused_for_good(rig, "the last one's refusal")?;
                    attempt.stays(rig, "and again")?;
                    forget_what_was_heard(rig)?;
                }
            }
            let traffic = rig.counters.traffic(1, Color::Blue)?;
            assert_eq!(
                (traffic.new_flows, traffic.finished_flows),
                (4, 4),
                "{backends} backends"
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_service_without_second_chances_sends_refusals_on_and_keeps_its_backends() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = setup(&lab, [2, 2]);
    setup.second_chance = false;
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::TCP {
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            attempt.wait(rig)?;
            attempt.stays(rig, "unanswered")?;
            attempt.refused_for_good(rig, "refused")?;
            attempt.stays(rig, "after its refusal")?;
        }
        Ok(())
    })
}

#[test]
fn g7_a_second_chance_costs_what_a_syn_costs() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        let path = rig.config.agent.pin_dir.join("maps/RATE_BUDGETS");
        let mut budgets: Array<_, u32> =
            Array::try_from(Map::from_map_data(MapData::from_pin(&path)?)?)?;
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let many = budgets.get(&(Capped::Insert as u32), 0)?;
            budgets.set(Capped::Insert as u32, 0, 0)?;
            attempt.refused(rig)?;
            attempt.stays(rig, "above the cap")?;
            budgets.set(Capped::Insert as u32, many, 0)?;
            attempt.moves(rig)?;
            forget_what_was_heard(rig)?;
        }
        let entries = rig.flows.entries();
        ensure!(
            entries == 6,
            "two flows, and where they were: {entries} entries"
        );
        Ok(())
    })
}
