//! Tables for people.

use std::fmt::{self, Display, Write as _};

/// A table: the first column names its row.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// What it is about, with the unit.
    pub(crate) title: String,
    /// Heads of the columns, the first one's too.
    pub(crate) heads: Vec<String>,
    /// The cells, as many in each row as there are heads.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows yet.
    pub(crate) fn new<T: Into<String>>(
        title: impl Into<String>,
        heads: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            title: title.into(),
            heads: heads.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub(crate) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().chain([&self.heads]);
        let widths = cells.filter_map(|row| row.get(column).map(|cell| cell.chars().count()));
        widths.max().unwrap_or(0)
    }
}

impl Display for Table {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "{}", self.title)?;
        for row in [&self.heads].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = self.width(column);
                if column == 0 {
                    write!(line, "  {cell:<width$}")?;
                } else {
                    write!(line, "  {cell:>width$}")?;
                }
            }
            writeln!(to, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new("cost, ns", ["", "min", "median"]);
        table.row(["tcp4", "1", "22"]);
        table.row(["a longer name", "333333", "4"]);
        assert_eq!(
            table.to_string(),
            "cost, ns\n\
             \x20                   min  median\n\
             \x20 tcp4                1      22\n\
             \x20 a longer name  333333       4\n"
        );
    }
}
