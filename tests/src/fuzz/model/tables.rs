//! The flow tables: what is unanswered, which the kernel may evict, and what is established.

use std::collections::HashMap;

use super::types::{Entry, Tuple};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// The LRU. It is made so large that it evicts nothing while the model is compared.
    Lru,
    /// The plain table.
    Established,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lru, Self::Established];
}

/// Entries that came into a table and went out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Inserted.
    pub inserted: u64,
    /// Removed.
    pub removed: u64,
}

/// One table of both families.
#[derive(Clone, Debug, Default)]
struct Half {
    entries: HashMap<Tuple, Entry>,
    /// Entries that each family, IPv4 and IPv6, has room for.
    room: [usize; 2],
    used: [usize; 2],
    moves: [Moves; 2],
}

/// Both tables of both families.
#[derive(Clone, Debug)]
pub struct Tables {
    halves: [Half; 2],
    touched: Vec<Tuple>,
}

fn family(tuple: &Tuple) -> usize {
    usize::from(tuple.is_v6())
}

impl Half {
    fn add(&mut self, tuple: Tuple, entry: Entry) -> bool {
        let family = family(&tuple);
        if self.entries.contains_key(&tuple) || self.used[family] >= self.room[family] {
            return false;
        }
        self.used[family] += 1;
        self.entries.insert(tuple, entry);
        true
    }

    fn take(&mut self, tuple: &Tuple) -> Option<Entry> {
        let taken = self.entries.remove(tuple)?;
        self.used[family(tuple)] -= 1;
        Some(taken)
    }
}

impl Tables {
    /// Empty tables; `room` entries in each family's established one.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let half = |room| Half {
            room: [room; 2],
            ..Half::default()
        };
        Self {
            halves: [half(usize::MAX), half(room)],
            touched: Vec::new(),
        }
    }

    /// The entry of `tuple`, and where it is: established first.
    #[must_use]
    pub fn find(&self, tuple: &Tuple) -> Option<(Table, Entry)> {
        [Table::Established, Table::Lru]
            .into_iter()
            .find_map(|table| Some((table, self.get(table, tuple)?)))
    }

    /// The entry in one table.
    #[must_use]
    pub fn get(&self, table: Table, tuple: &Tuple) -> Option<Entry> {
        self.halves[table as usize].entries.get(tuple).copied()
    }

    /// The other direction's entry of the flow of `entry`, if it is there and belongs to it.
    #[must_use]
    pub fn other(&self, tuple: &Tuple, entry: &Entry) -> Option<(Table, Tuple, Entry)> {
        let at = tuple.other(entry);
        let (table, other) = self.find(&at)?;
        entry
            .belongs_to(tuple, &other)
            .then_some((table, at, other))
    }

    /// Changes an entry that is there.
    pub fn set(&mut self, table: Table, tuple: Tuple, entry: Entry) {
        self.touched.push(tuple);
        self.halves[table as usize].entries.insert(tuple, entry);
    }

    /// Puts an entry where there is none; `false`: there is one, or no room.
    pub fn insert(&mut self, table: Table, tuple: Tuple, entry: Entry) -> bool {
        self.touched.push(tuple);
        let half = &mut self.halves[table as usize];
        let is_new = half.add(tuple, entry);
        half.moves[family(&tuple)].inserted += u64::from(is_new);
        is_new
    }

    /// Takes an entry out of a table.
    pub fn remove(&mut self, table: Table, tuple: &Tuple) {
        self.touched.push(*tuple);
        let half = &mut self.halves[table as usize];
        let removed = half.take(tuple).is_some();
        half.moves[family(tuple)].removed += u64::from(removed);
    }

    /// Takes a flow out, both directions, wherever they are.
    pub fn forget(&mut self, tuple: &Tuple, entry: &Entry) {
        let other = self.other(tuple, entry).map(|(_, at, _)| at);
        for at in other.iter().chain([tuple]) {
            self.remove(Table::Established, at);
            self.remove(Table::Lru, at);
        }
    }

    /// As [`Self::insert`], by somebody else than the program.
    pub fn plant(&mut self, table: Table, tuple: Tuple, entry: Entry) -> bool {
        self.halves[table as usize].add(tuple, entry)
    }

    /// As [`Self::remove`], by somebody else than the program.
    pub fn evict(&mut self, tuple: &Tuple) {
        self.halves[Table::Lru as usize].take(tuple);
    }

    /// The keys that were written since the last call.
    pub fn take_touched(&mut self) -> Vec<Tuple> {
        std::mem::take(&mut self.touched)
    }

    /// All entries of a table.
    pub fn all(&self, table: Table) -> impl Iterator<Item = (&Tuple, &Entry)> {
        self.halves[table as usize].entries.iter()
    }

    /// What came and went, by table and family.
    #[must_use]
    pub fn moves(&self) -> [[Moves; 2]; 2] {
        self.halves.each_ref().map(|half| half.moves)
    }

    /// Makes every entry `ticks` older.
    pub fn age(&mut self, ticks: u32) {
        let entries = self
            .halves
            .iter_mut()
            .flat_map(|it| it.entries.values_mut());
        for entry in entries {
            entry.seen = entry.seen.wrapping_sub(ticks);
            entry.born = entry.born.wrapping_sub(ticks);
        }
    }

    /// Empties both.
    pub fn clear(&mut self) {
        for half in &mut self.halves {
            *half = Half {
                room: half.room,
                ..Half::default()
            };
        }
        self.touched.clear();
    }
}
