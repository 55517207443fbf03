//! What goes into the history, and when readers see it.

use std::collections::VecDeque;

use switcher_common::service::PerColor;

use super::{Core, errors::not_durable};
use crate::{
    agent::{clock, view::drain_status},
    api::{
        history::{EvidenceEntry, HistoryEntry, SideEntry, What, Who},
        instant,
        requests::ChangeRequest,
        types::ApiError,
    },
    failover::Evidence,
    switching::DrainEnded,
};

/// What one change was about.
pub(super) struct Deed {
    pub(super) what: What,
    pub(super) services: Vec<String>,
    pub(super) by: Option<Who>,
    pub(super) reason: Option<String>,
    pub(super) from_generation: u64,
}

/// Entries that wait until the disk has answered for their state, or is too slow.
#[derive(Default)]
pub(in crate::agent) struct Recorded(VecDeque<(u64, HistoryEntry)>);

impl Core {
    /// An entry about what is so now.
    pub(super) fn entry(&mut self, deed: Deed, error: Option<ApiError>) -> HistoryEntry {
        let number = self.next_entry;
        self.next_entry += 1;
        let active = |name: &String| Some((name.clone(), self.board.services.get(name)?.active));
        HistoryEntry {
            number,
            at: instant::format(clock::wall(clock::now())),
            what: deed.what,
            active: deed.services.iter().filter_map(active).collect(),
            services: deed.services,
            by: deed.by,
            reason: deed.reason,
            from_generation: deed.from_generation,
            generation: self.board.generation,
            drain: None,
            removed: Vec::new(),
            health: None,
            evidence: None,
            alarm: None,
            error,
        }
    }

    /// An entry for each drain that has ended.
    pub(super) fn entries_of_drains(&mut self, ended: &[DrainEnded]) -> Vec<HistoryEntry> {
        let now = clock::now();
        let mut entries = Vec::new();
        for drain in ended {
            let deed = Deed {
                what: What::DrainEnded,
                services: vec![drain.service.clone()],
                by: None,
                reason: None,
                from_generation: self.board.generation,
            };
            let service = self.board.services.get(&drain.service);
            let receipt = service.and_then(|service| service.drain.clone());
            let mut entry = self.entry(deed, None);
            entry.drain = receipt.map(|receipt| drain_status(&drain.service, &receipt, now));
            entries.push(entry);
        }
        entries
    }

    /// Hands the state to the disk, with what has led to it; its number.
    pub(super) fn save(&mut self, entries: Vec<HistoryEntry>) -> u64 {
        if self.written == self.writer.newest() {
            self.owed_since = clock::boot_ms();
        }
        let number = self.writer.write(&self.board, &entries);
        let numbered = entries.into_iter().map(|entry| (number, entry));
        self.recorded.0.extend(numbered);
        number
    }

    /// Shows the entries of all states up to `number`, which the disk has, unless there is an `error`.
    pub(super) fn publish_entries(&mut self, number: u64, error: Option<&ApiError>) {
        let is_shown = |(of, _): &mut (u64, HistoryEntry)| *of <= number;
        while let Some((_, mut entry)) = self.recorded.0.pop_front_if(is_shown) {
            if let Some(error) = error {
                let is_configuration = entry.what == What::Apply;
                entry
                    .error
                    .get_or_insert_with(|| not_durable(is_configuration, error));
            }
            self.history.publish(entry);
        }
    }
}

/// What a request asks for, as the history calls it.
pub(super) const fn what(request: &ChangeRequest) -> What {
    match request {
        ChangeRequest::Flip(_) => What::Flip,
        ChangeRequest::Rollback(_) => What::Rollback,
        ChangeRequest::Confirm(_) => What::Confirm,
        ChangeRequest::Split(_) => What::Split,
        ChangeRequest::Promote(_) => What::Promote,
        ChangeRequest::Abort(_) => What::Abort,
        ChangeRequest::Pause(_) => What::Pause,
        ChangeRequest::Resume(_) => What::Resume,
        ChangeRequest::ExtendDrain(_) => What::ExtendDrain,
        ChangeRequest::FinishDrain(_) => What::FinishDrain,
        ChangeRequest::DrainBackend(_) => What::DrainBackend,
        ChangeRequest::ResumeBackend(_) => What::ResumeBackend,
        ChangeRequest::EnableFailover(_) => What::FailoverEnabled,
        ChangeRequest::DisableFailover(_) => What::FailoverDisabled,
        ChangeRequest::Drill(_) => What::Drill,
    }
}

/// What a decision was made on, as the history tells it.
pub(super) fn told(evidence: &Evidence) -> EvidenceEntry {
    EvidenceEntry {
        cause: evidence.cause,
        active: evidence.active,
        sides: PerColor::from_fn(|color| {
            let side = evidence.sides.get(color);
            SideEntry {
                fitness: side.fitness,
                since_at: instant::format(clock::wall(side.since)),
                listener: side.listener.clone(),
            }
        }),
    }
}
