//! What the records say about each flip.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;
use switcher_common::service::{Color, Protocol};
use switcher_tests::{
    lab::Family,
    traffic::{Flip, Fresh, count_fresh, first_new_ms, late_old, mixed},
};

use crate::{
    load::{Kind, Record},
    plan::Service,
    show::Flipped,
};

/// Everything that was seen.
pub(crate) struct Evidence {
    pub(crate) records: Vec<Record>,
    pub(crate) flips: Vec<Flipped>,
    /// When the load began.
    pub(crate) started: Instant,
    /// When the load was told to end.
    pub(crate) stopped: Instant,
    /// TCP segments that were sent again.
    pub(crate) retransmitted: u64,
    /// Packets that the lab's links dropped.
    pub(crate) link_drops: u64,
    /// Packets by verdict and reason.
    pub(crate) verdicts: BTreeMap<String, u64>,
    pub(crate) interrupted: bool,
    /// Why the show ended early.
    pub(crate) error: Option<String>,
}

/// An IP version and a protocol, as they are named in the report.
pub(crate) const NAMES: [(Family, Protocol, &str); 4] = [
    (Family::V4, Protocol::Tcp, "tcp_ipv4"),
    (Family::V6, Protocol::Tcp, "tcp_ipv6"),
    (Family::V4, Protocol::Udp, "udp_ipv4"),
    (Family::V6, Protocol::Udp, "udp_ipv6"),
];

/// One flip as the clients saw it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FlipReport {
    pub(crate) to: &'static str,
    /// From the start of the command to its end.
    pub(crate) command_ms: f64,
    /// In the agent, from the request to the store.
    pub(crate) visible_us: u64,
    /// In the agent, from the request to the end of the barrier.
    pub(crate) barrier_us: u64,
    /// From the start of the command to the first answer by the new color over a new connection.
    pub(crate) first_new_ms: Option<f64>,
    /// The same for each IP version and protocol.
    pub(crate) first_new_ms_by_kind: BTreeMap<&'static str, Option<f64>>,
    pub(crate) drain_ms: BTreeMap<Service, u64>,
    /// New flows on the new color from the end of this flip to the start of the next one.
    pub(crate) new_flows: BTreeMap<&'static str, u64>,
}

impl Evidence {
    /// Fresh connections and flows of the records that `wanted` picks.
    fn fresh<'a>(
        &'a self,
        wanted: impl Fn(&Record) -> bool + Copy + 'a,
    ) -> impl Iterator<Item = &'a Fresh> + Clone {
        let records = self.records.iter().filter(move |record| wanted(record));
        records.flat_map(|record| record.stats.fresh.iter())
    }

    fn flips(&self) -> Vec<Flip> {
        self.flips.iter().map(|it| it.flip).collect()
    }

    /// Adds up a number of the records of some kinds.
    pub(crate) fn sum(&self, kinds: &[Kind], number: impl Fn(&Record) -> u64) -> u64 {
        let records = self
            .records
            .iter()
            .filter(|it| kinds.contains(&it.source.kind));
        records.map(number).sum()
    }

    /// Connections and flows that began after a flip had returned, yet got the old color.
    pub(crate) fn late_old(&self) -> usize {
        late_old(self.fresh(|_| true), &self.flips())
    }

    /// Connections on the old color of any service, of a client that the new color of any had
    /// served before.
    pub(crate) fn mixed(&self) -> usize {
        let of = |client: usize| {
            let flips = self.flips.iter().enumerate().map(move |(index, it)| {
                let fresh: Vec<Fresh> = self.fresh_of_client(client);
                mixed(&fresh, it.flip, self.next_flip(index))
            });
            flips.sum::<usize>()
        };
        of(0) + of(1)
    }

    fn fresh_of_client(&self, client: usize) -> Vec<Fresh> {
        let records = self.records.iter().filter(|it| it.source.client == client);
        records
            .flat_map(|it| it.stats.fresh.iter().copied())
            .collect()
    }

    fn next_flip(&self, index: usize) -> Option<Instant> {
        self.flips.get(index + 1).map(|it| it.flip.started)
    }

    /// Each flip.
    pub(crate) fn flip_reports(&self) -> Vec<FlipReport> {
        self.flips
            .iter()
            .enumerate()
            .map(|(index, it)| self.flip_report(index, it))
            .collect()
    }

    fn flip_report(&self, index: usize, it: &Flipped) -> FlipReport {
        let Flip {
            started,
            returned,
            to,
        } = it.flip;
        let by_kind = NAMES.map(|(family, protocol, name)| {
            let kind = self
                .fresh(|_| true)
                .filter(move |it| (it.family, it.protocol) == (family, protocol));
            (name, first_new_ms(kind, started, to).map(rounded))
        });
        let until = self.next_flip(index).unwrap_or(self.stopped);
        FlipReport {
            to: to.name(),
            command_ms: rounded((returned - started).as_secs_f64() * 1e3),
            visible_us: it.visible_us,
            barrier_us: it.barrier_us,
            first_new_ms: first_new_ms(self.fresh(is_web), started, to).map(rounded),
            first_new_ms_by_kind: by_kind.into(),
            drain_ms: it.drain_ms.clone(),
            new_flows: self.new_flows(returned, until, to),
        }
    }

    /// New flows on `color` in a span of time.
    pub(crate) fn new_flows(
        &self,
        from: Instant,
        until: Instant,
        color: Color,
    ) -> BTreeMap<&'static str, u64> {
        let counts = count_fresh(self.fresh(|_| true), from, until);
        let of = |(family, protocol, name)| {
            (
                name,
                counts.get(&(family, protocol, color)).copied().unwrap_or(0),
            )
        };
        NAMES.map(of).into()
    }

    /// From `connect()` to the end of the answer, over all new HTTP connections, shortest first.
    pub(crate) fn new_connection_ms(&self) -> Vec<f64> {
        let took = self
            .fresh(is_web)
            .map(|it| (it.answered - it.began).as_secs_f64() * 1e3);
        let mut took: Vec<f64> = took.collect();
        took.sort_by(f64::total_cmp);
        took
    }

    /// Long-lived connections that carried no answer after the last flip, broken ones left out.
    pub(crate) fn silent(&self) -> usize {
        let Some(last) = self.flips.last() else {
            return 0;
        };
        let connections = self.records.iter().flat_map(|it| &it.stats.connections);
        let alive = connections.filter(|it| it.broken.is_none());
        alive
            .filter(|it| it.last_answer.is_none_or(|at| at <= last.flip.returned))
            .count()
    }
}

fn is_web(record: &Record) -> bool {
    record.source.kind.service() == Service::Web
}

/// Two decimals say more than the clocks know.
pub(crate) fn rounded(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}
