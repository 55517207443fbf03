//! Paused listeners: what is dropped, and what goes on.

use anyhow::{Result, ensure};
use switcher_common::clock::{has_come, ticks_from_ns};
use switcher_common::cut::Hold;
use switcher_common::reason::Reason;
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{HeldListeners, Orders, Place};

use crate::packet::{ACK, PSH};
use crate::rig::{Expected, Rig, first};
use crate::setup::Kind;
use crate::talk::Talk;

/// The service of the plain setup.
const SERVICE: u16 = 1;

fn now() -> Result<u32> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Ok(ticks_from_ns(u64::try_from(
        now.tv_sec * 1_000_000_000 + now.tv_nsec,
    )?))
}

/// Pauses service 1, or one listener of it, for so many ticks.
fn pause(rig: &mut Rig, listener: Option<Kind>, hold: Hold, ticks: u32) -> Result<u32> {
    let until = now()?.wrapping_add(ticks);
    let pause = HeldListeners {
        service: SERVICE,
        listener: listener.map(|kind| Place {
            vip: rig.vip(kind),
            protocol: kind.protocol,
        }),
        hold,
        until,
    };
    rig.path.set_orders(Orders {
        pauses: vec![pause],
        ..Orders::default()
    })?;
    Ok(until)
}

fn resume(rig: &mut Rig) -> Result<()> {
    Ok(rig.path.set_orders(Orders::default())?)
}

fn dropped() -> Expected {
    Expected::untouched(Reason::Paused)
}

#[test]
fn a_pause_holds_what_begins_and_what_is_there_goes_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut open = Talk::open(rig, kind, 4_000, Color::Blue)?;
            pause(rig, None, Hold::Fresh, 20_000)?;
            let packet = first(kind, rig.client(kind.family, 4_001), rig.vip(kind));
            rig.expect("what begins a flow", &packet, &dropped())?;
            ensure!(
                !rig.flows.has_entry(&packet)?,
                "and nothing of it is recorded"
            );
            open.goes_on(rig, "during the pause")?;
            resume(rig)?;
            Talk::open(rig, kind, 4_001, Color::Blue)?.goes_on(rig, "after the pause")?;
        }
        Ok(())
    })
}

#[test]
fn a_pause_of_one_listener_is_its_own() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for paused in Kind::ALL {
            pause(rig, Some(paused), Hold::Fresh, 20_000)?;
            for (port, kind) in (4_000..).zip(Kind::ALL) {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
                if kind == paused {
                    rig.expect("of the paused listener", &packet, &dropped())?;
                } else {
                    let sent = rig.to_backend(&packet, Color::Blue)?;
                    rig.expect("of another listener", &packet, &sent)?;
                }
            }
            resume(rig)?;
            for (port, kind) in (4_000..).zip(Kind::ALL) {
                let packet = first(kind, rig.client(kind.family, port), rig.vip(kind));
                if kind != paused {
                    rig.flows.lose(&packet)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_hard_pause_holds_both_directions_and_forgets_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let mut talk = Talk::open(rig, kind, 4_000, Color::Blue)?;
            pause(rig, None, Hold::All, 20_000)?;
            for packet in [talk.of_client(ACK | PSH), talk.of_backend(ACK | PSH)] {
                rig.expect("of a flow", &packet, &dropped())?;
            }
            resume(rig)?;
            talk.goes_on(rig, "after the pause")?;
        }
        Ok(())
    })
}

#[test]
fn g4_the_program_ends_a_pause_by_itself() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        for kind in Kind::ALL {
            let until = pause(rig, None, Hold::All, 60)?;
            let packet = first(kind, rig.client(kind.family, 4_000), rig.vip(kind));
            rig.expect("during the pause", &packet, &dropped())?;
            // The program's clock moves every few milliseconds.
            let passed = until.wrapping_add(25);
            while !has_come(passed, now()?) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Talk::open(rig, kind, 4_000, Color::Blue)?.goes_on(rig, "after its end")?;
        }
        Ok(())
    })
}
