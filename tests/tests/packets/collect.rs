//! Collecting: what a scan counts and removes in large tables at rest.

use std::io::Write as _;

use anyhow::{Result, ensure};
use switcher_common::clock::ms_from_ticks;
use switcher_common::flow::FlowState::{Answered, Closing, Established, Refused, Unanswered};
use switcher_common::service::Color::{Blue, Green};
use switcher_common::service::{PerColor, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::Scan;

use crate::crowd::{Crowd, now_ticks};
use crate::rig::Rig;
use crate::setup::{Kind, Setup};

const DAY_MS: u64 = 86_400_000;

/// More elements than a kernel's iterator visits in a read that nothing ends, which is a million: a flow has two.
pub(crate) const MANY: u32 = 510_000;
const FEW: u32 = 10_000;

/// Two services with a listener of each kind, and tables for many flows.
pub(crate) fn setup(lab: &Lab) -> Setup {
    let service = |vip| Kind::ALL.map(|kind| kind.listener(lab, vip)).to_vec();
    let mut setup = Setup::new(vec![service(0), service(1)]);
    setup.limits.flows = 600_000;
    setup.limits.unanswered = 60_000;
    setup
}

/// Past the capture of the test runner, so that a log shows it.
pub(crate) fn told(what: &str, scan: &Scan) -> Result<()> {
    writeln!(
        std::io::stdout().lock(),
        "collect: {what}, {} entries in {:?}",
        scan.established_entries + scan.unanswered_entries,
        scan.ended_at - scan.began_at
    )?;
    Ok(())
}

/// A crowd of its own, [`FEW`] unless it says otherwise.
fn crowd(number: u32, change: fn(&mut Crowd)) -> Crowd {
    let mut crowd = Crowd::new(number * 1_000_000, FEW);
    change(&mut crowd);
    crowd
}

#[test]
fn a_scan_of_more_than_a_million_entries_counts_each_flow_once() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let established = [
        (crowd(0, |crowd| crowd.flows = MANY), Family::V4),
        (crowd(1, |crowd| crowd.color = Green), Family::V4),
        (crowd(2, |crowd| crowd.service = 2), Family::V6),
        // Counted apart.
        (crowd(3, |crowd| crowd.preview = true), Family::V6),
        // Over.
        (crowd(4, |crowd| crowd.state = Closing), Family::V4),
    ];
    let unanswered = [
        (crowd(5, |crowd| crowd.state = Unanswered), Family::V4),
        (crowd(6, |crowd| crowd.state = Answered), Family::V6),
        // Over, and strays.
        (crowd(7, |crowd| crowd.state = Refused), Family::V4),
        (crowd(8, Crowd::stray), Family::V6),
    ];
    let (many, few) = (u64::from(MANY), u64::from(FEW));
    let first = PerColor {
        blue: many + 2 * few,
        green: few,
    };
    let second = PerColor {
        blue: few,
        green: 0,
    };
    Rig::with(&lab, &setup(&lab), |rig| {
        for (crowd, family) in &established {
            crowd.fill(rig, *family, "ESTABLISHED")?;
        }
        for (crowd, family) in &unanswered {
            crowd.fill(rig, *family, "UNANSWERED")?;
        }
        for remove_expired in [false, true] {
            let scan = rig.scanner.scan(2, remove_expired, |_| {})?;
            told("at rest", &scan)?;
            ensure!(scan.established_entries == 2 * (many + 4 * few), "{scan:?}");
            ensure!(scan.unanswered_entries == 2 * 4 * few, "{scan:?}");
            ensure!(scan.expired_flows == 0, "{scan:?}");
            ensure!(scan.in_flight(1) == first, "{scan:?}");
            ensure!(scan.in_flight(2) == second, "{scan:?}");
            ensure!(scan.preview_flows(1) == few, "{scan:?}");
            ensure!(scan.preview_flows(2) == 0, "{scan:?}");
            // As many as a reader without a program finds.
            let entries = scan.established_entries + scan.unanswered_entries;
            ensure!(rig.flows.entries() as u64 == entries, "{scan:?}");
        }
        Ok(())
    })
}

#[test]
fn flows_that_are_silent_for_too_long_leave_with_both_directions_and_others_stay() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        // The timeouts of the plain configuration: 7 500 s, and 10 s for what is over or unanswered.
        let day = 86_400_000;
        let (established, unanswered) = ("ESTABLISHED", "UNANSWERED");
        let rows = [
            (day, Established, Family::V4, established, true),
            (7_000_000, Established, Family::V4, established, false),
            (day, Established, Family::V6, established, true),
            (11_000, Closing, Family::V4, established, true),
            (11_000, Established, Family::V6, established, false),
            (11_000, Unanswered, Family::V4, unanswered, true),
            (11_000, Refused, Family::V6, unanswered, true),
            (-day, Answered, Family::V6, unanswered, false),
        ];
        let mut flows = [0; 2];
        for (number, (silent_ms, state, family, table, expires)) in (0..).zip(rows) {
            let crowd = Crowd {
                state,
                silent_ms,
                ..Crowd::new(number * 100_000, 20_000)
            };
            crowd.fill(rig, family, table)?;
            flows[usize::from(expires)] += u64::from(crowd.flows);
        }
        let [stays, expires] = flows;
        let only_counted = rig.scanner.scan(2, false, |_| {})?;
        ensure!(
            only_counted.expired_flows == 0,
            "asked to remove nothing: {only_counted:?}"
        );
        ensure!(
            rig.flows.entries() as u64 == 2 * (stays + expires),
            "nothing is removed"
        );
        let scan = rig.scanner.scan(2, true, |_| {})?;
        told("removing", &scan)?;
        // Where hardly anything stays, some are left to the next scan.
        let again = rig.scanner.scan(2, true, |_| {})?;
        ensure!(
            scan.expired_flows + again.expired_flows == expires,
            "{expires} expected: {scan:?}, {again:?}"
        );
        ensure!(again.expired_flows < expires / 50, "{again:?}");
        ensure!(
            rig.flows.entries() as u64 == 2 * stays,
            "both directions are gone"
        );
        ensure!(
            again.in_flight(1)
                == PerColor {
                    blue: stays,
                    green: 0
                },
            "{again:?}"
        );
        Ok(())
    })
}

#[test]
fn g10_flows_that_are_older_than_ticks_can_tell_are_kept_comparable() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        for (family, age_ms) in [(Family::V4, 20 * DAY_MS), (Family::V6, 12 * DAY_MS)] {
            let old = Crowd {
                age_ms,
                ..Crowd::new(0, FEW)
            };
            old.fill(rig, family, "ESTABLISHED")?;
        }
        let oldest = || -> Result<u64> { Ok(ms_from_ticks(rig.flows.oldest(now_ticks()?)?)) };
        ensure!(oldest()? / DAY_MS >= 20, "as they were filled in");
        rig.scanner.scan(2, true, |_| {})?;
        let days = oldest()? / DAY_MS;
        ensure!(days == 13, "the oldest is {days} days old after a scan");
        Ok(())
    })
}

#[test]
fn a_drains_short_silence_ends_udp_flows_of_its_color_but_none_of_previews() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        // Green drains: 5 s instead of 60.
        let service = rig.config.services[0].clone();
        rig.path.set_idle(1, &service, [60_000, 5_000])?;
        for (first, (color, preview, silent_ms, expires)) in (0..).zip([
            (Blue, false, 11_000, false),
            (Green, false, 11_000, true),
            (Green, true, 11_000, false),
            (Green, true, 61_000, true),
        ]) {
            let crowd = Crowd {
                color,
                preview,
                silent_ms,
                protocol: Protocol::Udp,
                ..Crowd::new(first * 100, 10)
            };
            for family in [Family::V4, Family::V6] {
                crowd.fill(rig, family, "ESTABLISHED")?;
                let scan = rig.scanner.scan(2, true, |_| {})?;
                let expected = if expires { 10 } else { 0 };
                ensure!(
                    scan.expired_flows == expected,
                    "{family:?}, {color:?}, preview: {preview}, {silent_ms} ms: {scan:?}"
                );
            }
        }
        Ok(())
    })
}
