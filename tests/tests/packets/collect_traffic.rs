//! Collecting beside traffic: packets do not wait for scans, and what scans count is right.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use switcher_common::service::Color;
use switcher_tests::bpf::between_bpf_calls;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{Action, Runner};

use crate::collect::{MANY, setup, told};
use crate::crowd::Crowd;
use crate::packet::{ACK, Packet, RST, SYN};
use crate::rig::Rig;
use crate::setup::Kind;

#[test]
fn packets_go_on_while_a_scan_runs_on_their_own_cpu() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        Crowd::new(0, MANY).fill(rig, Family::V4, "ESTABLISHED")?;
        let traffic = Traffic::new(rig)?;
        let frame = traffic.syn(0)?.bytes()?;
        let cpu = only_one_cpu()?;
        let (is_scanning, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let scanner = &mut rig.scanner;
        thread::scope(|scope| -> Result<()> {
            let packets = scope.spawn(|| -> Result<u32> {
                sched_setaffinity(None, &cpu)?;
                let mut during = 0;
                while !is_over.load(Ordering::SeqCst) {
                    let began_in_scan = is_scanning.load(Ordering::SeqCst);
                    let run = traffic.runner.run(&frame, traffic.ingress)?;
                    ensure!(run.action == Action::Redirect, "{:?}", run.action);
                    if began_in_scan && is_scanning.load(Ordering::SeqCst) {
                        during += 1;
                    }
                }
                Ok(during)
            });
            let mut scans = || -> Result<()> {
                sched_setaffinity(None, &cpu)?;
                for _ in 0..3 {
                    is_scanning.store(true, Ordering::SeqCst);
                    let scan = scanner.scan(2, true, |_| {});
                    is_scanning.store(false, Ordering::SeqCst);
                    told("beside packets", &scan?)?;
                }
                Ok(())
            };
            let end = scans();
            is_over.store(true, Ordering::SeqCst);
            let during = packets.join().map_err(|_| anyhow!("see above"))??;
            end?;
            // Scans that packets had to wait for would let none through, or one each.
            ensure!(during >= 100, "{during} packets during three scans");
            Ok(())
        })
    })
}

/// The first CPU that this process may run on.
fn only_one_cpu() -> Result<CpuSet> {
    let all = sched_getaffinity(None)?;
    let cpu = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(cpu.context("no CPU to run on")?);
    Ok(one)
}

/// Connections of the first client, with handles of their own.
struct Traffic {
    runner: Runner,
    client: SocketAddr,
    vip: SocketAddr,
    backend: SocketAddr,
    ingress: u32,
    /// Connections: `[begun, established, ending, ended]`.
    counts: [AtomicU32; 4],
}

impl Traffic {
    fn new(rig: &mut Rig) -> Result<Self> {
        let kind = Kind::TCP[0];
        Ok(Self {
            runner: rig.path.runner()?,
            client: rig.client(Family::V4, 0),
            vip: rig.vip(kind),
            backend: rig.backend(kind, Color::Blue),
            ingress: 0,
            counts: Default::default(),
        })
    }

    /// The SYN of connection `number`. Ports come again, with other sequence numbers.
    fn syn(&self, number: u32) -> Result<Packet> {
        const PORTS: u32 = 60_000;
        let port = u16::try_from(1_024 + number % PORTS)?;
        let client = SocketAddr::new(self.client.ip(), port);
        let seq = 1_000 + number / PORTS * 1_000_000;
        Ok(Packet::tcp(client, self.vip, SYN, seq, 0))
    }

    fn send(&self, packet: &Packet) -> Result<()> {
        let run = self.runner.run(&packet.bytes()?, self.ingress)?;
        ensure!(
            run.action == Action::Redirect,
            "{packet:?}: {:?}",
            run.action
        );
        Ok(())
    }

    fn count(&self, what: usize) {
        self.counts[what].fetch_add(1, Ordering::SeqCst);
    }

    fn counted(&self) -> [i64; 4] {
        self.counts
            .each_ref()
            .map(|count| i64::from(count.load(Ordering::SeqCst)))
    }

    fn open(&self, number: u32) -> Result<()> {
        self.count(0);
        self.open_half(number)?;
        self.acknowledge(number)?;
        self.count(1);
        Ok(())
    }

    /// A SYN, and its answer.
    fn open_half(&self, number: u32) -> Result<()> {
        let syn = self.syn(number)?;
        let next = syn.seq + 1;
        self.send(&syn)?;
        self.send(&Packet::tcp(self.backend, syn.from, SYN | ACK, 9_000, next))
    }

    /// The ACK that establishes the flow.
    fn acknowledge(&self, number: u32) -> Result<()> {
        let syn = self.syn(number)?;
        self.send(&Packet::tcp(syn.from, self.vip, ACK, syn.seq + 1, 9_001))
    }

    fn end(&self, number: u32) -> Result<()> {
        let syn = self.syn(number)?;
        self.count(2);
        self.send(&Packet::tcp(syn.from, self.vip, RST, syn.seq + 1, 0))?;
        self.count(3);
        Ok(())
    }
}

/// Connections begin and end all the time; a hundred are open at any time.
fn come_and_go(traffic: &Traffic, is_over: &AtomicBool) -> Result<()> {
    const OPEN: u32 = 100;
    (0..OPEN).try_for_each(|number| traffic.open(number))?;
    for number in 0.. {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        traffic.end(number)?;
        traffic.open(number + OPEN)?;
    }
    Ok(())
}

#[test]
fn a_count_under_traffic_is_off_by_no_more_than_began_or_ended_meanwhile() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        const STILL: u32 = 100_000;
        Crowd::new(0, STILL).fill(rig, Family::V4, "ESTABLISHED")?;
        let traffic = Traffic::new(rig)?;
        let is_over = AtomicBool::new(false);
        let scanner = &mut rig.scanner;
        let changes = thread::scope(|scope| -> Result<i64> {
            let beside = scope.spawn(|| come_and_go(&traffic, &is_over));
            let mut scans = || -> Result<i64> {
                let mut changes = 0;
                for _ in 0..20 {
                    let [began, established, ending, ended] = traffic.counted();
                    let scan = scanner.scan(1, true, |_| {})?;
                    let after = traffic.counted();
                    // What certainly was in flight at the beginning, and what may have been.
                    let least = i64::from(STILL) + established - ending;
                    let most = i64::from(STILL) + began - ended;
                    let (new, gone) = (after[0] - established, after[2] - ended);
                    let counted = i64::try_from(scan.in_flight(1).blue)?;
                    ensure!(
                        (least - gone..=most + new).contains(&counted),
                        "{counted} counted; {least} to {most} at the beginning, {new} began and {gone} ended meanwhile"
                    );
                    changes += new + gone;
                }
                Ok(changes)
            };
            let changes = scans();
            is_over.store(true, Ordering::SeqCst);
            beside.join().map_err(|_| anyhow!("see above"))??;
            changes
        })?;
        ensure!(
            changes >= 100,
            "only {changes} connections began or ended during scans"
        );
        // At rest again: exactly those that are open.
        let [_, established, _, ended] = traffic.counted();
        let scan = rig.scanner.scan(1, true, |_| {})?;
        told("after traffic", &scan)?;
        let open = i64::from(STILL) + established - ended;
        ensure!(
            i64::try_from(scan.in_flight(1).blue)? == open,
            "{open} are open: {scan:?}"
        );
        Ok(())
    })
}

/// A scan visits the unanswered first: what is established after that is in both tables for it.
#[test]
fn flows_that_are_established_between_the_tables_of_a_scan_are_counted_once() -> Result<()> {
    const FLOWS: u32 = 50;
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        let traffic = Traffic::new(rig)?;
        for number in 0..FLOWS {
            traffic.open_half(number)?;
        }
        for round in 0..3 {
            let scanner = &mut rig.scanner;
            let mut is_open = 0;
            let (scan, calls) = between_bpf_calls(
                || Ok(scanner.scan(1, true, |_| {})?),
                |call| {
                    // A few before each call: so some move before, between and after the tables.
                    if round == 0 && is_open < FLOWS && call % 2 == 0 {
                        for number in is_open..FLOWS.min(is_open + 5) {
                            traffic.acknowledge(number)?;
                        }
                        is_open += 5;
                    }
                    Ok(())
                },
            )?;
            ensure!(calls > 10, "a scan of {calls} calls: were they seen?");
            ensure!(
                scan.in_flight(1).blue == u64::from(FLOWS),
                "round {round}: {scan:?}"
            );
            ensure!(round > 0 || is_open >= FLOWS / 2, "{is_open} were opened");
        }
        Ok(())
    })
}
