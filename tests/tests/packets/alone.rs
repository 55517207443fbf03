//! Flows that begin with the client's entry alone, and who makes the other one.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use switcher_common::flow::FlowState;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::Color::{Blue, Green};
use switcher_common::service::Protocol;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{Leaving, RemovalTerms, Wanted};

use crate::cut::let_the_clock_move;
use crate::listeners::{shared_backends, with_previews};
use crate::packet::Packet;
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// The backend's first packet arrives, and is counted as that and nothing else.
fn is_answered(rig: &mut Rig, talk: &Talk, what: &str) -> Result<()> {
    let returned = rig.to_client(&talk.answer(), talk.vip)?;
    let (returned, answered) = match talk.kind.protocol {
        Protocol::Tcp => (returned, (Table::Unanswered, FlowState::Answered)),
        Protocol::Udp => (
            returned.noting(Reason::Promoted),
            (Table::Established, FlowState::Established),
        ),
    };
    rig.expect(what, &talk.answer(), &returned)?;
    let flow = talk.flow(rig)?;
    ensure!((flow.table, flow.state) == answered, "{what}: {flow:?}");
    ensure!(
        rig.flows.has_entry(&talk.answer())?,
        "{what}: it lacks an entry"
    );
    Ok(())
}

#[test]
fn g7_a_packet_that_nobody_answers_takes_one_entry_and_the_answer_makes_the_other() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for (before, kind) in (0..).step_by(2).zip(Kind::ALL) {
            let talk = Talk::begin(rig, kind, 4000, Blue)?;
            let entries = rig.flows.entries();
            ensure!(
                entries == before + 1,
                "{kind:?}: {entries} entries, {before} before"
            );
            is_answered(rig, &talk, &format!("{kind:?}"))?;
        }
        rig.expect_flows("one of each kind", Kind::ALL.len())
    })
}

#[test]
fn the_clients_next_packet_makes_the_entry_for_the_replies() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let talk = Talk::begin(rig, kind, 4000, Blue)?;
            rig.just_seen(&talk.first())?;
            let again = rig.to_backend(&talk.first(), Blue)?;
            let again = match kind.protocol {
                Protocol::Tcp => again.noting(Reason::SynRetransmit),
                Protocol::Udp => again,
            };
            rig.expect(&format!("{kind:?}, again"), &talk.first(), &again)?;
            ensure!(rig.flows.alone()? == 0, "{kind:?}: it lacks an entry");
            is_answered(rig, &talk, &format!("{kind:?}"))?;
        }
        Ok(())
    })
}

/// Two services with backends of their own.
fn two_services(lab: &Lab) -> Setup {
    let service = |vip: u8| {
        let other_port = |mut backend: SocketAddr| {
            backend.set_port(backend.port() + u16::from(vip));
            backend
        };
        let listeners = Kind::ALL.map(|kind| {
            let mut listener = kind.listener(lab, vip);
            for (backend, _) in &mut listener.backends.blue {
                *backend = other_port(*backend);
            }
            for (backend, _) in &mut listener.backends.green {
                *backend = other_port(*backend);
            }
            listener
        });
        listeners.to_vec()
    };
    Setup::new(vec![service(0), service(1)])
}

type Later = (&'static str, fn(&Lab) -> Setup, u16);

/// What an apply may make of the endpoints of flows that it finds unanswered, and how many applies after it they
/// are still to be answered.
const LATER: [Later; 3] = [
    ("another backend", with_other_backends, 3),
    ("the listener is removed", without_first, 3),
    ("a second listener for the backend", with_twins, 0),
];

fn with_other_backends(lab: &Lab) -> Setup {
    let mut setup = two_services(lab);
    for listener in &mut setup.services[0] {
        for (backend, _) in &mut listener.backends.blue {
            backend.set_port(9);
        }
    }
    setup
}

fn without_first(lab: &Lab) -> Setup {
    let mut setup = two_services(lab);
    setup.services.remove(0);
    setup.names.remove(0);
    setup
}

/// The VIP of the twins is the second service's, which goes.
fn with_twins(lab: &Lab) -> Setup {
    let mut setup = shared_backends(two_services(lab), lab);
    setup.services.truncate(1);
    setup.names.truncate(1);
    setup
}

fn apply(rig: &mut Rig, setup: &Setup) -> Result<()> {
    let config = setup.config(&rig.config.agent.pin_dir)?;
    let leaving = Leaving {
        others: Some(RemovalTerms {
            until: u32::MAX / 4,
            cut_at_end: None,
        }),
        ..Leaving::default()
    };
    let wanted = Wanted {
        config: &config,
        drained: &BTreeSet::new(),
        leaving: &leaving,
    };
    rig.path.apply(&wanted, &mut rig.scanner, |_, _| Ok(()))?;
    Ok(())
}

/// A flow of each kind, alone.
fn begin_alone(rig: &mut Rig) -> Result<Vec<Talk>> {
    let talks = Kind::ALL.map(|kind| Talk::begin(rig, kind, 4000, Blue));
    let talks = talks.into_iter().collect::<Result<Vec<_>>>()?;
    let alone = rig.flows.alone()?;
    ensure!(alone == talks.len(), "{alone} have begun alone");
    Ok(talks)
}

#[test]
fn g2_a_flow_that_began_alone_is_answered_whatever_was_applied_since() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for (what, later, more) in LATER {
        let lab = Lab::builder().build()?;
        Rig::with(&lab, &two_services(&lab), |rig| {
            let talks = begin_alone(rig)?;
            let mut setup = later(&lab);
            apply(rig, &setup)?;
            for number in 0..more {
                // Something else changes.
                let listener = setup.services.last_mut().and_then(|it| it.first_mut());
                let listener = listener.context("a listener")?;
                listener.backends.green[0].0.set_port(20_000 + number);
                apply(rig, &setup)?;
            }
            for talk in talks {
                is_answered(rig, &talk, &format!("{what}, {:?}", talk.kind))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_flow_that_began_alone_keeps_its_replies_when_another_listener_gets_its_backend() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &two_services(&lab), |rig| {
        let talks = begin_alone(rig)?;
        apply(rig, &with_twins(&lab))?;
        for talk in talks {
            let second = first(talk.kind, talk.client, talk.kind.vip(&lab, 1));
            let taken = Expected::untouched(Reason::ReplyTupleTaken);
            rig.expect("the same client port", &second, &taken)?;
            is_answered(rig, &talk, &format!("{:?}", talk.kind))?;
        }
        Ok(())
    })
}

#[test]
fn a_previews_replies_are_told_from_those_of_the_listener_that_shares_its_backends() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &with_previews(&lab), |rig| {
        for kind in Kind::ALL {
            rig.flip(Green)?;
            let shown = first(kind, rig.client(kind.family, 4000), kind.vip(&lab, 1));
            rig.expect("the preview", &shown, &rig.to_backend(&shown, Blue)?)?;
            rig.flip(Blue)?;
            let own = first(kind, shown.from, kind.vip(&lab, 0));
            let taken = Expected::untouched(Reason::ReplyTupleTaken);
            rig.expect("the same client port", &own, &taken)?;
        }
        Ok(())
    })
}

/// Forgets the client's entry of `older`, and begins the next flow of its 5-tuple, with another SYN.
pub(crate) fn begin_after(rig: &mut Rig, older: &Talk) -> Result<Packet> {
    rig.flows.forget(&older.first())?;
    let_the_clock_move()?;
    let next = Packet {
        seq: 70_000,
        ..older.first()
    };
    rig.expect("the next one", &next, &rig.to_backend(&next, Blue)?)?;
    Ok(next)
}

#[test]
fn what_the_lru_has_left_of_an_older_flow_does_not_hide_the_next_ones_answer() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::TCP {
            let older = Talk::begin(rig, kind, 4000, Blue)?;
            rig.flows.complete(&older.first())?;
            let again = begin_after(rig, &older)?;
            let answer = Packet {
                ack: 70_001,
                ..older.answer()
            };
            let returned = rig.to_client(&answer, older.vip)?;
            rig.expect("its answer", &answer, &returned)?;
            assert_eq!(rig.flow(&again)?.state, FlowState::Answered, "{kind:?}");
        }
        rig.expect_flows("nothing else is there", Kind::TCP.len())
    })
}

#[test]
fn endpoints_that_nobody_uses_any_more_take_no_room_from_those_of_the_next_apply() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    // Those that are configured, and as many that take their place.
    setup.limits.backends = 16;
    Rig::with(&lab, &setup.clone(), |rig| {
        for port in 20_000..20_008 {
            for listener in &mut setup.services[0] {
                listener.backends.blue[0].0.set_port(port);
                listener.backends.green[0].0.set_port(port);
            }
            apply(rig, &setup).with_context(|| format!("to port {port}"))?;
        }
        Ok(())
    })
}
