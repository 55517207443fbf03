//! The two entries of a flow: what happens when one is gone, and when two CPUs make them at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use switcher_common::flow::FlowState;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::Runner;

use crate::packet::{ACK, Packet};
use crate::rig::{Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

#[test]
fn g2_a_late_answer_of_the_old_color_does_not_move_a_flow_that_was_selected_afresh() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::UDP {
            rig.flip(Color::Blue)?;
            let talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            rig.flows.complete(&talk.first())?;
            rig.flows.forget(&talk.first())?;
            rig.flip(Color::Green)?;
            Talk::begin(rig, kind, 4000, Color::Green)?;
            let late = talk.answer();
            let returned = rig.to_client(&late, talk.vip)?;
            let returned = returned.noting(Reason::DirectionTaken);
            rig.expect(&format!("{kind:?}, late"), &late, &returned)?;
            let next = talk.first();
            let expected = rig.to_backend(&next, Color::Green)?;
            rig.expect(&format!("{kind:?}, next"), &next, &expected)?;
            assert_eq!(talk.flow(rig)?.color, Color::Green, "{kind:?}");
        }
        Ok(())
    })
}

#[test]
fn a_flow_never_takes_the_place_that_another_one_has_for_its_replies() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    for kind in Kind::ALL {
        let mut second = kind.listener(&lab, 1);
        second.backends.blue = vec![(kind.backends(&lab, Color::Blue)[0], 1)];
        setup.services[0].push(second);
    }
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::begin(rig, kind, 4000, Color::Blue)?;
            let is_tcp = Kind::TCP.contains(&kind);
            if is_tcp {
                rig.run(&talk.answer().bytes()?)?;
            }
            rig.flows.forget(&talk.of_backend(ACK))?;
            let other = first(kind, talk.client, kind.vip(&lab, 1));
            let expected = rig.to_backend(&other, Color::Blue)?;
            rig.expect(&format!("{kind:?}, the other VIP"), &other, &expected)?;
            let next = talk.of_client(ACK);
            let expected = rig.to_backend(&next, Color::Blue)?;
            let expected = expected.noting(Reason::DirectionTaken);
            rig.expect(&format!("{kind:?}, goes on"), &next, &expected)?;
            let flow = rig.flow(&other)?;
            let untouched = (Table::Unanswered, FlowState::Unanswered);
            assert_eq!((flow.table, flow.state), untouched, "{kind:?}");
        }
        Ok(())
    })
}

/// Datagrams of which each is handed to both CPUs at once.
const ROUNDS: u16 = 20_000;

#[test]
fn a_flow_that_two_cpus_begin_at_once_is_recorded_whole_and_loses_no_packet() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.attached = vec!["c1"];
    setup.limits.unanswered = 4 * u32::from(ROUNDS);
    setup.limits.inserts_per_second = u32::MAX;
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::UDP {
            let (client, vip) = (rig.client(kind.family, 0).ip(), rig.vip(kind));
            let packets: Vec<Packet> = (1..=ROUNDS)
                .map(|port| first(kind, (client, port).into(), vip))
                .collect();
            let frames: Vec<_> = packets.iter().map(Packet::bytes).collect::<Result<_>>()?;
            run_on_both(rig, &frames)?;
            for packet in &packets {
                rig.flow(packet)?;
            }
        }
        let lost: u64 = rig
            .counters
            .verdicts()?
            .into_iter()
            .filter(|(reason, _)| *reason == Reason::FlowInsertFailed)
            .map(|(_, count)| count)
            .sum();
        ensure!(lost == 0, "{lost} packets were dropped");
        Ok(())
    })
}

/// Runs each of `frames` on both CPUs at once.
pub(crate) fn run_on_both(rig: &mut Rig, frames: &[Vec<u8>]) -> Result<()> {
    let ingress = rig.interface("client")?;
    let arrived = AtomicU32::new(0);
    let (first, second) = (rig.path.runner()?, rig.path.runner()?);
    thread::scope(|scope| {
        let [one, two] = [(0, &first), (1, &second)].map(|(cpu, runner)| {
            let arrived = &arrived;
            scope.spawn(move || run_together(runner, cpu, frames, ingress, arrived))
        });
        for it in [one, two] {
            it.join().expect("it does not panic")?;
        }
        Ok(())
    })
}

/// Runs each of `frames` on `cpu` when another thread is as far.
fn run_together(
    runner: &Runner,
    cpu: usize,
    frames: &[Vec<u8>],
    ingress: u32,
    arrived: &AtomicU32,
) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).context("staying on a CPU")?;
    for (frame, both) in frames.iter().zip((2..).step_by(2)) {
        arrived.fetch_add(1, Ordering::AcqRel);
        while arrived.load(Ordering::Acquire) < both {
            thread::yield_now();
        }
        runner.run(frame, ingress)?;
    }
    Ok(())
}
