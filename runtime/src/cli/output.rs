//! Standard output: the only place that writes to it.
//!
//! A result is a document (JSON) or lines and tables (for people). A table is drawn on a terminal;
//! in a pipe it is a line of tab-separated values for each row, with the column names first.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use comfy_table::{CellAlignment, ContentArrangement, presets};
use serde::Serialize;

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 128 << 10;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables and lines.
    #[default]
    Table,
    /// One JSON document, or one object a line.
    Json,
}

/// Why nothing can be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Whoever read the output has closed it, as `head` does.
    #[error("standard output is closed")]
    Closed,
    /// Another failure, such as a full disk.
    #[error("cannot write to standard output: {0}")]
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Standard output, buffered.
pub(super) struct Output {
    format: Format,
    is_terminal: bool,
    writer: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Takes standard output.
    pub(super) fn new(format: Format) -> Self {
        let stdout = io::stdout();
        Self {
            format,
            is_terminal: stdout.is_terminal(),
            writer: BufWriter::with_capacity(BUFFER_BYTES, stdout.lock()),
        }
    }

    /// How results are written.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Whether people read it.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes the result of a command: `document` as JSON, or what `text` writes.
    pub(super) fn result<T: Serialize>(
        &mut self,
        document: &T,
        text: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self.format {
            Format::Json => self.document(document),
            Format::Table => text(self),
        }
    }

    /// Writes a JSON document: over several lines on a terminal, in one line in a pipe.
    fn document<T: Serialize>(&mut self, document: &T) -> Result<(), Error> {
        let written = match self.is_terminal {
            true => serde_json::to_writer_pretty(&mut self.writer, document),
            false => serde_json::to_writer(&mut self.writer, document),
        };
        written.map_err(io::Error::from)?;
        self.write(b"\n")
    }

    /// Writes a line.
    pub(super) fn line(&mut self, text: impl Display) -> Result<(), Error> {
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// Writes a table.
    pub(super) fn table(&mut self, table: &Table) -> Result<(), Error> {
        match self.is_terminal {
            true => self.line(table.drawn(table.len())),
            false => Ok(self.writer.write_all(table.separated().as_bytes())?),
        }
    }

    /// Writes a table, or a sentence in the place of an empty one on a terminal.
    pub(super) fn table_or(&mut self, table: &Table, empty: &str) -> Result<(), Error> {
        match self.is_terminal && table.is_empty() {
            true => self.line(empty),
            false => self.table(table),
        }
    }

    /// Writes names and values, one pair a line: aligned on a terminal, tab-separated in a pipe.
    pub(super) fn fields(&mut self, fields: &[(&str, String)]) -> Result<(), Error> {
        for (name, value) in fields {
            match self.is_terminal {
                true => self.line(format_args!("{name:<26} {value}"))?,
                false => self.line(format_args!("{name}\t{value}"))?,
            }
        }
        Ok(())
    }

    /// Writes bytes as they are.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.writer.write_all(bytes)?)
    }

    /// Hands everything written so far to the reader.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        Ok(self.writer.flush()?)
    }

    /// A size: readable on a terminal, digits in a pipe.
    pub(super) fn bytes(&self, bytes: u64) -> String {
        match self.is_terminal {
            true => indicatif::BinaryBytes(bytes).to_string(),
            false => bytes.to_string(),
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Text, aligned to the left.
    Text(&'static str),
    /// A number, aligned to the right.
    Number(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Text(name) | Self::Number(name) => name,
        }
    }
}

/// Rows under named columns.
#[derive(Debug)]
pub(super) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(columns: &'static [Column]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row: one cell for each column.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there are no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The lines of the table as a terminal shows it, with its first `rows` rows.
    pub(super) fn drawn_lines(&self, rows: usize) -> Vec<String> {
        let drawn = self.drawn(rows).to_string();
        drawn.lines().map(str::to_owned).collect()
    }

    fn drawn(&self, rows: usize) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::UTF8_BORDERS_ONLY.with_rounded_corners())
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(self.columns.iter().map(|column| column.name()))
            .add_rows(self.rows.iter().take(rows));
        for (drawn, column) in table.column_iter_mut().zip(self.columns) {
            if matches!(column, Column::Number(_)) {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn separated(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|column| column.name()).collect();
        let mut text = names.join("\t");
        text.push('\n');
        for row in &self.rows {
            text.push_str(&row.join("\t"));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[Column::Text("topic"), Column::Number("records")]);
        table.row(["flights".to_owned(), "7".to_owned()]);
        table.row(["a".to_owned(), "12345678".to_owned()]);
        table
    }

    #[test]
    fn in_a_pipe_a_row_is_a_line_of_tab_separated_values() {
        assert_eq!(
            table().separated(),
            "topic\trecords\nflights\t7\na\t12345678\n"
        );
    }

    #[test]
    fn on_a_terminal_numbers_stand_under_each_other() {
        let drawn = table().drawn(2).to_string();
        assert!(drawn.contains("       7 "), "{drawn}");
        assert!(drawn.contains("12345678 "), "{drawn}");
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_failures() {
        assert!(matches!(
            Error::from(io::Error::from(io::ErrorKind::BrokenPipe)),
            Error::Closed
        ));
        assert!(matches!(
            Error::from(io::Error::from(io::ErrorKind::StorageFull)),
            Error::Io(_)
        ));
    }
}
