//! What the program reports of backends, and that established connections make it report nothing.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use switcher_common::rate::Capped;
use switcher_common::reason::Reason;
use switcher_common::report::{RESET_BURST, Seen};
use switcher_common::service::Color;
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{Reported, Reports};

use crate::packet::{ACK, Packet, RST};
use crate::rig::Rig;
use crate::setup::Kind;
use crate::talk::{BACKEND_SEQ, CLIENT_SEQ, Talk};

/// What has been reported since it was asked last.
fn taken(reports: &mut Reports) -> Vec<Reported> {
    let mut all = Vec::new();
    reports.take(usize::MAX, |it| all.push(it));
    all
}

/// The one report, about `talk`.
fn only(reports: &mut Reports, talk: &Talk, seen: Seen) -> Result<Reported> {
    let all = taken(reports);
    let [report] = &all[..] else {
        anyhow::bail!("one report of {seen:?} expected: {all:?}");
    };
    let found = (report.seen, report.endpoint, report.client);
    let expected = (seen, talk.backend, talk.client.ip());
    ensure!(
        found == expected && report.service == "service1",
        "{report:?}"
    );
    Ok(report.clone())
}

fn refusal(talk: &Talk) -> Packet {
    Packet::tcp(talk.backend, talk.client, RST | ACK, 0, CLIENT_SEQ + 1)
}

/// The backend, the only one, refuses.
fn refuse(rig: &mut Rig, talk: &Talk, notes: &[Reason]) -> Result<()> {
    let told = rig.to_client(&refusal(talk), talk.vip)?;
    let told = notes.iter().fold(told, |it, note| it.noting(*note));
    rig.expect("the refusal", &refusal(talk), &told)
}

#[test]
fn refused_and_unanswered_syns_are_reported_with_who_answered_before() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut reports = rig.path.reports()?;
        for kind in Kind::TCP {
            let first = Talk::begin(rig, kind, 4_000, Color::Blue)?;
            refuse(rig, &first, &[Reason::SynRefused])?;
            let report = only(&mut reports, &first, Seen::Refused)?;
            ensure!(report.answered.is_none(), "nobody was: {report:?}");
            Talk::open(rig, kind, 4_001, Color::Blue)?;
            let silent = Talk::begin(rig, kind, 4_002, Color::Blue)?;
            rig.flows.age(&silent.first(), 1_000)?;
            let again = rig.to_backend(&silent.first(), Color::Blue)?;
            let again = again
                .noting(Reason::SynRetransmit)
                .noting(Reason::SynUnanswered);
            rig.expect("the SYN again", &silent.first(), &again)?;
            let report = only(&mut reports, &silent, Seen::Unanswered)?;
            ensure!(
                report.answered.is_some_and(|it| it <= report.tick),
                "{report:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_burst_of_resets_is_reported_once() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut reports = rig.path.reports()?;
        for kind in Kind::TCP {
            // So many at once that a window has a burst wherever it begins.
            let talks = (4_000..4_064).map(|port| Talk::open(rig, kind, port, Color::Blue));
            let talks: Vec<Talk> = talks.collect::<Result<_>>()?;
            let few = usize::try_from(RESET_BURST)? - 1;
            let rst = |it: &Talk| Packet::tcp(it.backend, it.client, RST, BACKEND_SEQ + 1, 0);
            for talk in &talks[..few] {
                rig.run(&rst(talk).bytes()?)?;
            }
            ensure!(taken(&mut reports).is_empty(), "{few} resets are no burst");
            for talk in &talks[few..] {
                rig.run(&rst(talk).bytes()?)?;
            }
            let all = taken(&mut reports);
            let is_burst =
                |it: &Reported| it.seen == Seen::Resets && it.endpoint == talks[0].backend;
            ensure!(
                !all.is_empty() && all.len() < 4 && all.iter().all(is_burst),
                "{all:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn what_clients_and_established_connections_do_is_reported_of_no_backend() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut reports = rig.path.reports()?;
        for kind in Kind::TCP {
            let mut talk = Talk::open(rig, kind, 4_000, Color::Blue)?;
            for _ in 0..20 {
                talk.goes_on(rig, "in peace")?;
            }
            // Forged: nobody who is not the backend knows the numbers.
            for seq in 0..20 {
                let forged = Packet::tcp(talk.backend, talk.client, RST, seq, 0);
                rig.expect("forged", &forged, &rig.to_client(&forged, talk.vip)?)?;
            }
            for port in 4_100..4_120 {
                let mut talk = Talk::open(rig, kind, port, Color::Blue)?;
                let rst = talk.of_client(RST);
                talk.send(rig, "the client resets", &rst, &[Reason::Demoted])?;
            }
            // An answer to what is no SYN says nothing of who accepts connections.
            let client: SocketAddr = rig.client(kind.family, 4_200);
            let stray = Packet::tcp(client, rig.vip(kind), 0x01, CLIENT_SEQ, 0);
            let sent = rig
                .to_backend(&stray, Color::Blue)?
                .noting(Reason::Unpinned);
            rig.expect("a stray FIN", &stray, &sent)?;
            let answer = Packet::tcp(talk.backend, client, RST | ACK, 0, CLIENT_SEQ + 1);
            rig.expect("its RST", &answer, &rig.to_client(&answer, talk.vip)?)?;
        }
        let all = taken(&mut reports);
        ensure!(all.is_empty(), "{all:?}");
        Ok(())
    })
}

#[test]
fn what_is_too_much_to_report_is_counted() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let mut reports = rig.path.reports()?;
        let path = rig.config.agent.pin_dir.join("maps/RATE_BUDGETS");
        let mut budgets: Array<_, u32> =
            Array::try_from(Map::from_map_data(MapData::from_pin(&path)?)?)?;
        for kind in Kind::TCP {
            for (budget, notes) in [
                (0, &[Reason::SynRefused, Reason::ReportLost][..]),
                (1_000, &[Reason::SynRefused]),
            ] {
                budgets.set(Capped::Report as u32, budget, 0)?;
                let port = 4_000 + u16::try_from(budget)?;
                let talk = Talk::begin(rig, kind, port, Color::Blue)?;
                refuse(rig, &talk, notes)?;
                ensure!(taken(&mut reports).len() == usize::from(budget > 0));
            }
        }
        // Reports that nobody reads, for as long as it takes: a backend has its share of a CPU's.
        let talk = Talk::begin(rig, Kind::TCP[0], 6_000, Color::Blue)?;
        let mut lost = 0;
        for _ in 0..1_000 {
            rig.flows.lose(&talk.first())?;
            rig.run(&talk.first().bytes()?)?;
            let (_, counted) = rig.run_counted(&refusal(&talk).bytes()?)?;
            lost += counted
                .iter()
                .filter(|(it, _)| *it == Reason::ReportLost)
                .count();
        }
        ensure!(
            lost > 0,
            "1 000 reports of one backend in a row, and none was lost"
        );
        Ok(())
    })
}
