//! The line of a part of the file.

use toml::de::{DeTable, DeValue};

/// One step from a part of the file to a part inside it.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Into a table.
    Key(&'static str),
    /// Into an array, or an array of tables.
    Index(usize),
}

/// A parsed file that remembers where its parts are.
pub(super) struct Lines<'a> {
    /// The byte at which each line but the first begins.
    later_starts: Vec<usize>,
    root: Option<DeValue<'a>>,
}

impl<'a> Lines<'a> {
    /// Reads `text`; of a text that is not TOML no line is known.
    pub(super) fn of(text: &'a str) -> Self {
        let root = DeTable::parse(text).ok();
        Self {
            later_starts: text.match_indices('\n').map(|(at, _)| at + 1).collect(),
            root: root.map(|table| DeValue::Table(table.into_inner())),
        }
    }

    /// Number of the line, counted from 1, of what `steps` lead to; a part that the file does not
    /// spell out has the line of the innermost part around it that it does.
    pub(super) fn line_of(&self, steps: &[Step]) -> Option<usize> {
        let mut part = self.root.as_ref()?;
        let mut line = None;
        for step in steps {
            let inner = match *step {
                Step::Key(key) => part.get(key),
                Step::Index(index) => part.get(index),
            };
            let Some(inner) = inner else { break };
            line = Some(self.line_at(inner.span().start));
            part = inner.get_ref();
        }
        line
    }

    fn line_at(&self, byte: usize) -> usize {
        1 + self.later_starts.partition_point(|start| *start <= byte)
    }
}
