//! What applications get through each balancer: requests per second, latency, bulk throughput. Client, node and servers
//! share the processors, as in any lab on one machine.

use anyhow::{Context as _, Result};
use serde::Serialize;
use switcher_tests::lab::{Lab, LabChild};

use crate::{
    bed::{BULK_PORTS, Balancer, Bed, Offloads, WEB_PORTS, lab},
    bulk,
    http::{self, CONNECTIONS, HttpRun},
    plan::Plan,
    programs::Programs,
    session::First,
    spread::Spread,
    table::Table,
};

/// Everybody with the offloads that native XDP leaves, those of a ratio first; then those that need no XDP with the defaults.
const CASES: [(Balancer, Offloads); 7] = [
    (Balancer::Switcher, Offloads::Native),
    (Balancer::Nftables, Offloads::Native),
    (Balancer::Haproxy, Offloads::Native),
    (Balancer::None, Offloads::Native),
    (Balancer::Nftables, Offloads::Default),
    (Balancer::Haproxy, Offloads::Default),
    (Balancer::None, Offloads::Default),
];

/// So many of them are in a ratio.
const COMPARED: usize = 3;

/// All cases.
#[derive(Debug, Serialize)]
pub(crate) struct Applications {
    cases: Vec<Case>,
}

/// One balancer with some offloads.
#[derive(Debug, Serialize)]
struct Case {
    balancer: Balancer,
    offloads: Offloads,
    /// Connections that stay.
    keepalive: Http,
    /// A new connection for each request.
    close: Http,
    /// One stream, in gigabits per second.
    bulk_gbps: Spread,
}

#[derive(Debug, Serialize)]
struct Http {
    requests_per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
}

/// What is measured of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Keepalive,
    Close,
    Bulk,
}

impl Applications {
    /// Ours by that of `reference`, both with the offloads that native XDP leaves.
    pub(crate) fn ratio(&self, of: What, reference: Balancer) -> Option<f64> {
        let median = |balancer| {
            let mut cases = self.cases.iter();
            let case =
                cases.find(|it| it.balancer == balancer && it.offloads == Offloads::Native)?;
            Some(match of {
                What::Keepalive => case.keepalive.requests_per_second.median,
                What::Close => case.close.requests_per_second.median,
                What::Bulk => case.bulk_gbps.median,
            })
        };
        Some(median(Balancer::Switcher)? / median(reference)?)
    }

    /// For people.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let title = format!(
            "Applications: HTTP requests per second with {CONNECTIONS} connections, latency in ms, one TCP stream in Gbit/s; median [min, max]"
        );
        let mut table = Table::new(
            title,
            [
                "",
                "kept connections",
                "p50",
                "p99",
                "a new one each",
                "p50",
                "p99",
                "bulk",
            ],
        );
        for case in &self.cases {
            let name = match case.offloads {
                Offloads::Native => case.balancer.name().to_owned(),
                Offloads::Default => format!("{}, default offloads", case.balancer.name()),
            };
            let mut cells = vec![name];
            for it in [&case.keepalive, &case.close] {
                let Spread {
                    median, min, max, ..
                } = it.requests_per_second;
                cells.push(format!("{median:.0} [{min:.0}, {max:.0}]"));
                cells.push(format!("{:.2}", it.p50_ms.median));
                cells.push(format!("{:.2}", it.p99_ms.median));
            }
            let Spread {
                median, min, max, ..
            } = case.bulk_gbps;
            cells.push(format!("{median:.2} [{min:.2}, {max:.2}]"));
            table.row(cells);
        }
        vec![table]
    }
}

/// What was measured of a case so far.
#[derive(Default)]
struct Runs {
    keepalive: Vec<HttpRun>,
    close: Vec<HttpRun>,
    bulk: Vec<f64>,
}

impl Runs {
    fn add(
        &mut self,
        what: What,
        bed: &Bed<'_>,
        programs: &Programs,
        port: u16,
        effort: &Effort,
    ) -> Result<()> {
        let ask = |stays| http::ask(bed.lab, programs, bed.target(port), stays, effort.seconds);
        match what {
            What::Keepalive => self.keepalive.push(ask(true)?),
            What::Close => self.close.push(ask(false)?),
            What::Bulk => {
                let rate = bulk::send(bed, programs, port, effort.bulk_bytes)?;
                self.bulk.push(rate);
            }
        }
        Ok(())
    }

    fn case(&self, (balancer, offloads): (Balancer, Offloads)) -> Result<Case> {
        Ok(Case {
            balancer,
            offloads,
            keepalive: Http::of(&self.keepalive)?,
            close: Http::of(&self.close)?,
            bulk_gbps: Spread::of(&self.bulk).context("no run")?,
        })
    }
}

impl Http {
    fn of(runs: &[HttpRun]) -> Result<Self> {
        let spread = |of: fn(&HttpRun) -> f64| {
            let values: Vec<_> = runs.iter().map(of).collect();
            Spread::of(&values).context("no run")
        };
        Ok(Self {
            requests_per_second: spread(|it| it.requests_per_second)?,
            p50_ms: spread(|it| it.p50_ms)?,
            p99_ms: spread(|it| it.p99_ms)?,
        })
    }
}

/// How much is measured.
struct Effort {
    cases: &'static [(Balancer, Offloads)],
    /// Of connections that stay, new ones, and bulk.
    rounds: [u32; 3],
    /// A run of wrk, which knows no parts of a second.
    seconds: u32,
    /// A run of bulk data.
    bulk_bytes: u64,
}

const QUICK: Effort = Effort {
    cases: CASES.split_at(COMPARED).0,
    rounds: [3, 3, 5],
    seconds: 1,
    bulk_bytes: 150_000_000,
};

const FULL: Effort = Effort {
    cases: &CASES,
    rounds: [7, 7, 7],
    seconds: 2,
    bulk_bytes: 1_000_000_000,
};

/// Measures all cases, one after the other in each round.
pub(crate) fn measure(plan: &Plan) -> Result<Applications> {
    let _first = First::begin();
    let effort = if plan.quick { QUICK } else { FULL };
    let programs = Programs::find(plan, &["haproxy", "iperf3", "nft", "nginx", "wrk"])?;
    let labs: Vec<Lab> = effort
        .cases
        .iter()
        .map(|&(_, offloads)| lab(offloads))
        .collect::<Result<_>>()?;
    let mut beds: Vec<(Bed<'_>, LabChild)> = Vec::new();
    for (lab, &(balancer, offloads)) in labs.iter().zip(effort.cases) {
        let mut server = http::start_server(lab, &programs)?;
        let bed = Bed::start(lab, balancer, &programs)
            .with_context(|| format!("starting {} with {offloads:?} offloads", balancer.name()))?;
        bed.wait_until_ready(&mut server)?;
        beds.push((bed, server));
    }
    let mut all: Vec<Runs> = beds.iter().map(|_| Runs::default()).collect();
    let (mut web_ports, mut bulk_ports) = (WEB_PORTS, BULK_PORTS);
    let most = effort.rounds.into_iter().max().unwrap_or(0);
    for round in 0..most {
        for (what, rounds) in [What::Keepalive, What::Close, What::Bulk]
            .into_iter()
            .zip(effort.rounds)
        {
            if round >= rounds {
                continue;
            }
            let ports = match what {
                What::Bulk => &mut bulk_ports,
                _ => &mut web_ports,
            };
            let port = ports.next().context("no port is left for a run")?;
            for ((bed, _), runs) in beds.iter().zip(&mut all) {
                runs.add(what, bed, &programs, port, &effort)
                    .with_context(|| format!("through {}", bed.balancer.name()))?;
            }
        }
    }
    let cases = all.iter().zip(effort.cases);
    let cases = cases.map(|(runs, &case)| runs.case(case));
    Ok(Applications {
        cases: cases.collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(of: (Balancer, Offloads), rate: f64) -> Case {
        let run = HttpRun {
            requests_per_second: rate,
            p50_ms: 1.0,
            p99_ms: 2.0,
        };
        let runs = Runs {
            keepalive: vec![run],
            close: vec![HttpRun {
                requests_per_second: rate / 8.0,
                ..run
            }],
            bulk: vec![rate / 1e4],
        };
        runs.case(of).expect("a run of each")
    }

    #[test]
    fn ratios_are_of_the_same_offloads() {
        let applications = Applications {
            cases: vec![
                case((Balancer::Switcher, Offloads::Native), 60_000.0),
                case((Balancer::Nftables, Offloads::Native), 40_000.0),
                case((Balancer::Nftables, Offloads::Default), 90_000.0),
            ],
        };
        for what in [What::Keepalive, What::Close, What::Bulk] {
            assert_eq!(applications.ratio(what, Balancer::Nftables), Some(1.5));
            assert_eq!(applications.ratio(what, Balancer::Haproxy), None);
        }
        let text = applications.tables()[0].to_string();
        assert!(text.contains("nftables, default offloads"), "{text}");
    }
}
