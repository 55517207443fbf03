//! The result: every number, and what is wrong with it.

use std::{collections::BTreeMap, fs, thread};

use serde::Serialize;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Family;

use crate::{
    judge::{Evidence, FlipReport, NAMES, rounded},
    load::{Kind, Record},
    plan::{MIN_FLIPS, MIN_LONG_LIVED, MIN_NEW_FLOWS, MIN_REQUESTS, Plan, Service},
};

const HTTP: [Kind; 2] = [Kind::HttpNew, Kind::HttpKept];
const UDP: [Kind; 2] = [Kind::UdpShort, Kind::UdpKept];
const ALL: [Kind; 5] = [
    Kind::HttpNew,
    Kind::HttpKept,
    Kind::LongLived,
    Kind::UdpShort,
    Kind::UdpKept,
];
/// Errors in words that the report carries.
const ERRORS: usize = 10;

/// What the demo found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Enough happened, and nothing failed, broke or was lost.
    pub(crate) ok: bool,
    /// Ended by a signal; what follows is partial.
    pub(crate) interrupted: bool,
    /// Why it is not `ok`.
    pub(crate) problems: Vec<String>,
    /// HTTP requests.
    pub(crate) requests: u64,
    /// Requests and connection attempts that failed, of all services.
    pub(crate) failed: u64,
    /// Connections that were to outlive all flips.
    pub(crate) long_lived: usize,
    /// Messages that they carried.
    pub(crate) messages: u64,
    /// Connections and flows that ended unasked or changed their backend.
    pub(crate) broken: u64,
    /// Flips that were made.
    pub(crate) flips: usize,
    /// From a flip's start to the first answer over a new connection to the new color.
    pub(crate) first_new_ms: Vec<f64>,
    /// Connections and flows that began after a flip had returned, yet got the old color.
    pub(crate) late_old: usize,
    /// From a flip to the end of the last old HTTP connection.
    pub(crate) drain_ms: Vec<u64>,
    /// The same for UDP flows, their second of silence included.
    pub(crate) datagram_drain_ms: Vec<u64>,
    /// Connections on old, after new, for one client over all services.
    pub(crate) mixed: usize,
    /// HTTP connections.
    pub(crate) connections: u64,
    /// What a new HTTP connection and its first answer took, at the median ...
    pub(crate) new_connection_ms_median: Option<f64>,
    /// ... and for all but one of a hundred.
    pub(crate) new_connection_ms_p99: Option<f64>,
    /// UDP flows.
    pub(crate) udp_flows: u64,
    /// Numbered datagrams.
    pub(crate) udp_sent: u64,
    /// Those without an answer.
    pub(crate) udp_lost: u64,
    /// TCP segments that clients and backends had to send again.
    pub(crate) tcp_retrans_segs: u64,
    /// Packets that the lab's own links dropped.
    pub(crate) link_drops: u64,
    /// Packets by what the switcher did with them.
    pub(crate) verdicts: BTreeMap<String, u64>,
    /// Each flip.
    pub(crate) per_flip: Vec<FlipReport>,
    /// New flows of the whole run.
    pub(crate) per_family: BTreeMap<&'static str, KindReport>,
    /// First errors in words.
    pub(crate) errors: Vec<String>,
    /// How long the demo took.
    pub(crate) seconds: f64,
    /// Where it ran.
    pub(crate) machine: Machine,
}

/// One IP version and protocol.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct KindReport {
    pub(crate) new_flows_on_blue: u64,
    pub(crate) new_flows_on_green: u64,
    /// Requests, messages or datagrams that were answered.
    pub(crate) answered: u64,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpus: usize,
}

impl Report {
    /// Judges; `problems` are those that are known already.
    pub(crate) fn new(plan: Plan, evidence: &Evidence, problems: Vec<String>) -> Self {
        let per_flip = evidence.flip_reports();
        let drains = |service| {
            per_flip
                .iter()
                .filter_map(|it| it.drain_ms.get(&service).copied())
                .collect()
        };
        let took = evidence.new_connection_ms();
        let long_lived = evidence.records.iter().map(|it| it.stats.connections.len());
        let mut report = Self {
            ok: false,
            interrupted: evidence.interrupted,
            problems,
            requests: evidence.sum(&HTTP, |it| it.stats.requests),
            failed: evidence.sum(&ALL, |it| it.stats.failed),
            long_lived: long_lived.sum(),
            messages: evidence.sum(&[Kind::LongLived], |it| it.stats.answered),
            broken: evidence.sum(&ALL, |it| it.stats.broken),
            flips: evidence.flips.len(),
            first_new_ms: per_flip.iter().filter_map(|it| it.first_new_ms).collect(),
            late_old: evidence.late_old(),
            drain_ms: drains(Service::Web),
            datagram_drain_ms: drains(Service::Datagram),
            mixed: evidence.mixed(),
            connections: evidence.sum(&HTTP, fresh),
            new_connection_ms_median: share(&took, 50),
            new_connection_ms_p99: share(&took, 99),
            udp_flows: evidence.sum(&UDP, fresh),
            udp_sent: evidence.sum(&UDP, |it| it.stats.requests),
            udp_lost: evidence.sum(&UDP, |it| it.stats.lost),
            tcp_retrans_segs: evidence.retransmitted,
            link_drops: evidence.link_drops,
            verdicts: evidence.verdicts.clone(),
            per_family: per_family(evidence),
            per_flip,
            errors: errors(evidence),
            seconds: 0.0,
            machine: machine(),
        };
        report.judge(plan, evidence);
        report
    }

    fn judge(&mut self, plan: Plan, evidence: &Evidence) {
        let wrong = self.what_is_wrong(evidence);
        self.problems.extend(wrong);
        if !self.interrupted {
            let missing = self.what_is_missing(plan, evidence);
            self.problems.extend(missing);
        }
        self.ok = self.problems.is_empty() && !self.interrupted;
    }

    fn what_is_wrong(&self, evidence: &Evidence) -> Vec<String> {
        let clients = self.what_clients_saw(evidence);
        let mut wrong: Vec<String> = clients
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if self.udp_lost + self.tcp_retrans_segs > 0 && self.link_drops > 0 {
            let drops = self.link_drops;
            wrong.push(format!(
                "{drops} packets were dropped on the lab's own links: is the machine too busy?"
            ));
        }
        wrong.extend(self.verdicts.iter().filter_map(unwanted));
        wrong
    }

    fn what_clients_saw(&self, evidence: &Evidence) -> [(u64, &'static str); 8] {
        let counted = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let silent = if self.interrupted {
            0
        } else {
            evidence.silent()
        };
        [
            (self.failed, "requests or connection attempts failed"),
            (
                self.broken,
                "connections or flows broke or changed their backend",
            ),
            (self.udp_lost, "datagrams were lost"),
            (
                self.tcp_retrans_segs,
                "TCP segments had to be sent again: packets were lost",
            ),
            (
                counted(self.late_old),
                "connections began after a flip had returned, yet got the old color",
            ),
            (
                counted(self.mixed),
                "connections got the old color after their client had seen the new one",
            ),
            (
                counted(silent),
                "long-lived connections carried nothing after the last flip",
            ),
            (
                evidence.sum(&ALL, |it| it.stats.fresh_forgotten),
                "connections could not be judged: the record is full",
            ),
        ]
    }

    fn what_is_missing(&self, plan: Plan, evidence: &Evidence) -> Vec<String> {
        let flips = usize::try_from(plan.flips.max(MIN_FLIPS)).unwrap_or(usize::MAX);
        let mut missing = Vec::new();
        if self.flips < flips {
            missing.push(format!(
                "{} flips were made, {flips} were to be",
                self.flips
            ));
        }
        if self.requests < MIN_REQUESTS {
            missing.push(format!(
                "{} requests were made, at least {MIN_REQUESTS} must be",
                self.requests
            ));
        }
        if self.long_lived < MIN_LONG_LIVED {
            missing.push(format!(
                "{} long-lived connections, at least {MIN_LONG_LIVED} must be",
                self.long_lived
            ));
        }
        if self.first_new_ms.len() < self.flips {
            missing.push("a flip without any new connection on the new color".to_owned());
        }
        if let Some(first) = evidence.flips.first() {
            let before = evidence.new_flows(evidence.started, first.flip.started, Color::Blue);
            few("before the first flip", &before, &mut missing);
        }
        for (number, flip) in (1..).zip(&self.per_flip) {
            few(
                &format!("after flip {number} to {}", flip.to),
                &flip.new_flows,
                &mut missing,
            );
        }
        missing
    }
}

/// What a verdict of the switcher means that must not occur here.
fn unwanted((verdict, count): (&String, &u64)) -> Option<String> {
    match verdict.split_once(':')? {
        ("drop", reason) => Some(format!(
            "{count} packets were dropped by the switcher: {reason}"
        )),
        ("note", "unpinned") => Some(format!("{count} packets of running connections met no pin")),
        _ => None,
    }
}

/// Notes what had too few new flows.
fn few(when: &str, flows: &BTreeMap<&'static str, u64>, missing: &mut Vec<String>) {
    for (name, count) in flows.iter().filter(|(_, count)| **count < MIN_NEW_FLOWS) {
        missing.push(format!(
            "{count} new flows of {name} {when}, at least {MIN_NEW_FLOWS} must be"
        ));
    }
}

/// What `percent` of the values, which are in order, do not exceed.
fn share(values: &[f64], percent: usize) -> Option<f64> {
    values
        .get(values.len() * percent / 100)
        .copied()
        .map(rounded)
}

fn fresh(record: &Record) -> u64 {
    record.stats.fresh.len() as u64
}

fn per_family(evidence: &Evidence) -> BTreeMap<&'static str, KindReport> {
    let whole = |color| evidence.new_flows(evidence.started, std::time::Instant::now(), color);
    let (blue, green) = (whole(Color::Blue), whole(Color::Green));
    let of = |(family, protocol, name): (Family, Protocol, &'static str)| {
        let udp = protocol == Protocol::Udp;
        let records = evidence
            .records
            .iter()
            .filter(|it| it.source.family == family && UDP.contains(&it.source.kind) == udp);
        let report = KindReport {
            new_flows_on_blue: blue.get(name).copied().unwrap_or(0),
            new_flows_on_green: green.get(name).copied().unwrap_or(0),
            answered: records.map(|it| it.stats.answered).sum(),
        };
        (name, report)
    };
    NAMES.map(of).into()
}

fn errors(evidence: &Evidence) -> Vec<String> {
    let all = evidence.records.iter().flat_map(|it| &it.stats.samples);
    all.take(ERRORS).cloned().collect()
}

fn machine() -> Machine {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        kernel: kernel.trim_end().to_owned(),
        cpus: thread::available_parallelism().map_or(0, usize::from),
    }
}
