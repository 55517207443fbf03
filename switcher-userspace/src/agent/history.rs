//! The history: what has changed, who asked, and how it went; bounded, in memory and on disk.
//!
//! The file is a list of JSON lines that is only appended to, and now and then replaced by its end. It
//! is no source of truth: a line that a crash tore is left out.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::api::history::{HistoryEntry, MAX_ENTRIES};

/// Events that a slow reader may be behind before it has to look into the history again.
const MAX_EVENTS: usize = 256;

/// What readers see of the history.
pub(super) struct History {
    entries: Mutex<VecDeque<Arc<HistoryEntry>>>,
    events: broadcast::Sender<Arc<HistoryEntry>>,
}

impl History {
    /// A history that goes on after `entries`.
    pub(super) fn new(entries: Vec<HistoryEntry>) -> Self {
        let entries = entries.into_iter().map(Arc::new).collect();
        Self {
            entries: Mutex::new(entries),
            events: broadcast::channel(MAX_EVENTS).0,
        }
    }

    /// Number of the next entry.
    pub(super) fn next_number(&self) -> u64 {
        self.entries().back().map_or(1, |newest| newest.number + 1)
    }

    /// Shows an entry to readers.
    pub(super) fn publish(&self, entry: HistoryEntry) {
        let entry = Arc::new(entry);
        let mut entries = self.entries();
        if entries.len() >= MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
        // Nobody may be listening.
        let _ = self.events.send(entry);
    }

    /// The newest entries, the newest first, of one service or all.
    pub(super) fn newest(&self, service: Option<&str>, limit: usize) -> Vec<HistoryEntry> {
        let is_meant = |entry: &&Arc<HistoryEntry>| {
            service.is_none_or(|name| entry.services.iter().any(|it| it == name))
        };
        let entries = self.entries();
        let newest = entries.iter().rev().filter(is_meant).take(limit);
        newest.map(|entry| HistoryEntry::clone(entry)).collect()
    }

    /// Entries after `number`, and those that follow.
    pub(super) fn follow(
        &self,
        number: u64,
    ) -> (
        Vec<Arc<HistoryEntry>>,
        broadcast::Receiver<Arc<HistoryEntry>>,
    ) {
        // With the lock held, so that no entry is in neither of them.
        let entries = self.entries();
        let later = entries.iter().filter(|entry| entry.number > number);
        (later.cloned().collect(), self.events.subscribe())
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Arc<HistoryEntry>>> {
        // Nothing can panic half-way through a change of it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct HistoryFile {
    dir: PathBuf,
    /// Lines in it.
    lines: usize,
}

impl HistoryFile {
    /// Opens the history of `dir`, and reads its end.
    pub(super) fn open(dir: &Path) -> (Self, Vec<HistoryEntry>) {
        let mut file = Self {
            dir: dir.to_owned(),
            lines: 0,
        };
        let entries = match fs::read_to_string(file.path()) {
            Ok(text) => file.parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::error!(%error, file = %file.path().display(), "the history before this start is not shown");
                Vec::new()
            }
        };
        (file, entries)
    }

    fn path(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    fn parse(&mut self, text: &str) -> Vec<HistoryEntry> {
        self.lines = text.lines().count();
        let skip = self.lines.saturating_sub(MAX_ENTRIES);
        let lines = text.lines().skip(skip);
        let entries: Vec<HistoryEntry> = lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if entries.len() < self.lines - skip || !(text.is_empty() || text.ends_with('\n')) {
            tracing::warn!(file = %self.path().display(), "the history has lines that cannot be read, as a crash leaves one: they are left out");
            // What is appended must not become the rest of a torn line.
            self.lines = usize::MAX / 2;
        }
        entries
    }

    /// Appends `entries`, durable on return; `kept` are the newest ones, these included.
    pub(super) fn append(
        &mut self,
        entries: &[HistoryEntry],
        kept: &VecDeque<HistoryEntry>,
    ) -> io::Result<()> {
        if self.lines.saturating_add(entries.len()) > 2 * MAX_ENTRIES {
            return self.replace(kept);
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path())?;
        file.write_all(&lines(entries)?)?;
        file.sync_data()?;
        if self.lines == 0 {
            File::open(&self.dir)?.sync_all()?;
        }
        self.lines += entries.len();
        Ok(())
    }

    fn replace(&mut self, kept: &VecDeque<HistoryEntry>) -> io::Result<()> {
        let temporary = self.dir.join("history.jsonl.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&lines(kept)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        File::open(&self.dir)?.sync_all()?;
        self.lines = kept.len();
        Ok(())
    }
}

fn lines<'a>(entries: impl IntoIterator<Item = &'a HistoryEntry>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::history::What;

    fn entry(number: u64) -> HistoryEntry {
        HistoryEntry {
            number,
            at: "2026-01-01T00:00:00Z".to_owned(),
            what: What::Flip,
            services: vec![
                if number.is_multiple_of(2) {
                    "web"
                } else {
                    "api"
                }
                .to_owned(),
            ],
            by: None,
            reason: None,
            from_generation: number - 1,
            generation: number,
            active: BTreeMap::new(),
            drain: None,
            removed: Vec::new(),
            health: None,
            evidence: None,
            alarm: None,
            error: None,
        }
    }

    fn numbers(entries: &[HistoryEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn what_was_appended_is_read_again_and_the_file_stays_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut file, before) = HistoryFile::open(dir.path());
        assert!(before.is_empty());
        let mut kept = VecDeque::new();
        let last = 3 * MAX_ENTRIES as u64;
        for number in 1..=last {
            kept.push_back(entry(number));
            if kept.len() > MAX_ENTRIES {
                kept.pop_front();
            }
            file.append(&[entry(number)], &kept).expect("appended");
        }
        let text = fs::read_to_string(file.path()).expect("the file");
        assert!(text.lines().count() <= 2 * MAX_ENTRIES);
        let (_, again) = HistoryFile::open(dir.path());
        assert_eq!(again, kept.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_a_crash_tore_is_left_out_and_harms_no_later_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut file, _) = HistoryFile::open(dir.path());
        let two = VecDeque::from([entry(1), entry(2)]);
        file.append(&[entry(1), entry(2)], &two).expect("appended");
        let whole = fs::read(file.path()).expect("the file");
        for cut in 1..whole.len() / 2 {
            fs::write(file.path(), &whole[..whole.len() - cut]).expect("cut");
            let (mut file, left) = HistoryFile::open(dir.path());
            assert!(
                left.len() <= 2 && numbers(&left).starts_with(&[1]),
                "{cut}: {left:?}"
            );
            let mut kept: VecDeque<_> = left.into();
            kept.push_back(entry(3));
            file.append(&[entry(3)], &kept).expect("appended");
            let (_, again) = HistoryFile::open(dir.path());
            assert_eq!(again, kept.into_iter().collect::<Vec<_>>(), "{cut}");
        }
    }

    #[test]
    fn readers_see_the_newest_first_and_miss_nothing_that_follows() {
        let history = History::new(vec![entry(1), entry(2)]);
        assert_eq!(history.next_number(), 3);
        let (later, mut follows) = history.follow(1);
        assert_eq!(later.iter().map(|it| it.number).collect::<Vec<_>>(), [2]);
        history.publish(entry(3));
        assert_eq!(follows.try_recv().map(|it| it.number), Ok(3));
        assert_eq!(numbers(&history.newest(None, 2)), [3, 2]);
        assert_eq!(numbers(&history.newest(Some("api"), 9)), [3, 1]);
        for number in 4..=2 * MAX_ENTRIES as u64 {
            history.publish(entry(number));
        }
        assert_eq!(history.newest(None, usize::MAX).len(), MAX_ENTRIES);
    }
}
