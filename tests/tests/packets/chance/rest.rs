//! Second chance beside flips, previews, drained backends, orders and UDP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use switcher_common::cut::{Action, CutOrder};
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{DrainedBackend, Leaving, Orders, Wanted};

use super::{Attempt, PORT, forget_what_was_heard, setup};
use crate::cut::{let_the_clock_move, tick};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Setup};

#[test]
fn g8_a_flow_keeps_its_color_across_a_flip_between_its_tries() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [3, 3]), |rig| {
        for kind in Kind::TCP {
            rig.flip(Color::Blue)?;
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            for color in [Color::Green, Color::Blue] {
                rig.flip(color)?;
                attempt.refused(rig)?;
                attempt.moves(rig)?;
                ensure!(attempt.color == Color::Blue, "moved to {:?}", attempt.color);
            }
            attempt.succeeds(rig)?;
            forget_what_was_heard(rig)?;
        }
        let green = rig.counters.traffic(1, Color::Green)?;
        assert_eq!((green.new_flows, green.packets), (0, 0));
        Ok(())
    })
}

#[test]
fn g8_a_flow_whose_color_has_no_other_backend_goes_to_the_active_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [1, 1]), |rig| {
        for kind in Kind::TCP {
            for refused in [true, false] {
                rig.flip(Color::Blue)?;
                let port = PORT + u16::from(refused);
                let mut attempt = Attempt::begin(rig, kind, port, Color::Blue)?;
                rig.flip(Color::Green)?;
                if refused {
                    attempt.refused(rig)?;
                } else {
                    attempt.wait(rig)?;
                }
                attempt.moves(rig)?;
                ensure!(attempt.color == Color::Green, "still on blue");
                attempt.succeeds(rig)?;
                forget_what_was_heard(rig)?;
            }
        }
        let [blue, green] = [Color::Blue, Color::Green].map(|it| rig.counters.traffic(1, it));
        let (blue, green) = (blue?, green?);
        // It ends on one color and begins on the other: each counts it once.
        let of_blue = (blue.new_flows, blue.moved_flows, blue.finished_flows);
        assert_eq!(of_blue, (4, 4, 0));
        let of_green = (green.new_flows, green.moved_flows, green.finished_flows);
        assert_eq!(of_green, (4, 0, 0));
        Ok(())
    })
}

#[test]
fn previews_have_second_chances_within_the_standby() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = setup(&lab, [2, 2]);
    for listener in &mut setup.services[0] {
        listener.preview = true;
    }
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Green)?;
            attempt.refused(rig)?;
            attempt.moves(rig)?;
            ensure!(attempt.color == Color::Green && rig.flow(&attempt.syn())?.preview);
            attempt.succeeds(rig)?;
            forget_what_was_heard(rig)?;
        }
        Ok(())
    })
}

#[test]
fn a_flow_of_a_backend_that_has_left_the_table_goes_to_one_that_is_there() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 1]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let drained = BTreeSet::from([DrainedBackend {
                service: rig.config.services[0].name.clone(),
                endpoint: attempt.backend,
                list: None,
            }]);
            for drained in [drained, BTreeSet::new()] {
                let wanted = Wanted {
                    config: &rig.config,
                    drained: &drained,
                    leaving: Leaving::AT_ONCE,
                };
                rig.path.apply_uncounted(&wanted)?;
                if drained.is_empty() {
                    attempt.succeeds(rig)?;
                } else {
                    attempt.refused(rig)?;
                    attempt.moves(rig)?;
                }
            }
            forget_what_was_heard(rig)?;
        }
        Ok(())
    })
}

/// Another connection with the backend of `attempt`.
fn of_same_backend(rig: &mut Rig, attempt: &Attempt) -> Result<Attempt> {
    for port in PORT + 1..PORT + 100 {
        let other = Attempt::begin(rig, attempt.kind, port, attempt.color)?;
        if other.backend == attempt.backend {
            return Ok(other);
        }
        rig.flows.lose(&other.syn())?;
    }
    anyhow::bail!("99 clients go elsewhere than to {}", attempt.backend)
}

#[test]
fn a_dead_backends_half_open_flows_are_not_reset_but_go_elsewhere() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 1]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let answered = of_same_backend(rig, &attempt)?;
            answered.succeeds(rig)?;
            let_the_clock_move()?;
            let order = CutOrder::new(Action::ResetAnswered, tick(0)?);
            rig.path.set_orders(Orders {
                backends: BTreeMap::from([((1, attempt.backend), order)]),
                ..Orders::default()
            })?;
            let_the_clock_move()?;
            let mut told = Vec::new();
            rig.scanner.scan(1, true, |cut| {
                told.push(SocketAddr::new(
                    cut.client.to_ip(),
                    u16::from_be(cut.client_port_be),
                ));
            })?;
            // Those of the other family are from before.
            told.retain(|it| it.is_ipv4() == attempt.client.is_ipv4());
            ensure!(told == [answered.client], "told of {told:?}");
            attempt.wait(rig)?;
            attempt.moves(rig)?;
            rig.path.set_orders(Orders::default())?;
            attempt.succeeds(rig)?;
        }
        Ok(())
    })
}

#[test]
fn udp_knows_no_second_chance() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let listener = |kind: Kind| {
        let mut listener = kind.listener(&lab, 0);
        let all = kind.backends(&lab, Color::Blue);
        let more = SocketAddr::new(all[0].ip(), all[0].port() + 1);
        listener.backends.blue.push((more, 1));
        listener
    };
    let setup = Setup::new(vec![Kind::UDP.map(listener).to_vec()]);
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::UDP {
            let datagram = first(kind, rig.client(kind.family, PORT), rig.vip(kind));
            rig.run(&datagram.bytes()?)?;
            let flow = rig.flow(&datagram)?;
            rig.flows.age(&datagram, 5_000)?;
            let sent = datagram.sent_to(flow.backend, rig.link("blue")?);
            rig.expect("once more", &datagram, &Expected::redirected(sent))?;
            assert_eq!(rig.flow(&datagram)?, flow, "{kind:?}");
        }
        let counts = rig.counters.verdicts()?;
        let moved = counts
            .iter()
            .find(|(reason, _)| *reason == Reason::SecondChance);
        ensure!(moved.is_none_or(|(_, count)| *count == 0), "{moved:?}");
        Ok(())
    })
}
