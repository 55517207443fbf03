//! Giving out ids.

use super::super::error::DataPathError;

/// Ids from 1 on that are in use; the lowest free one is given out next.
pub(super) struct Ids {
    taken: Vec<bool>,
    /// No id below it is free. Ids are never given back.
    lowest: u32,
    limit: u32,
    what: &'static str,
}

impl Ids {
    /// Ids up to `limit`, which the configuration calls `what`.
    pub(super) fn new(limit: u32, what: &'static str) -> Self {
        Self {
            taken: Vec::new(),
            lowest: 1,
            limit,
            what,
        }
    }

    /// Takes an id that is in use already.
    pub(super) fn take(&mut self, id: u32) {
        *super::at(&mut self.taken, id, false) = true;
    }

    /// Gives out the lowest id that is free.
    pub(super) fn claim(&mut self) -> Result<u32, DataPathError> {
        let is_taken = |id: u32| self.taken.get(id as usize).copied().unwrap_or(false);
        while is_taken(self.lowest) {
            self.lowest += 1;
        }
        if self.lowest > self.limit {
            return Err(DataPathError::Full {
                what: self.what,
                limit: self.limit,
            });
        }
        self.take(self.lowest);
        Ok(self.lowest)
    }
}
