//! What the program's counters should have moved on by, since they were last read.

use std::collections::BTreeMap;

use switcher_common::reason::Reason;

use super::compare::{Difference, differs};
use super::kernel::Counts;
use crate::fuzz::model::types::{Outcome, Traffic};

/// Expected increments, on top of what was read.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    read: Counts,
    reasons: BTreeMap<&'static str, u64>,
    traffic: BTreeMap<usize, Traffic>,
    /// Packets since then.
    pub(super) packets: u32,
}

impl Ledger {
    /// From the counters as they are.
    pub(super) fn new(read: Counts) -> Self {
        Self {
            read,
            reasons: BTreeMap::new(),
            traffic: BTreeMap::new(),
            packets: 0,
        }
    }

    /// Expects what the model counts for a packet.
    pub(super) fn expect(&mut self, outcome: &Outcome) {
        self.packets += 1;
        for reason in outcome.notes.iter().chain([&outcome.reason]) {
            *self.reasons.entry(reason).or_default() += 1;
        }
        for ((service, color), traffic) in &outcome.traffic {
            let index = usize::from(*service) * 2 + usize::from(*color);
            self.traffic.entry(index).or_default().add(traffic);
        }
    }

    /// Compares with the counters as they are now, from which it goes on.
    pub(super) fn settle(&mut self, now: Counts) -> Result<(), Difference> {
        let before = std::mem::replace(self, Self::new(now));
        let reasons: BTreeMap<_, _> = Reason::ALL
            .iter()
            .map(|it| (it.name(), *it as usize))
            .map(|(name, at)| (name, self.read.0[at] - before.read.0[at]))
            // How much is reported depends on who reads it, and changes nothing else.
            .filter(|(name, count)| *count > 0 && *name != Reason::ReportLost.name())
            .collect();
        if reasons != before.reasons {
            return Err(differs("reasons", &reasons, &before.reasons));
        }
        let traffic: BTreeMap<_, _> = self
            .read
            .1
            .iter()
            .zip(&before.read.1)
            .map(|(now, before)| now.since(before))
            .enumerate()
            .filter(|(_, traffic)| *traffic != Traffic::default())
            .collect();
        if traffic != before.traffic {
            let what = "traffic by service and color";
            return Err(differs(what, &traffic, &before.traffic));
        }
        Ok(())
    }
}

impl Traffic {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.new_flows += other.new_flows;
        self.unpinned += other.unpinned;
        self.resets += other.resets;
        self.moved += other.moved;
        self.ended += other.ended;
        self.restored += other.restored;
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            new_flows: self.new_flows - before.new_flows,
            unpinned: self.unpinned - before.unpinned,
            resets: self.resets - before.resets,
            moved: self.moved - before.moved,
            ended: self.ended - before.ended,
            restored: self.restored - before.restored,
        }
    }
}
