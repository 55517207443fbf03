//! Flips under load: what a flip promises (G1, G2, G3), over fifty of them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    skip_unless_lab,
    traffic::{
        Client, Flip, HttpNew, KeepAlive, Load, LongLived, Stats, UdpFlows, count_fresh,
        first_new_ms, late_old, mixed, tcp_retrans_segs,
    },
};

const FLIPS: usize = 50;
/// New flows of each family and protocol on each color between two flips, at least.
const FRESH_BETWEEN_FLIPS: u64 = 100;
/// Connections of each family that outlive all flips.
const LONG_LIVED: usize = 20;
/// How long any step may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The traffic of one family, from a client host of its own.
struct Traffic {
    family: Family,
    /// Fresh flows: a connection per request, and short UDP flows.
    fresh: [Load; 2],
    keep_alive: Load,
    long_lived: Load,
}

impl Traffic {
    fn start(lab: &Lab, family: Family) -> Self {
        let host = match family {
            Family::V4 => lab.client(),
            Family::V6 => lab.client2(),
        };
        let client = Client::new(host);
        let [web, stream, datagram] = [0, 1, 2].map(|at| crate::services()[at].target(lab, family));
        Self {
            family,
            fresh: [
                client.http_new(web, HttpNew::per_second(300)),
                client.udp_flows(datagram, UdpFlows::per_second(300)),
            ],
            keep_alive: client.http_keepalive(web, KeepAlive::default()),
            long_lived: client.long_lived(
                stream,
                LongLived {
                    connections: LONG_LIVED,
                    ..LongLived::default()
                },
            ),
        }
    }

    /// Waits until each kind of fresh flow was made often enough since `flip` had returned.
    fn wait_for_fresh(&self, flip: Flip) -> Result<()> {
        for load in &self.fresh {
            load.wait_until(LIMIT, |stats| {
                let since = |fresh: &&_| began_after(fresh, flip.returned);
                let recent = stats.fresh.iter().rev().take(1_000).filter(since);
                recent.count() as u64 > FRESH_BETWEEN_FLIPS
            })?;
        }
        Ok(())
    }

    fn finish(self) -> Finished {
        Finished {
            family: self.family,
            fresh: self.fresh.map(Load::finish),
            keep_alive: self.keep_alive.finish(),
            long_lived: self.long_lived.finish(),
        }
    }
}

fn began_after(fresh: &switcher_tests::traffic::Fresh, at: Instant) -> bool {
    fresh.began >= at
}

/// What the traffic of one family came to.
struct Finished {
    family: Family,
    fresh: [Stats; 2],
    keep_alive: Stats,
    long_lived: Stats,
}

impl Finished {
    fn check(&self, flips: &[Flip]) -> Result<()> {
        let all = self
            .fresh
            .iter()
            .chain([&self.keep_alive, &self.long_lived]);
        for stats in all {
            ensure!(
                stats.is_clean(),
                "{:?}: {} failed, {} broken, {} lost: {:?}",
                self.family,
                stats.failed,
                stats.broken,
                stats.lost,
                stats.samples
            );
        }
        self.check_long_lived(flips)?;
        self.check_fresh(flips)
    }

    /// Each connection had one backend, and carried data after the last flip.
    fn check_long_lived(&self, flips: &[Flip]) -> Result<()> {
        let connections = &self.long_lived.connections;
        ensure!(
            connections.len() == LONG_LIVED,
            "{} connections",
            connections.len()
        );
        let last = flips.last().map(|flip| flip.returned);
        let alive = connections
            .iter()
            .filter(|it| it.broken.is_none() && it.last_answer > last);
        ensure!(
            alive.count() == LONG_LIVED,
            "{:?}: silent after the last flip",
            self.family
        );
        Ok(())
    }

    /// Between any two flips enough flows were fresh, and after a flip none of them was late.
    fn check_fresh(&self, flips: &[Flip]) -> Result<()> {
        for stats in &self.fresh {
            let late = late_old(&stats.fresh, flips);
            ensure!(
                late == 0,
                "{:?}: {late} fresh flows got the old color late",
                self.family
            );
            for pair in flips.windows(2) {
                let made = count_fresh(&stats.fresh, pair[0].returned, pair[1].started);
                let new: u64 = made
                    .iter()
                    .filter(|((.., color), _)| *color == pair[0].to)
                    .map(|(_, count)| count)
                    .sum();
                ensure!(
                    new >= FRESH_BETWEEN_FLIPS,
                    "{:?}: only {new} fresh flows",
                    self.family
                );
            }
        }
        Ok(())
    }
}

/// Fresh flows of one client to all services, and how many of them saw a mix.
fn mixes(finished: &Finished, flips: &[Flip]) -> usize {
    let all: Vec<_> = finished
        .fresh
        .iter()
        .flat_map(|stats| &stats.fresh)
        .collect();
    let until = |at: usize| flips.get(at + 1).map(|next| next.started);
    flips
        .iter()
        .enumerate()
        .map(|(at, flip)| mixed(all.iter().copied(), *flip, until(at)))
        .sum()
}

#[test]
fn fifty_flips_break_nothing_mix_nothing_and_leave_nothing_late() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let hosts = [lab.client(), lab.client2(), lab.blue(), lab.green()];
    let retransmits = || {
        hosts
            .iter()
            .map(|host| tcp_retrans_segs(host))
            .sum::<Result<u64>>()
    };
    let before = retransmits()?;
    let traffic = [Family::V4, Family::V6].map(|family| Traffic::start(&lab, family));
    let mut flips: Vec<Flip> = Vec::new();
    let mut color = Color::Blue;
    for _ in 0..FLIPS {
        let since = flips.last().copied().unwrap_or(Flip {
            started: Instant::now(),
            returned: Instant::now(),
            to: color,
        });
        traffic.iter().try_for_each(|it| it.wait_for_fresh(since))?;
        color = color.other();
        flips.push(node.flip(&["web", "stream", "datagram"], color)?);
    }
    let last = flips[FLIPS - 1];
    traffic.iter().try_for_each(|it| it.wait_for_fresh(last))?;
    let finished = traffic.map(Traffic::finish);
    let resent = retransmits()? - before;
    for family in &finished {
        family.check(&flips)?;
        ensure!(
            mixes(family, &flips) == 0,
            "{:?}: a mix of colors",
            family.family
        );
    }
    report(&finished, &flips, resent);
    ensure!(node.packets("unpinned")? == 0, "packets without a pin");
    Ok(())
}

/// Figures for whoever reads the test's output; they decide nothing.
fn report(finished: &[Finished], flips: &[Flip], resent: u64) {
    let all: Vec<_> = finished.iter().flat_map(|it| &it.fresh[0].fresh).collect();
    let mut first: Vec<f64> = flips
        .iter()
        .filter_map(|flip| first_new_ms(all.iter().copied(), flip.started, flip.to))
        .collect();
    first.sort_by(f64::total_cmp);
    println!(
        "{} flips, {} fresh connections; first on the new color after {:.1} ms (median), {:.1} ms \
         (worst); {resent} TCP segments sent again",
        flips.len(),
        all.len(),
        first.get(first.len() / 2).copied().unwrap_or_default(),
        first.last().copied().unwrap_or_default(),
    );
}
