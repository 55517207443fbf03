//! Second chance beside what other CPUs and the LRU do at the same time.

use anyhow::{Result, ensure};
use switcher_common::heard::UNANSWERED_TICKS;
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use super::late::answer;
use super::{ANSWER, Attempt, PORT, SEQ, setup};
use crate::cut::let_the_clock_move;
use crate::directions::run_on_both;
use crate::packet::{ACK, PSH, Packet};
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;

#[test]
fn a_flow_whose_answer_is_on_its_way_stays() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            rig.flows.complete(&attempt.syn())?;
            let entries = rig.flows.entries();
            // Another CPU sends the SYN-ACK on, and has written one of the two entries.
            let syn_ack = attempt.syn_ack_of(attempt.backend);
            rig.flows.set_answered(&syn_ack, ANSWER)?;
            attempt.wait(rig)?;
            let sent = attempt.syn().sent_to(attempt.backend, rig.link("blue")?);
            let stays = Expected::redirected(sent)
                .noting(Reason::SynRetransmit)
                .noting(Reason::SynUnanswered);
            rig.expect("the answer is there", &attempt.syn(), &stays)?;
            attempt.has_waited.set(false);
            ensure!(rig.flows.entries() == entries, "a second backend's entry");
            attempt.succeeds(rig)?;
        }
        Ok(())
    })
}

#[test]
fn nothing_of_a_backend_that_was_left_reaches_the_client_though_its_answer_was_noted_after()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let left = attempt.backend;
            attempt.wait(rig)?;
            attempt.moves(rig)?;
            let data = Packet::tcp(left, attempt.client, PSH | ACK, ANSWER + 1, SEQ + 1)
                .payload(b"too late");
            rig.flows.set_answered(&data, ANSWER)?;
            let flow = rig.flows.content(&attempt.syn())?;
            rig.expect("late data", &data, &answer(&data))?;
            ensure!(rig.flows.content(&attempt.syn())? == flow, "it has changed");
            attempt.succeeds(rig)?;
        }
        Ok(())
    })
}

/// Flows whose SYN is repeated on both CPUs at once.
const ROUNDS: u16 = 2_000;

#[test]
fn a_syn_that_two_cpus_repeat_at_once_goes_to_one_other_backend() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = setup(&lab, [2, 2]);
    setup.attached = vec!["c1"];
    setup.limits.unanswered = 8 * u32::from(ROUNDS);
    setup.limits.inserts_per_second = u32::MAX;
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::TCP {
            let (client, vip) = (rig.client(kind.family, 0).ip(), rig.vip(kind));
            let ports = PORT..PORT + ROUNDS;
            let syns: Vec<Packet> = ports
                .map(|port| first(kind, (client, port).into(), vip))
                .collect();
            let frames: Vec<_> = syns.iter().map(Packet::bytes).collect::<Result<_>>()?;
            let mut before = Vec::new();
            for (syn, frame) in syns.iter().zip(&frames) {
                rig.run(frame)?;
                before.push(rig.flow(syn)?.backend);
                rig.flows.age(syn, UNANSWERED_TICKS)?;
            }
            run_on_both(rig, &frames)?;
            for (syn, before) in syns.iter().zip(before) {
                let flow = rig.flow(syn)?;
                ensure!(flow.backend != before, "{kind:?}: {flow:?} did not move");
            }
        }
        Ok(())
    })
}

#[test]
fn an_answer_of_a_backend_that_the_clients_packets_do_not_go_to_is_dropped() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let first = attempt.backend;
            attempt.wait(rig)?;
            attempt.moves(rig)?;
            let second = attempt.backend;
            rig.flows.forget(&attempt.syn())?;
            let_the_clock_move()?;
            let sent = attempt.syn().sent_to(first, rig.link("blue")?);
            rig.expect("afresh", &attempt.syn(), &Expected::redirected(sent))?;
            attempt.backend = first;
            let flow = rig.flows.content(&attempt.syn())?;
            let dropped = Expected::untouched(Reason::ReplyTupleTaken);
            rig.expect("a late SYN-ACK", &attempt.syn_ack_of(second), &dropped)?;
            rig.expect("a late RST", &attempt.refusal_of(second), &dropped)?;
            ensure!(rig.flows.content(&attempt.syn())? == flow, "it has changed");
            attempt.succeeds(rig)?;
        }
        Ok(())
    })
}
