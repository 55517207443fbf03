//! Room for Maglev tables among the slots.

use std::collections::BTreeSet;

use switcher_common::service::TableRange;

use super::super::error::DataPathError;

/// Ranges of slots that nobody uses.
pub(super) struct Gaps {
    /// Length and start, so that the smallest gap that is large enough is found first.
    free: BTreeSet<(u32, u32)>,
    limit: u32,
}

impl Gaps {
    /// What `used` leaves of `limit` slots.
    pub(super) fn between(used: impl Iterator<Item = TableRange>, limit: u32) -> Self {
        let mut used: Vec<_> = used.filter(|range| range.len > 0).collect();
        used.sort_unstable();
        let mut free = BTreeSet::new();
        let mut start = 0;
        for range in used {
            if range.start > start {
                free.insert((range.start - start, start));
            }
            start = start.max(range.start.saturating_add(range.len));
        }
        if limit > start {
            free.insert((limit - start, start));
        }
        Self { free, limit }
    }

    /// Takes the beginning of the smallest gap that is large enough.
    pub(super) fn place(&mut self, len: usize) -> Result<TableRange, DataPathError> {
        if len == 0 {
            return Ok(TableRange::default());
        }
        let full = DataPathError::Full {
            what: "maglev_slots",
            limit: self.limit,
        };
        let Ok(len) = u32::try_from(len) else {
            return Err(full);
        };
        let Some(&gap) = self.free.range((len, 0)..).next() else {
            return Err(full);
        };
        self.free.remove(&gap);
        let (room, start) = gap;
        if room > len {
            self.free.insert((room - len, start + len));
        }
        Ok(TableRange { start, len })
    }
}
